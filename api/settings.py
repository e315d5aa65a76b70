"""What the service can be told, by argument or environment (prefix TOKENSTONE_)."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tokenstone.errors import InvalidFile, InvalidValue

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
    database_password_file: Path | None = None
    """File with the database's password, where the URL holds none: a secret that is mounted stays out of the
    environment."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 64_000_000
    """Longest request body, before and after decompression."""
    authentication: bool | None = None
    """Whether every request needs an API key. By default it does as soon as the address is not a loopback one."""
    tls_certificate: Path | None = None
    """File with the certificate chain (PEM); with it the service speaks HTTPS."""
    tls_key: Path | None = None
    """File with the certificate's private key (PEM), where the certificate's file does not hold it."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that answer. More than one needs PostgreSQL."""
    max_requests_per_second: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 1000.0
    """Requests that one client (its key and address) may make to one process, bursts of two seconds' worth; 0 is
    no limit."""
    max_series_per_node: Annotated[int, Field(ge=1)] = 10_000
    """Time series that one node may have."""
    max_nodes_per_cluster: Annotated[int, Field(ge=1)] = 20_000
    """Nodes that one cluster may have."""
    max_ahead_seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 300.0
    """How far a sender's clock may be ahead of the service's."""
    max_age_days: Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)] = 3650.0
    """How old a window or a run may be. A clock that was never set (1970) is beyond it."""
    access_log: bool = False
    """Whether every request is logged; what is refused or fails always is."""
    log_format: Literal["logfmt", "json"] = "logfmt"
    """Form of the log on stderr."""
    lease_check_seconds: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 5.0
    """How often runs of silent clients are looked for."""
    keep_windows_days: Annotated[float, Field(ge=1, le=36_500, allow_inf_nan=False)] = 14.0
    """Days for which windows are kept. Hourly roll-ups, and the windows of runs, are kept for ever."""
    housekeeping_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 60.0
    """How often hours are rolled up and old windows forgotten."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.workers > 1 and (self.database or "sqlite").startswith("sqlite"):
            raise ValueError("several workers need PostgreSQL: SQLite takes one writing process")
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("a TLS key without a certificate")
        for path in (self.tls_certificate, self.tls_key, self.database_password_file):
            if path is not None and not path.is_file():
                raise ValueError(f"there is no file {str(path)!r}")
        if self.database_password_file is not None and self.database is None:
            raise ValueError("a file with the database's password, and no database: SQLite has none")
        return self

    @property
    def needs_keys(self) -> bool:
        """Whether requests need an API key."""
        return not is_loopback(self.host) if self.authentication is None else self.authentication

    @property
    def database_url(self) -> str:
        """The database in use, with its password. Raises InvalidFile for a password that cannot be read."""
        url = self.database or f"sqlite:///{self.data.resolve() / 'tokenstone.db'}"
        return url if self.database_password_file is None else _with_password(url, self.database_password_file)


def _with_password(url: str, file: Path) -> str:
    """Put the password of `file` behind the user's name in `url`; one that the URL holds already stays."""
    parts = urlsplit(url)
    if parts.password:
        return url
    if not parts.username:
        raise InvalidValue(
            "a password, and no user whose it is", where="database (TOKENSTONE_DATABASE)",
            hint="name the user: postgresql://USER@HOST/NAME",
        )  # fmt: skip
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(
            "the database's password cannot be read", where=str(file),
            hint=f"user {os.geteuid()}, as whom this runs, must be able to read it",
        ) from error  # fmt: skip
    if not password:
        raise InvalidFile("the database's password is empty", where=str(file), hint="write it anew")
    user, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.removesuffix(':')}:{quote(password, safe='')}@{place}").geturl()


def is_loopback(host: str) -> bool:
    """Say whether an address is reached from this machine alone. A name that is not `localhost` may be anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(**given: Any) -> Settings:
    """Return the settings: what is given (None is not given), else the environment, else the defaults.

    Raises InvalidValue that names every setting that is wrong.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = (f"{_name(entry['loc'])}: {entry['msg'].removeprefix('Value error, ')}" for entry in error.errors())
        raise InvalidValue(
            "; ".join(problems), where="service settings", hint="`tokenstone serve --help` says what each may be"
        ) from None


def _name(place: tuple[int | str, ...]) -> str:
    if not place:
        return "together"
    field = str(place[0])
    return f"{field} ({_PREFIX}{field.upper()})"
