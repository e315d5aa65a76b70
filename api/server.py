"""Runs the application with uvicorn on a socket that is ours already: a port in use is known before all else."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from fastapi import FastAPI

from api.log import configure_logging
from tokenstone.listen import url_of

GRACE_SECONDS = 10
"""How long requests under way may take once the service is asked to end."""
KEEP_ALIVE_SECONDS = 75

log = structlog.get_logger()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()


def run_server(app: FastAPI, listener: socket.socket, on_ready: Callable[[str], None] | None) -> None:
    """Serve until SIGINT or SIGTERM."""
    configure_logging()
    url = url_of(listener)

    def started() -> None:
        if on_ready is None:
            log.info("the service is ready", url=url)
        else:
            on_ready(url)

    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    server = _Server(config, started)
    with _ended_by_signals(server):
        server.run(sockets=[listener])


@contextmanager
def _ended_by_signals(server: _Server) -> Iterator[None]:
    """Let a signal end the server and no more: uvicorn raises it again after its own end, when all is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
