"""`/metrics`, `/-/healthy` and `/-/ready` over HTTP, on threads of their own."""

from __future__ import annotations

import errno
import socket
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from collector.exporter import CONTENT_TYPE, Exposition
from collector.listen import ListenAddress
from tokenstone.errors import InvalidValue, PortInUse

# How often it looks whether to stop, when nobody connects.
_POLL_SECONDS = 2.0
_PATHS = ("/metrics", "/-/healthy", "/-/ready")


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    protocol_version = "HTTP/1.1"
    """Prometheus keeps its connection: a new one, with a thread of its own, would cost more than the answer."""
    wbufsize = -1
    timeout = 90.0
    """A client that says nothing for longer is let go."""

    def do_GET(self) -> None:
        """Answer; what is not ready says why, with 503."""
        path = self.path.partition("?")[0]
        exposition = self.server.exposition
        if path not in _PATHS:
            self._answer(HTTPStatus.NOT_FOUND, f"try {', '.join(_PATHS)}\n".encode())
            return
        reason = exposition.unhealthy_reason() if path == "/-/healthy" else exposition.not_ready_reason()
        if reason is not None:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n".encode())
        else:
            self._answer(HTTPStatus.OK, exposition.body() if path == "/metrics" else b"ok\n")

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not worth a line each."""


class MetricsServer(ThreadingHTTPServer):
    """Serves an exposition. Raises PortInUse, or InvalidValue for an impossible address."""

    daemon_threads = True

    def __init__(self, listen: ListenAddress, exposition: Exposition) -> None:
        self.exposition = exposition
        self.address_family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        try:
            super().__init__((listen.host, listen.port), _Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    "another program listens there", where=str(listen), hint="stop it, or give another --listen"
                ) from None
            raise InvalidValue(
                f"cannot listen: {error.strerror}", where=str(listen), hint="give another --listen"
            ) from None
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_POLL_SECONDS,), name="tokenstone-metrics", daemon=True
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up amid the answer is nobody's concern."""

    def start(self) -> ListenAddress:
        """Begin to serve; return the address, with the port where any was asked for."""
        self._thread.start()
        host, port = self.server_address[:2]
        return ListenAddress(str(host), int(port))

    def stop(self) -> None:
        """Stop serving and free the port."""
        threading.Thread(target=self.shutdown, daemon=True).start()
        host, port = self.server_address[:2]
        with suppress(OSError):  # a connection wakes it up to see that it is to stop
            socket.create_connection((str(host), int(port)), timeout=1).close()
        self._thread.join()
        self.server_close()
