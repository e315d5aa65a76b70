"""What a check says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Node:
    """What is checked: the folder that stands for `/`, and the data folder."""

    root: Path
    data: Path


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that works, is absent (and need not be there), or fails; with what to do about it."""

    check: str
    status: Literal["works", "absent", "fails"]
    text: str
    hint: str = ""

    def as_json(self) -> dict[str, str]:
        """The finding as a JSON object."""
        return asdict(self)
