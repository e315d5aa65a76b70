"""A command of the user's, run as if we were not there: its stdio, its signals and its exit code are its own.

The command stays in our process group, so a terminal's Ctrl-C and Ctrl-Z reach it as they would without us; signals
that are sent to us alone are passed on. Nothing is read of what it prints, unless its tokens are to be found there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from tokenstone.errors import CommandNotExecutable, CommandNotFound, InvalidValue

_PASSED_ON = ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGALRM")
_BY_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_LAST_WORDS_SECONDS = 5.0
_LONGEST_LINE = 65_536


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the system knows of a command that has ended, its children that it waited for included."""

    exit_code: int
    """128 + n where signal n has ended it."""
    started_unix_seconds: float
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    tokens: int | None
    """What the last match of the pattern said."""


def check_command(command: Sequence[str]) -> None:
    """Raise CommandNotFound or CommandNotExecutable, as a shell would say 127 and 126."""
    name = command[0]
    if shutil.which(name) is not None:
        return
    candidates = [name] if os.sep in name else [os.path.join(folder, name) for folder in os.get_exec_path()]  # noqa: PTH118
    if any(os.path.exists(path) for path in candidates):  # noqa: PTH110
        raise CommandNotExecutable("is not executable", where=name, hint="check its permissions")
    raise CommandNotFound("command not found", where=name, hint="is it on the PATH?")


def token_pattern(text: str) -> re.Pattern[bytes]:
    """The pattern of --tokens-from; raises InvalidValue unless it has one group."""
    try:
        pattern = re.compile(text.encode())
    except re.error as error:
        raise InvalidValue(f"{text!r} is no pattern: {error}", where="--tokens-from") from error
    if pattern.groups != 1:
        raise InvalidValue(
            f"{text!r} has {pattern.groups} groups", where="--tokens-from",
            hint=r"put the number into one: 'tokens=(\d+)'",
        )  # fmt: skip
    return pattern


def run_bracketed(
    command: Sequence[str], environment: Mapping[str, str], pattern: re.Pattern[bytes] | None = None
) -> Outcome:
    """Run the command to its end. Raises CommandNotFound or CommandNotExecutable."""
    pipe = None if pattern is None else subprocess.PIPE
    began, began_unix = time.monotonic(), time.time()
    try:
        process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe)
    except FileNotFoundError as error:
        raise CommandNotFound("command not found", where=command[0], hint="its interpreter may be missing") from error
    except OSError as error:
        raise CommandNotExecutable(f"cannot be run: {error.strerror}", where=command[0]) from error
    with _passed_on(process.pid):
        readers = []
        if pattern is not None and process.stdout is not None and process.stderr is not None:
            readers = [_Reader(process.stdout.fileno(), 1, pattern), _Reader(process.stderr.fileno(), 2, pattern)]
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    for reader in readers:
        reader.join(_LAST_WORDS_SECONDS)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    found = [reader.tokens for reader in readers if reader.tokens is not None]
    memory = usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024
    cpu = usage.ru_utime + usage.ru_stime
    return Outcome(code, began_unix, wall, cpu, memory, max(found) if found else None)


@contextmanager
def _passed_on(pid: int) -> Iterator[None]:
    """Pass signals on to the command while the block runs."""
    at_terminal = sys.stdin is not None and sys.stdin.isatty()

    def pass_on(number: int, _: FrameType | None) -> None:
        if at_terminal and number in _BY_TERMINAL:
            return  # the terminal has sent it to the command as well
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    numbers = [getattr(signal, name) for name in _PASSED_ON if hasattr(signal, name)]
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Reader(threading.Thread):
    """Copies one stream as it comes, and looks for the tokens in its lines."""

    def __init__(self, source: int, target: int, pattern: re.Pattern[bytes]) -> None:
        super().__init__(daemon=True)
        self._source, self._target, self._pattern = os.dup(source), target, pattern
        self.tokens: int | None = None
        self.start()

    def run(self) -> None:
        rest = b""
        try:
            while data := os.read(self._source, 65_536):
                view = memoryview(data)
                while view:
                    view = view[os.write(self._target, view) :]
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._look(line)
                rest = rest[-_LONGEST_LINE:]
            self._look(rest)
        except OSError:
            pass  # who reads us has gone: the command learns it when we close the pipe
        finally:
            os.close(self._source)

    def _look(self, line: bytes) -> None:
        for match in self._pattern.finditer(line):
            with suppress(ValueError, OverflowError):
                self.tokens = int(float(match[1].replace(b",", b"").replace(b"_", b"")))
