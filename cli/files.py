"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from tokenstone.errors import NotWritable


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all; raises NotWritable."""
    write_bytes_whole(path, text.encode())


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises NotWritable."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise NotWritable(f"cannot write: {error.strerror}", where=str(path), hint="choose another folder") from error


def require_writable(folder: Path, named: Path) -> None:
    """Make a folder and be sure that files can be written there; raises NotWritable naming `named`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise NotWritable(
            f"cannot write there: {error.strerror}", where=str(named), hint="choose another with --data or --report"
        ) from error
