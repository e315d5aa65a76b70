"""Where `/metrics` is served."""

from __future__ import annotations

from typing import NamedTuple


class ListenAddress(NamedTuple):
    """An empty host is every interface, port 0 any free port."""

    host: str
    port: int

    @property
    def announced(self) -> str:
        """Where others reach it. Every interface is no address: the service then takes that of the connection."""
        return f":{self.port}" if self.host in {"", "0.0.0.0", "::"} else str(self)  # noqa: S104  compared, not bound

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
