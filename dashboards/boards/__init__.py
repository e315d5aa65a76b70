"""The boards, one file each."""

from __future__ import annotations

from collections.abc import Callable

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.boards import compare, fleet, inference, node, run

BOARDS: dict[str, Callable[[], Dashboard]] = {
    "fleet": fleet.make,
    "run": run.make,
    "node": node.make,
    "inference": inference.make,
    "compare": compare.make,
}
"""Name of its file -> what makes it."""
