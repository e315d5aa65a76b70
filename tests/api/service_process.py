"""The real service in processes that begin where the imports end: forked from a server that has made them once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from api.main import serve
from api.settings import load_settings

_CONTEXT = multiprocessing.get_context("forkserver")
_UVICORN = ("lifespan.on", "loops.auto", "protocols.http.auto", "protocols.websockets.auto")
_CONTEXT.set_forkserver_preload(["api.main", "alembic.command", "psycopg", *(f"uvicorn.{name}" for name in _UVICORN)])


class ServiceProcess:
    """A service on `data`, by default on SQLite. `url` is where it answers."""

    def __init__(self, data: Path, database: str | None, environment: Mapping[str, str]) -> None:
        self._told, theirs = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, data, database, dict(environment)))
        self._process.start()
        theirs.close()
        assert self._told.poll(60), "the service did not become ready"
        self.url: str = self._told.recv()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """Kill it, if it is still there."""
        self._process.kill()

    def wait(self, seconds: float) -> int:
        """Wait for its end; return the exit code, or minus the signal's number."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, "the service does not end"
        return self._process.exitcode

    def ended_in_order(self) -> bool:
        """Whether it came to the end of its program. Call it once, after `wait`."""
        try:
            return bool(self._told.recv() == "ended")
        except EOFError:
            return False

    def close(self) -> None:
        """Kill it, and forget it."""
        self.kill()
        self.wait(30)
        self._told.close()


def _serve(told: Connection, data: Path, database: str | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    sys.stdin.close()
    serve(load_settings(port=0, data=data, database=database), on_ready=told.send)
    told.send("ended")
