"""What the service can be told, by argument or environment (prefix TOKENSTONE_)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tokenstone.errors import InvalidValue

_PREFIX = "TOKENSTONE_"


class Settings(BaseSettings):
    """Settings of one service. Make it with `load_settings`, which turns what is wrong into one clear error."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, use_attribute_docstrings=True)

    host: Annotated[str, Field(min_length=1, max_length=255)] = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8470
    """Port to listen on; 0 is any free one."""
    data: Path = Path("tokenstone-data")
    """Folder of everything that the service keeps."""
    database: Annotated[str | None, Field(min_length=1, repr=False)] = None
    """SQLAlchemy URL (SQLite or PostgreSQL); by default a SQLite file in the data folder. May hold a password."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 64_000_000
    """Longest request body, before and after decompression."""
    lease_check_seconds: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 5.0
    """How often runs of silent clients are looked for."""
    keep_windows_days: Annotated[float, Field(ge=1, le=36_500, allow_inf_nan=False)] = 14.0
    """Days for which windows are kept. Hourly roll-ups, and the windows of runs, are kept for ever."""
    housekeeping_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 60.0
    """How often hours are rolled up and old windows forgotten."""

    @property
    def database_url(self) -> str:
        """The database in use."""
        return self.database or f"sqlite:///{self.data.resolve() / 'tokenstone.db'}"


def load_settings(**given: Any) -> Settings:
    """Return the settings: what is given (None is not given), else the environment, else the defaults.

    Raises InvalidValue that names every setting that is wrong.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = (f"{_name(entry['loc'])}: {entry['msg']}" for entry in error.errors())
        raise InvalidValue(
            "; ".join(problems), where="service settings", hint="`tokenstone serve --help` says what each may be"
        ) from None


def _name(place: tuple[int | str, ...]) -> str:
    field = str(place[0]) if place else "settings"
    return f"{field} ({_PREFIX}{field.upper()})"
