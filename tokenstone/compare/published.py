"""Published results that can stand as one side: figures as printed, or that follow from them as it says there."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tokenstone.errors import UnknownName

PREFIX = "published:"


class Published(BaseModel):
    """A result that somebody printed: one figure each, so no interval, no ledger, no runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    title: str
    kind: Literal["training", "inference"]
    model: str
    hardware: str
    devices: str
    dtype: str
    work: str
    """Tokens and conditions."""
    source: str
    date: str
    currency: str = "USD"
    usd_per_device_hour: float
    price_note: str
    figures: dict[str, float]
    """By the names of `tokenstone.compare.figures.METRICS`."""
    derivations: dict[str, str]
    """How each figure follows from what was printed."""
    notes: list[str] = []


@cache
def published_results() -> dict[str, Published]:
    """The shipped catalogue by key."""
    text = resources.files("tokenstone").joinpath("compare/published.toml").read_text(encoding="utf-8")
    return {key: Published(key=key, **row) for key, row in tomllib.loads(text).items()}


def find_published(name: str) -> Published:
    """Return a result by its key, with or without `published:`. Raises UnknownName.

    >>> find_published("published:deepseek-v3-training").figures["usd_per_million_tokens"]
    0.36
    """
    known = published_results()
    key = name.removeprefix(PREFIX)
    if key not in known:
        raise UnknownName("published result", key, known)
    return known[key]
