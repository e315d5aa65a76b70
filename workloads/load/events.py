"""Server-sent events, as the WHATWG standard divides them, for as much as answers of language models use."""

from __future__ import annotations

from collections.abc import Iterator

_MOST_BYTES = 16 * 2**20


class EventBuffer:
    """Takes bytes as they come from the network and gives the data of each event once it is whole."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[bytes]:
        """Yield the data of each event that ends here. Raises ValueError for a line without end."""
        # A lone CR may be the first half of CR LF, so it waits for what follows.
        whole = (self._rest + received).replace(b"\r\n", b"\n")
        lines = whole.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _MOST_BYTES:
            raise ValueError("a line of an event stream has no end")
        for line in lines:
            if not line:
                if self._data:
                    yield b"\n".join(self._data)
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not _is_field(line):
                raise ValueError(f"not an event stream: {line[:60].decode('utf-8', 'replace')!r}")


def _is_field(line: bytes) -> bool:
    """Whether it is a comment, or a field that has no say in data."""
    return line.partition(b":")[0] in {b"", b"event", b"id", b"retry", b"data"}
