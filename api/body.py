"""Request bodies: as long as the limit allows and no longer, also after decompression."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import zstandard
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem

_GZIP = 16 + zlib.MAX_WBITS


class BodyMiddleware:
    """Reads a body whole, within `limit_bytes`, and unpacks gzip or zstd; the application sees plain bytes."""

    def __init__(self, app: ASGIApp, *, limit_bytes: int) -> None:
        self._app, self._limit = app, limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        encoding = headers.get("content-encoding", "identity").strip().lower()
        answer: Response | None = None
        body = b""
        if encoding != "identity" and encoding not in _UNPACKERS:
            answer = problem(
                415,
                f"no support for content encoding {encoding[:40]!r}",
                where="header.Content-Encoding",
                headers={"Accept-Encoding": "gzip, zstd, identity"},
            )
        else:
            try:
                body = await self._read(receive, headers, _UNPACKERS.get(encoding))
            except _TooLong:
                answer = problem(
                    413, f"the body is longer than {self._limit:,} bytes", where="body", hint="send it in parts"
                )
            except (zlib.error, zstandard.ZstdError) as error:
                answer = problem(400, f"the body is not {encoding}: {error}", where="body")
            except ClientDisconnect:
                return
        if answer is not None:
            # What was not read would be taken for the next request.
            answer.headers["Connection"] = "close"
            await answer(scope, receive, send)
            return
        await self._app(_plain(scope, len(body)), _replayed(body, receive), send)

    async def _read(self, receive: Receive, headers: Headers, unpacker: Callable[[int], _Unpacker] | None) -> bytes:
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._limit:
            raise _TooLong
        unpack = unpacker(self._limit) if unpacker else None
        arrived, body, more = 0, bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
            arrived += len(chunk)
            body += unpack.feed(chunk) if unpack else chunk
            if max(arrived, len(body)) > self._limit:
                raise _TooLong
        if unpack and arrived:
            unpack.close()
        return bytes(body)


class _TooLong(Exception):
    """The body exceeds the limit."""


class _Gzip:
    """Unpacks one gzip stream; a bomb is noticed before it has grown beyond `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._member = zlib.decompressobj(_GZIP)

    def feed(self, chunk: bytes) -> bytes:
        plain = self._member.decompress(chunk, self._limit + 1)
        if self._member.unconsumed_tail:
            raise _TooLong
        if self._member.unused_data:
            raise zlib.error("something follows its end")
        return plain

    def close(self) -> None:
        if not self._member.eof:
            raise zlib.error("it ends too early")


class _Zstd:
    """Unpacks one zstd frame. A few bytes can stand for 128 kB, so that it is fed in small pieces and watched."""

    PIECE = 1024
    MOST_WINDOW = 2**23
    """What RFC 8878 asks every decoder to support, and as much memory as a frame may claim."""

    def __init__(self, limit: int) -> None:
        self._limit, self._grown = limit, 0
        self._frame = zstandard.ZstdDecompressor(max_window_size=self.MOST_WINDOW).decompressobj()

    def feed(self, chunk: bytes) -> bytes:
        parts = []
        for start in range(0, len(chunk), self.PIECE):
            if self._frame.eof:
                raise zstandard.ZstdError("something follows its end")
            parts.append(self._frame.decompress(chunk[start : start + self.PIECE]))
            self._grown += len(parts[-1])
            if self._grown > self._limit:
                raise _TooLong
        if self._frame.unused_data:
            raise zstandard.ZstdError("something follows its end")
        return b"".join(parts)

    def close(self) -> None:
        if not self._frame.eof:
            raise zstandard.ZstdError("it ends too early")


_Unpacker = _Gzip | _Zstd
_UNPACKERS: dict[str, type[_Gzip] | type[_Zstd]] = {"gzip": _Gzip, "zstd": _Zstd}


def _plain(scope: Scope, length: int) -> Scope:
    plain = {**scope, "headers": list(scope["headers"])}
    headers = MutableHeaders(scope=plain)
    if "content-encoding" in headers:
        del headers["content-encoding"]
        headers["content-length"] = str(length)
    return plain


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
