"""Real processes: started with a mark in their environment, so that what they leave behind can be found."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

MARK = "TOKENSTONE_TEST_MARK"


class Started(subprocess.Popen[str]):
    """A process that is killed when its `with` block fails: waiting for it would hide the failure."""

    def __exit__(self, failure, *rest) -> None:
        if failure is not None:
            self.kill()
        super().__exit__(failure, *rest)


class Marked:
    """Starts `tokenstone` and finds every process that descends from it, whoever its parent is now."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(8)

    def start(self, *arguments: str) -> Started:
        return Started(
            [sys.executable, "-P", "-m", "cli", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            env={**os.environ, MARK: self.mark},
        )  # fmt: skip

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=170)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def alive(self) -> dict[int, str]:
        """Process id -> command line of the marked processes that still run."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # ended while we looked, or not ours
        return found

    def kill(self) -> None:
        """Kill whatever still runs."""
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    """Whether the condition becomes true within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read stderr until a line holds the text; fail if the process ends first."""
    seen = ""
    for line in process.stderr:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came; the process said: {seen}")
