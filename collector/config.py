"""What the agent can be told: by flag, environment or file, in this order.

The environment's names are those of the fields, in capitals, after TOKENSTONE_. The file is TOML, with the fields
as keys: the one that `--config` or TOKENSTONE_CONFIG names, or /etc/tokenstone/agent.toml where there is one.
"""

from __future__ import annotations

import os
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

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
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from collector.listen import ListenAddress
from tokenstone.errors import InvalidFile, InvalidValue, UnknownName
from tokenstone.window import DEFAULT_SECONDS
from tokenstone.wire import Name

_PREFIX = "TOKENSTONE_"
_HTTP_URL = TypeAdapter(HttpUrl)
DEFAULT_FILE = Path("/etc/tokenstone/agent.toml")


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


def _pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [item.strip().partition("=") for item in value.split(",") if item.strip()]
    for name, equals, path in pairs:
        if not name or not equals or not path.startswith("/"):
            raise ValueError(f"{''.join((name, equals, path))!r} is not NAME=/PATH")
    return {name: path for name, _, path in pairs}


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
    tools: Annotated[dict[str, Path], NoDecode, BeforeValidator(_pairs)] = {}  # frozen with its model
    """Where vendors' tools are, as NAME=/PATH, comma-separated; one that is not named is looked for on PATH."""
    dcgm_exporter: Annotated[str | None, BeforeValidator(_none_or), AfterValidator(_http_url)] = None
    """Address of a dcgm-exporter's metrics to read instead of holding NVIDIA's devices, or none."""
    node_exporter: Annotated[str | None, BeforeValidator(_none_or), AfterValidator(_http_url)] = None
    """Address of a node_exporter's metrics to read instead of the host's own files, or none."""
    replay: Path | None = None
    """A recorded node to play instead of reading this one, or none."""
    replay_speed: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    """How many times as fast as it was recorded."""
    deadline_seconds: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] = 5.0
    """A source that takes longer to answer is down until it does."""
    nvml_slow_seconds: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 5.0
    """Time between two readings of what changes slowly on NVIDIA devices: clocks, temperature, errors, limits."""
    nvml_rare_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 60.0
    """Time between two looks at what hardly changes there: instances (MIG) and, where asked for, processes."""
    nvml_skip: Names = ()
    """Calls of NVIDIA's library not to make, comma-separated, such as nvmlDeviceGetUtilizationRates."""
    nvml_processes: bool = False
    """Count the processes on each NVIDIA device and their memory; this call alone may take milliseconds."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic passes it by name
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags come before the environment, the environment before the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _file())

    @model_validator(mode="after")
    def _windows_hold_samples(self) -> Self:
        if self.window_seconds < self.sample_seconds:
            raise ValueError(
                f"window_seconds ({self.window_seconds:g}) is shorter than sample_seconds ({self.sample_seconds:g})"
            )
        if not self.root.is_dir():
            raise ValueError(f"root {str(self.root)!r} is not a folder")
        return self


def _file() -> Path | None:
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


FILE_VARIABLE = _PREFIX + "CONFIG"
"""The environment variable that names the file."""


def environment_name(field: str) -> str:
    """Return the environment variable that sets `field` of AgentSettings."""
    return _PREFIX + field.upper()


def load_settings(**given: Any) -> AgentSettings:
    """Return the settings: what is given (None is not given), else the environment, the file, the defaults.

    Raises InvalidValue that names every setting that is wrong, and InvalidFile where the file is no TOML.
    """
    try:
        _check_file()
        return AgentSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = [_problem(str(entry["loc"][0]) if entry["loc"] else "", entry["msg"]) for entry in error.errors()]
        raise InvalidValue(
            "; ".join(problems), where="agent settings", hint="`tokenstone agent --help` says what each may be"
        ) from None


def _check_file() -> None:
    """Raise InvalidFile for a file that cannot be read or holds what no setting is called."""
    path = _file()
    if path is None:
        return
    try:
        with path.open("rb") as file:
            keys = tomllib.load(file)
    except OSError as error:
        raise InvalidFile(f"cannot be read: {error.strerror}", where=str(path), hint="see --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidFile(f"is not TOML: {error}", where=str(path), hint='write NAME = "value" lines') from None
    for key in keys:
        if key not in AgentSettings.model_fields:
            raise UnknownName("setting", key, AgentSettings.model_fields, where=str(path))


def _problem(name: str, message: str) -> str:
    text = message.removeprefix("Value error, ")
    return f"{name} ({environment_name(name)}): {text}" if name else text
