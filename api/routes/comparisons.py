"""Runs against runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.auth import Reader
from api.comparing import compare_runs_of
from api.deps import NowDep, StoreDep
from api.leases import check_leases
from api.openapi import GUARDED, problems
from tokenstone.compare import Comparison

router = APIRouter(prefix="/v1/comparisons", tags=["results"])

Side = Annotated[
    list[str],
    Query(min_length=1, max_length=50, description="Ids of runs, one value each; or published:KEY alone."),
]


@router.get("", summary="Compare runs with runs", responses=GUARDED | problems(404))
def compare(a: Side, b: Side, caller: Reader, store: StoreDep, now: NowDep) -> Comparison:
    """The verdict in one sentence and what it rests on: ratios b over a with intervals, the difference itemised.

    Runs of different specs are both shown, with what differs and without a verdict. Below four runs a side nothing is
    called a difference. A run without figures is left out, with the reason.
    """
    check_leases(store, now)
    with store.reading() as session:
        return compare_runs_of(session, caller, a, b, now=now)
