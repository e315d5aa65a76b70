"""End this process at once, quietly and with nothing half-written: on a signal, or when its parent is gone.

Both wait in a thread of their own. A Python signal handler would have to wait until torch or the tokenizer comes
back from a long call; a thread does not, since both release the interpreter.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from workloads.files import remove_partial_files

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def end_on_signals() -> None:
    """End on SIGTERM and SIGINT, with 128 + the signal's number. Call before any other thread is started."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _in_thread(lambda: _end(128 + signal.sigwait(_SIGNALS)))


def end_in_order() -> None:
    """For a server that handles signals itself: take them, also where the parent has blocked them for its children."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def end_with_stdin() -> None:
    """End, with 1, when stdin is closed: a parent that holds its other end takes this process along."""

    def wait() -> NoReturn:
        with suppress(OSError):  # a stdin that was never open is closed
            while os.read(0, 4096):
                pass
        _end(1)

    _in_thread(wait)


def ask_with_stdin() -> None:
    """Send ourselves SIGTERM when stdin is closed: for a server, which ends what is under way first."""

    def wait() -> NoReturn:
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
        raise AssertionError("the signal ends the process")

    _in_thread(wait)


def _in_thread(wait: Callable[[], NoReturn]) -> None:
    threading.Thread(target=wait, daemon=True).start()


def _end(code: int) -> NoReturn:
    remove_partial_files()
    os._exit(code)
