"""Which interpreter is this, and how much of the machine may it use?"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable

from cli.doctor.finding import Finding, Node


def check(_: Node) -> Iterable[Finding]:
    """Python's version and the processors we may use."""
    version = platform.python_version()
    yield Finding("python", "works", f"{version}, {len(os.sched_getaffinity(0))} processors may be used")
