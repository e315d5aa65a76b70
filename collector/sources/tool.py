"""Vendors' command-line tools: how one is run so that it can be missing, hang or fail without harm.

Without a shell, with a deadline, in the C locale. A recorded node has the tools' output in files instead
(`collector.recording`), and nothing is run.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from collector.sources.base import SourceUnavailable

DEADLINE_SECONDS = 10.0
EVERY_SECONDS = 15.0
"""How often a source that runs a tool is read: starting one costs tens of milliseconds of a core."""

Commands = Callable[[str, Sequence[str]], str]
"""Runs a tool by name with arguments and returns what it printed; raises SourceUnavailable."""


def live_commands(paths: Mapping[str, Path] | None = None, deadline_seconds: float = DEADLINE_SECONDS) -> Commands:
    """Return what runs tools on this machine: from `paths` (absolute) where the tool is named there, else from PATH."""
    known = paths or {}

    def run(tool: str, arguments: Sequence[str]) -> str:
        path = shutil.which(known[tool]) if tool in known else shutil.which(tool)
        if path is None:
            where = f"at {known[tool]}" if tool in known else "on PATH"
            raise SourceUnavailable(f"{tool}: there is no such program {where}")
        return _run([path, *arguments], tool, deadline_seconds)

    return run


def _run(command: Sequence[str], tool: str, deadline_seconds: float) -> str:
    # A session of its own, so that a tool's own children end with it: they would hold the pipe open.
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C", "LANG": "C"},
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise SourceUnavailable(f"{tool}: it cannot be started ({error.strerror})") from None
    try:
        output, complaint = process.communicate(timeout=deadline_seconds)
    except subprocess.TimeoutExpired:
        raise SourceUnavailable(f"{tool}: no answer within {deadline_seconds:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        last = (complaint.strip() or output.strip() or "nothing").splitlines()[-1]
        raise SourceUnavailable(f"{tool}: it failed with {process.returncode} and said: {last[:120]}")
    return output


def output_name(tool: str, arguments: Sequence[str]) -> str:
    """Return the name of the file that keeps a tool's output in a recording.

    >>> output_name("npu-smi", ["info", "-t", "usages"])
    'npu-smi info -t usages.txt'
    """
    return " ".join((tool, *arguments)).replace("/", "_") + ".txt"


def recorded_commands(folder: Path) -> Commands:
    """Return what gives the outputs that `folder` keeps instead of running anything."""

    def run(tool: str, arguments: Sequence[str]) -> str:
        try:
            return (folder / output_name(tool, arguments)).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            raise SourceUnavailable(f"{tool}: this recorded node has none") from None

    return run
