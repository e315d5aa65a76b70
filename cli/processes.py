"""Child processes that cannot outlive us.

Each holds the reading end of a pipe as its stdin and ends when that closes; since only we hold the writing end,
even a parent that is killed takes its children along. Each has a session of its own, so that Ctrl-C in the
terminal reaches us alone and we end them in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tokenstone.errors import OperationError

_END = object()


class Child:
    """A part of Tokenstone in a process of its own: JSON lines come on stdout, its log goes to a file."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: list[str],
        log_dir: Path,
        *,
        launcher: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """`launcher` is put before the command line, such as "ip netns exec NAME"."""
        self.name = name
        self.log_path = log_dir / f"{name}.log"
        command = [*launcher, sys.executable, "-P", "-m", module, *arguments]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        self._lines: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  opened as a pipe above
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                self._lines.put(json.loads(line))
        self._lines.put(_END)

    def next_message(self, timeout: float) -> dict[str, Any] | None:
        """Return the next JSON line, or None after `timeout` seconds; raises EOFError when there will be none."""
        try:
            message = self._lines.get(timeout=timeout)
        except queue.Empty:
            return None
        if message is _END:
            self._lines.put(_END)
            raise EOFError
        return message if isinstance(message, dict) else None

    def first_message(self, timeout: float) -> dict[str, Any]:
        """Return the first JSON line, which says that the child is ready; raises OperationError."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self.next_message(left)
            except EOFError:
                self.wait(10)
                raise OperationError(self.last_words(), where=self.name, hint=f"its log is {self.log_path}") from None
            if message is not None:
                return message
        raise OperationError(f"not ready after {timeout:.0f} s", where=self.name, hint=f"its log is {self.log_path}")

    def last_words(self) -> str:
        """The last line of the log: with what a child that failed took its leave."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].removeprefix("tokenstone: ") if lines else f"ended with code {self._process.poll()}"

    def wait(self, timeout: float) -> int | None:
        """Wait for the end; return the exit code, or None if it goes on."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, timeout: float = 10.0) -> None:
        """End the child: ask, then insist."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            if self.wait(timeout) is None:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def end_with_stdin() -> None:
    """In a child: ask oneself to end, gracefully, when the parent's end of stdin closes."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
