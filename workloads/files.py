"""Write a file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tokenstone.errors import NotWritable

_HINT = "choose a folder with room and rights"
_partial: set[Path] = set()


def require_writable(path: Path) -> None:
    """Raise NotWritable unless a file can be put at `path`: asked before work that would be lost."""
    if path.is_dir():
        raise NotWritable("is a folder", where=str(path), hint="give the name of a file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise NotWritable("its folder does not exist or is not writable", where=str(path), hint=_HINT)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, it takes the place of `path` at once.

    Raises NotWritable where the system refuses, a full disk included.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    _partial.add(temporary)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise NotWritable(f"cannot write: {error.strerror or error}", where=str(path), hint=_HINT) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _partial.discard(temporary)


def remove_partial_files() -> None:
    """Remove what `whole_file` has begun and not finished; for a process that is about to end."""
    for temporary in list(_partial):
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
