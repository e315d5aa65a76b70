"""Can the data folder be written?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from cli.doctor.finding import Finding, Node


def check(node: Node) -> Iterable[Finding]:
    """The folder, or the nearest one above it that exists, its rights and its room."""
    folder = node.data.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Finding("data folder", "fails", f"{existing} cannot be written", "choose another with --data")
        return
    free = shutil.disk_usage(existing).free
    status = "works" if free > 1e9 else "fails"
    hint = "" if free > 1e9 else "a bench needs about 1 GB"
    yield Finding("data folder", status, f"{folder}, {free / 1e9:,.1f} GB free", hint)  # type: ignore[arg-type]
