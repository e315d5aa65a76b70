"""A socket to listen on, ours before anything else is started: a port in use is known at once."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tokenstone.errors import InvalidValue, PortInUse


@contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there; raises PortInUse, or InvalidValue for an address that is not ours to use."""
    where = f"{host}:{port}"
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # asyncio does this for its own sockets only; accepted connections inherit it. Without, an answer waits 40 ms
        # for the acknowledgement of its own headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise PortInUse(
                "another program listens there", where=where, hint="choose another --port; 0 is any free one"
            ) from error
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise InvalidValue(f"cannot listen there: {reason}", where=where, hint="check --host and --port") from error
    with listener:
        yield listener


def url_of(listener: socket.socket, *, secure: bool = False) -> str:
    """The address under which clients on this machine reach the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
