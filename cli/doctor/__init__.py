"""`tokenstone doctor`: what works on this node, what does not and why. One check per file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonFlag, print_json


def command(
    root: Annotated[Path, typer.Option("--root", help="Folder that stands for /.")] = Path("/"),
    data: Annotated[Path, typer.Option("--data", help="Data folder.")] = Path("tokenstone-data"),
    json: JsonFlag = False,
) -> None:
    """Check this node: what works, what does not, why, and what to do. Exit code 1 if a needed part fails."""
    from cli.doctor.registry import run_checks  # noqa: PLC0415

    findings = run_checks(root=root, data=data)
    failed = any(finding.status == "fails" for finding in findings)
    if json:
        print_json({"ok": not failed, "checks": [finding.as_json() for finding in findings]})
    else:
        colours = {"works": typer.colors.GREEN, "absent": typer.colors.YELLOW, "fails": typer.colors.RED}
        for finding in findings:
            typer.echo(
                f"{typer.style(f'{finding.status:<7}', fg=colours[finding.status])} {finding.check:<24} {finding.text}"
            )
            if finding.hint:
                typer.echo(f"{'':<32} {finding.hint}")
    if failed:
        raise typer.Exit(1)
