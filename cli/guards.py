"""What holds around a whole run: one at a time on a data folder, and an orderly end by signal."""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenstone.errors import Conflict


@contextmanager
def only_one(data: Path) -> Iterator[None]:
    """Hold the data folder: two runs at once would measure each other."""
    with (data / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Conflict(
                "another run is under way there", where=str(data), hint="wait for it, or use another --data"
            ) from error
        yield


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end us as Ctrl-C does: through every `finally`. A second one does not disturb that."""

    def interrupt(*_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """Let a signal that comes meanwhile work at the end of the block: no process is started that nobody knows of."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda arrived, _: came.append(arrived)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
