"""Where `/metrics` is served."""

from __future__ import annotations

from typing import NamedTuple


class ListenAddress(NamedTuple):
    """An empty host is every interface, port 0 any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
