"""Runs the application with uvicorn on a socket that is ours already: a port in use is known before all else."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors.multiprocess import Multiprocess

from api.metrics import SHARED_BY
from api.settings import Settings
from tokenstone.errors import InvalidValue
from tokenstone.listen import url_of

GRACE_SECONDS = 10
"""How long requests under way may take once the service is asked to end."""
KEEP_ALIVE_SECONDS = 75
START_SECONDS = 60.0
"""How long a worker may take until it answers."""

log = structlog.get_logger()


def _config(app: Any, settings: Settings, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=settings.tls_certificate, ssl_keyfile=settings.tls_key, **more,
    )  # fmt: skip


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()


def run_server(
    app: FastAPI, listener: socket.socket, settings: Settings, on_ready: Callable[[str], None] | None
) -> None:
    """Serve until SIGINT or SIGTERM. Raises InvalidValue for a certificate that is none."""
    url = url_of(listener, secure=settings.tls_certificate is not None)
    config = _config(app, settings)
    _check_certificate(settings)
    server = _Server(config, lambda: _tell(url, on_ready))
    with _ended_by_signals(server):
        server.run(sockets=[listener])


def run_workers(
    make_app: Callable[[], FastAPI],
    listener: socket.socket,
    settings: Settings,
    on_ready: Callable[[str], None] | None,
) -> None:
    """Serve in several processes until SIGINT or SIGTERM; one that dies is replaced. `make_app` must be picklable."""
    url = url_of(listener, secure=settings.tls_certificate is not None)
    _check_certificate(settings)
    with tempfile.TemporaryDirectory(prefix="tokenstone-metrics-") as folder:
        os.environ[SHARED_BY] = folder
        try:
            supervisor = _Workers(_config(make_app, settings, factory=True, workers=settings.workers), [listener])
            supervisor.on_ready = lambda: _tell(url, on_ready)
            supervisor.run()
        finally:
            del os.environ[SHARED_BY]


class _Workers(Multiprocess):
    """Uvicorn's supervisor, which also says when all workers answer."""

    on_ready: Callable[[], None]

    def init_processes(self) -> None:
        super().init_processes()
        if all(process.wait_until_ready(START_SECONDS, self.should_exit) for process in self.processes):
            self.on_ready()


def _tell(url: str, on_ready: Callable[[str], None] | None) -> None:
    if on_ready is None:
        log.info("the service is ready", url=url)
    else:
        on_ready(url)


def _check_certificate(settings: Settings) -> None:
    """Read the certificate now, so that a wrong one is told as such."""
    if settings.tls_certificate is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidValue(
            f"not a certificate with its key: {error.strerror or error}",
            where=str(settings.tls_certificate),
            hint="give PEM files with --tls-certificate and --tls-key",
        ) from error


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
