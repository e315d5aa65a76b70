"""Every error a user can cause, as one class each.

    TokenstoneError
    ├── UsageError                 what was asked for makes no sense; exit code 2, HTTP 422
    │   ├── UnknownName            no such model, hardware, dtype, metric, ...; lists what there is
    │   ├── InvalidValue           a number or a text outside its range
    │   └── InvalidFile            a file that cannot be read as what it should be
    └── OperationError             the request was sound, the world was not; exit code 1
        ├── NotFound               HTTP 404
        ├── Conflict               HTTP 409: the state does not allow it
        ├── KeyNeeded              HTTP 401: no key, or none that is in force
        ├── NotAllowed             HTTP 403: the key does not allow it
        ├── ServiceUnreachable     nobody answers, or answers something else
        ├── ServiceRefused         the service answered with a problem document
        ├── PortInUse              another program listens there
        ├── NotWritable            a folder or file that we must write and cannot
        ├── StoreDamaged           the database is not one of ours, or is broken
        ├── StoreUnavailable       HTTP 503: the database does not answer now; it is worth trying again
        ├── StoreFull              HTTP 507: the disk of the database is full
        ├── MissingTool            a program that is needed is not installed
        ├── MissingExtra           an optional part of Tokenstone is not installed
        ├── CommandNotFound        a command of the user's is not there; exit code 127, as a shell says
        ├── CommandNotExecutable   or cannot be run; exit code 126
        └── WorkloadFailed         the reference program ended without its result

Each says what happened, where, and what to do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from difflib import get_close_matches


class TokenstoneError(Exception):
    """What happened (`what`), `where`, and what to do (`hint`); `exit_code` is the command line's."""

    exit_code = 1
    http_status = 500
    slug = "error"
    retry_after_seconds: float | None = None
    """When the same request is worth a second attempt, if it is."""

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.hint})" if self.hint else text


class UsageError(TokenstoneError):
    """What was asked for makes no sense."""

    exit_code = 2
    http_status = 422
    slug = "usage"


class UnknownName(UsageError):
    """A name that no catalogue, registry or book holds."""

    slug = "unknown-name"

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "", hint: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = get_close_matches(name.lower(), self.known, n=1)
        advice = f"did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(self.known[:40]) or "none"
        super().__init__(f"unknown {kind} {name!r}", where=where, hint=hint or f"{advice}known: {listed}")


class InvalidValue(UsageError):
    """A value outside its range or of the wrong form."""

    slug = "invalid-value"


class InvalidFile(UsageError):
    """A file that cannot be read as what it should be."""

    slug = "invalid-file"


class OperationError(TokenstoneError):
    """The request was sound; the world was not."""

    slug = "operation-failed"


class NotFound(OperationError):
    """Nothing has that name."""

    http_status = 404
    slug = "not-found"


class Conflict(OperationError):
    """The present state does not allow it."""

    http_status = 409
    slug = "conflict"


class KeyNeeded(OperationError):
    """The service asks for an API key, and was given none that is in force."""

    http_status = 401
    slug = "key-needed"


class NotAllowed(OperationError):
    """The key does not allow it."""

    http_status = 403
    slug = "not-allowed"


class ServiceUnreachable(OperationError):
    """Nobody answers at that address, or something that is not Tokenstone does."""

    http_status = 503
    slug = "service-unreachable"


class ServiceRefused(OperationError):
    """The service answered with a problem document."""

    slug = "service-refused"
    retry_after_seconds: float | None = None
    """How long the service wants to be left alone, where it says so."""

    def __init__(self, what: str, *, status: int, where: str = "", hint: str = "") -> None:
        self.status = status
        super().__init__(what, where=where, hint=hint)


class PortInUse(OperationError):
    """Another program listens at that address."""

    slug = "port-in-use"


class NotWritable(OperationError):
    """A folder or file that has to be written and cannot be."""

    slug = "not-writable"

    @classmethod
    def of(cls, what: str, error: OSError, *, where: str, otherwise: str) -> NotWritable:
        """What the system said, and what to do: who must own the place where rights are missing, or `otherwise`."""
        hint = otherwise
        if error.errno in {errno.EACCES, errno.EPERM}:
            user = os.geteuid()
            hint = f"user {user}, as whom this runs, must own the folder: chown -R {user} FOLDER; or {otherwise}"
        elif error.errno == errno.EROFS:
            hint = f"mount a volume there that can be written, or {otherwise}"
        return cls(f"{what}: {error.strerror or error}", where=where, hint=hint)


class StoreDamaged(OperationError):
    """The database cannot be opened, or is not one of ours."""

    http_status = 503
    slug = "store-damaged"


class StoreUnavailable(OperationError):
    """The database does not answer now."""

    http_status = 503
    slug = "store-unavailable"
    retry_after_seconds = 2


class StoreFull(OperationError):
    """The disk of the database is full. Nothing is stored by halves."""

    http_status = 507
    slug = "store-full"
    retry_after_seconds = 30


class MissingTool(OperationError):
    """A program that is needed is not installed."""

    slug = "missing-tool"


class MissingExtra(OperationError):
    """An optional part of Tokenstone is not installed."""

    slug = "missing-extra"

    def __init__(self, extra: str, module: str) -> None:
        self.extra = extra
        super().__init__(
            f"this command needs {module!r}, which is not installed",
            hint=f"pip install 'tokenstone[{extra}]'",
        )


class CommandNotFound(OperationError):
    """There is no such command."""

    exit_code = 127
    slug = "command-not-found"


class CommandNotExecutable(OperationError):
    """The command is there and cannot be run."""

    exit_code = 126
    slug = "command-not-executable"


class WorkloadFailed(OperationError):
    """The reference program ended without its result."""

    slug = "workload-failed"
