"""Streams the events of a PyTorch profiler (Kineto, Chrome JSON) trace, plain or gzipped, a few megabytes at a time.

A trace is one object around one enormous array, so a piece of the file is no JSON by itself. A piece is therefore cut
behind an object that another object follows, and decoded as an array: only if the cut lies between two events, and not
inside a text or a nested list, is that array valid. If it is not, the next cut before it is tried.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from tokenstone.errors import InvalidFile

CHUNK_BYTES = 4 << 20
LARGEST_EVENT_BYTES = 64 << 20
"""A single event, header or nesting beyond this is refused: no profiler writes one."""

MOST_CUTS = 200
"""Cuts tried in one piece; lists of objects inside events are rare."""

_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_EVENTS = re.compile(rb'"traceEvents"\s*:\s*\[')
_BETWEEN = re.compile(rb"\}\s*,\s*(?=\{)")
_CLOSING = re.compile(rb"\}\s*(?=\])")
_SEPARATOR = re.compile(rb"[\s,]*")
_NO_NUMBER = re.compile(rb"(:\s*)[-+]?(?:nan|inf(?:inity)?)\b", re.IGNORECASE)
_WANT_PRETTY = "is it a PyTorch profiler trace (torch.profiler's export_chrome_trace)?"


class Arguments(msgspec.Struct, gc=False):
    """The arguments of an event that Tokenstone reads; a trace may hold many more."""

    correlation: Any = None
    device: Any = None
    stream: Any = None
    process_group: Any = msgspec.field(name="Process Group Name", default=None)
    process_group_ranks: Any = msgspec.field(name="Process Group Ranks", default=None)
    collective: Any = msgspec.field(name="Collective name", default=None)


class Event(msgspec.Struct, gc=False):
    """One event. `ts` and `dur` in microseconds; `ph` "X" is one with a duration."""

    ph: Any = ""
    cat: Any = ""
    name: Any = ""
    ts: Any = None
    dur: Any = None
    pid: Any = None
    args: Any = None


class _Typed(Event, gc=False):
    """What nearly all events are. Decoding into it skips unread arguments instead of building them."""

    args: Arguments | None = None


_typed = msgspec.json.Decoder(list[_Typed])
_loose = msgspec.json.Decoder(list[Event])
_arguments = msgspec.convert


class TraceReader:
    """Reads one file. Iterate `events` once; `header` is complete and `truncated` is known when it has ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] = {}
        """Everything of the file beside its events: device properties, rank and world size, clock base."""
        self.truncated = ""
        """Where and how the file breaks off; empty if it is whole."""
        self.read_events = 0

    def events(self) -> Iterator[list[Event]]:
        """Yield the events in batches. Raises InvalidFile where the file is no trace at all."""
        try:
            with _open(self.path) as file:
                yield from self._batches(_Source(file))
        except FileNotFoundError:
            raise InvalidFile("no such file", where=str(self.path), hint="name a trace file") from None
        except (IsADirectoryError, PermissionError) as error:
            raise InvalidFile(str(error.strerror), where=str(self.path), hint="name a readable trace file") from None

    def _batches(self, source: _Source) -> Iterator[list[Event]]:
        buffer = self._after_header(source)
        while True:
            batch, rest = self._split(buffer, ended=source.ended)
            if batch:
                self.read_events += len(batch)
                yield batch
            buffer = rest
            if source.ended and not batch:
                break
            if len(buffer) > LARGEST_EVENT_BYTES:
                raise InvalidFile(
                    f"one event after number {self.read_events:,} is longer than {LARGEST_EVENT_BYTES >> 20} MiB",
                    where=str(self.path), hint=_WANT_PRETTY,
                )  # fmt: skip
            buffer += source.read()
        self._take_trailer(buffer, source.broken)

    def _after_header(self, source: _Source) -> bytes:
        """Read up to the first event, keep what stood before; return what has been read beyond."""
        buffer = source.read()
        if not buffer.strip():
            raise InvalidFile("the file is empty" + source.broken, where=str(self.path), hint=_WANT_PRETTY)
        if buffer.lstrip()[:1] == b"[":  # the bare array that Chrome's format also allows
            return buffer.lstrip()[1:]
        if buffer.lstrip()[:1] != b"{":
            raise InvalidFile("not a JSON file", where=str(self.path), hint=_WANT_PRETTY)
        while True:
            for match in _EVENTS.finditer(buffer):
                try:
                    header = msgspec.json.decode(_mended(buffer[: match.end()]) + b"]}")
                except _UNREADABLE:
                    continue  # the words stand inside a text or deeper down
                header.pop("traceEvents")
                self.header.update(header)
                return buffer[match.end() :]
            if source.ended or len(buffer) > LARGEST_EVENT_BYTES:
                raise InvalidFile("there is no list of traceEvents", where=str(self.path), hint=_WANT_PRETTY)
            buffer += source.read()

    def _split(self, buffer: bytes, *, ended: bool) -> tuple[list[Event], bytes]:
        """Decode as many whole events from the front of `buffer` as can be; return them and the rest."""
        start = _SEPARATOR.match(buffer).end()  # type: ignore[union-attr]  # it matches the empty text too
        if ended:  # no event follows the last one, but the end of the array may; or the file breaks off
            ends = [match.start() + 1 for match in islice(_CLOSING.finditer(buffer, start), MOST_CUTS)]
            for cut in [*ends, buffer.rfind(b"}", start) + 1]:
                if cut > start and (batch := _decode(buffer[start:cut])) is not None:
                    return batch, buffer[cut:]
        reach = 1 << 16
        tried: set[int] = set()
        while True:
            window = max(start, len(buffer) - reach)
            for match in reversed(list(_BETWEEN.finditer(buffer, window))):
                cut = match.start() + 1
                if cut in tried:
                    continue
                tried.add(cut)
                if (batch := _decode(buffer[start:cut])) is not None:
                    return batch, buffer[match.end() :]
            if window == start or len(tried) > MOST_CUTS:
                return [], buffer
            reach *= 8

    def _take_trailer(self, rest: bytes, broken: str) -> None:
        text = _mended(rest.strip().lstrip(b","))
        try:
            trailer = msgspec.json.decode(b'{"traceEvents":[' + text) if text != b"]" else {}
            trailer.pop("traceEvents", None)
            self.header.update(trailer)
        except (*_UNREADABLE, AttributeError):
            self.truncated = f"breaks off after event {self.read_events:,}{broken}"


