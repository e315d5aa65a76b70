"""The explicit list of checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from cli.doctor import accelerator, data_folder, extras, python, sources
from cli.doctor.finding import Finding, Node

CHECKS: tuple[Callable[[Node], Iterable[Finding]], ...] = (
    python.check,
    extras.check,
    data_folder.check,
    accelerator.check,
    sources.check,
)


def run_checks(*, root: Path, data: Path) -> list[Finding]:
    """Run every check. One that breaks is a finding, and the others go on."""
    node = Node(root, data)
    findings: list[Finding] = []
    for check in CHECKS:
        name = check.__module__.rpartition(".")[2]
        try:
            findings += check(node)
        except ModuleNotFoundError as error:
            hint = "see the extras above"
            findings.append(Finding(name, "absent", f"needs {error.name!r}, which is not installed", hint))
        except Exception as error:
            findings.append(Finding(name, "fails", f"the check itself failed: {error}"))
    return findings
