"""The list of runs: which, in what order, and where the next page is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from api.pages.environment import Site, address, render
from api.pages.format import count, decimals, duration, fixed, money, utc
from api.store.run_list import KINDS, RunFilter, RunRow
from tokenstone.run import RunState
from tokenstone.wire import Page

_HEADS = (
    ("Score", "score", "descending"),
    ("$ per M tokens", "cost", "ascending"),
    ("Device-s per M", "", ""),
    ("Devices", "", ""),
    ("Held", "held", "descending"),
    ("Created", "newest", "descending"),
)
"""Heading, what it sorts by, and how."""


@dataclass(frozen=True, slots=True)
class Head:
    """A heading of the list; with an address it sorts, with `sorted_how` the list is sorted by it now."""

    title: str
    address: str
    sorted_how: str


@dataclass(frozen=True, slots=True)
class Line:
    """A run as the list shows it."""

    row: RunRow
    figures: list[str]


def run_list_html(
    site: Site, found: Page[RunRow], wanted: RunFilter, order: str, clusters: Sequence[str], *, is_first: bool
) -> str:
    """Return the page of a list of runs."""
    query = {"state": wanted.state, "cluster": wanted.cluster, "spec_id": wanted.spec_id, "kind": wanted.kind}
    sorted_by = {**query, "sort": "" if order == "newest" else order}
    return render(
        "run_list.html.j2",
        site=site,
        lines=[_line(row) for row in found.items],
        heads=[
            Head(title, address("/runs", **query, sort=name) if name else "", how if name == order else "")
            for title, name, how in _HEADS
        ],
        wanted=wanted,
        order=order,
        states=list(RunState),
        kinds=KINDS,
        clusters=clusters,
        first="" if is_first else address("/runs", **sorted_by),
        following=address("/runs", **sorted_by, cursor=found.next_cursor) if found.next_cursor else "",
        is_filtered=any(query.values()),
    )


def _line(row: RunRow) -> Line:
    seconds = row.device_seconds_per_million_tokens
    return Line(
        row,
        [
            "" if row.score is None else f"{row.score:.1f}",
            "" if row.usd_per_million_tokens is None else money(row.usd_per_million_tokens),
            "" if seconds is None else fixed(seconds, decimals(seconds, digits=3)),
            count(row.devices),
            "" if row.seconds is None else duration(row.seconds),
            utc(row.created_unix_seconds)[:16],
        ],
    )