def convert_arguments(event: Event) -> Arguments:
    """The arguments of an event, whatever form they have; empty where there are none."""
    args = event.args
    if isinstance(args, Arguments):
        return args
    if isinstance(args, dict):
        return _arguments(args, Arguments)
    return Arguments()


def _decode(array: bytes) -> list[Event] | None:
    """Decode the inside of an array of events; None where it is no such thing."""
    text = b"[" + array + b"]"
    try:
        return _typed.decode(text)  # type: ignore[return-value]  # a list of a subclass, only read
    except msgspec.ValidationError:
        pass  # sound JSON, with an odd event among it
    except _UNREADABLE:
        mended = _mended(text)
        if mended == text:
            return None
        text = mended
    try:
        return _loose.decode(text)
    except _UNREADABLE:
        return None


def _mended(text: bytes) -> bytes:
    """Profilers write `nan` and `inf`, and bytes of foreign alphabets, which JSON knows not."""
    text = _NO_NUMBER.sub(rb"\1null", text)
    try:
        text.decode()
    except UnicodeDecodeError:
        text = text.decode(errors="replace").encode()
    return text


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    with path.open("rb") as file:
        magic = file.read(2)
    return gzip.open(path, "rb") if magic == b"\x1f\x8b" else path.open("rb")


class _Source:
    """The file in pieces. A gzip that breaks off ends early, and `broken` says so."""

    def __init__(self, file: gzip.GzipFile | io.BufferedReader) -> None:
        self._read: Callable[[int], bytes] = file.read1  # keeps what comes before damage
        self.ended = False
        self.broken = ""

    def read(self) -> bytes:
        """The next piece; empty at the end."""
        try:
            piece = b"" if self.ended else self._read(CHUNK_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            piece, self.broken = b"", f" (its compression is damaged: {error})"
        self.ended = len(piece) == 0
        return piece
