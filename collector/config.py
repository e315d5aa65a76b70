"""What the agent can be told, by argument or environment.

The environment's names are those of the fields, in capitals, after TOKENSTONE_.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tokenstone.errors import InvalidValue
from tokenstone.window import DEFAULT_SECONDS
from tokenstone.wire import Name

_PREFIX = "TOKENSTONE_"
_HTTP_URL = TypeAdapter(HttpUrl)


class ListenAddress(NamedTuple):
    """Where `/metrics` is served: an empty host is every interface, port 0 any free port."""

    host: str
    port: int

    @property
    def announced(self) -> str:
        """Where others reach it. Every interface is no address: the service then takes that of the connection."""
        return f":{self.port}" if self.host in {"", "0.0.0.0", "::"} else str(self)  # noqa: S104  compared, not bound

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(value: Any) -> Any:
    """Parse "host:port", ":port" or "[v6]:port"; "none" is None. Raises ValueError.

    >>> parse_listen("[::1]:9478")
    ListenAddress(host='::1', port=9478)
    """
    if not isinstance(value, str) or isinstance(value, ListenAddress):
        return value
    if value.strip().lower() == "none":
        return None
    host, colon, port = value.strip().rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535 or (":" in host and not host.startswith("[")):
        raise ValueError(f"{value!r} is not HOST:PORT")
    return ListenAddress(host.strip("[]"), int(port))


def _none_or(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in {"", "none"} else value


def _http_url(value: str | None) -> str | None:
    if value is None:
        return None
    return str(_HTTP_URL.validate_python(value)).rstrip("/")


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


def _default_spool_dir() -> Path:
    # systemd names the folder of a service; else where the XDG rules keep state.
    state = os.environ.get("STATE_DIRECTORY") or os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "tokenstone" / "spool"


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class AgentSettings(BaseSettings):
    """Settings of one agent. Make it with `load_settings`, which turns what is wrong into one clear error."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, use_attribute_docstrings=True)

    listen: Annotated[ListenAddress | None, NoDecode, BeforeValidator(parse_listen)] = ListenAddress("", 9478)
    """Address of `/metrics`, or none."""
    api: Annotated[str | None, BeforeValidator(_none_or), AfterValidator(_http_url)] = None
    """Address of the service that takes the windows, or none."""
    api_key: SecretStr | None = None
    """Key that the service asks for, if it does."""
    cluster: Name = "default"
    """Name of the cluster that this node belongs to."""
    node: Annotated[Name, Field(default_factory=socket.gethostname)]
    """Name of this node; its host name where not given."""
    root: Path = Path("/")
    """The folder that stands for `/`: /proc and /sys are read below it."""
    sample_seconds: Annotated[float, Field(ge=0.2, le=3600, allow_inf_nan=False)] = 1.0
    """Time between two readings of every source."""
    window_seconds: Annotated[float, Field(ge=0.2, le=3600, allow_inf_nan=False)] = DEFAULT_SECONDS
    """Length of a window while no run is active on the node; the service may ask for shorter ones."""
    spool_dir: Annotated[Path, Field(default_factory=_default_spool_dir)]
    """Where batches wait for the service."""
    spool_max_bytes: Annotated[int, Field(ge=1_000_000)] = 500_000_000
    """Bytes that may wait; beyond, the oldest batches are dropped."""
    sources: Names = ()
    """The only sources to read, comma-separated; none named is all."""
    exclude_sources: Names = ()
    """Sources not to read, comma-separated."""

    @model_validator(mode="after")
    def _windows_hold_samples(self) -> Self:
        if self.window_seconds < self.sample_seconds:
            raise ValueError(
                f"window_seconds ({self.window_seconds:g}) is shorter than sample_seconds ({self.sample_seconds:g})"
            )
        if not self.root.is_dir():
            raise ValueError(f"root {str(self.root)!r} is not a folder")
        return self


def environment_name(field: str) -> str:
    """Return the environment variable that sets `field` of AgentSettings."""
    return _PREFIX + field.upper()


def load_settings(**given: Any) -> AgentSettings:
    """Return the settings: what is given (None is not given), else the environment, else the defaults.

    Raises InvalidValue that names every setting that is wrong.
    """
    try:
        return AgentSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = [_problem(str(entry["loc"][0]) if entry["loc"] else "", entry["msg"]) for entry in error.errors()]
        raise InvalidValue(
            "; ".join(problems), where="agent settings", hint="`tokenstone agent --help` says what each may be"
        ) from None


def _problem(name: str, message: str) -> str:
    text = message.removeprefix("Value error, ")
    return f"{name} ({environment_name(name)}): {text}" if name else text
