"""Runs against runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import run_of
from api.auth import Reader
from api.comparing import compare_evaluations
from api.deps import NowDep, StoreDep
from api.leases import check_leases
from api.openapi import GUARDED, problems
from api.scoring import evaluation_of
from api.views import Comparison

router = APIRouter(prefix="/v1/comparisons", tags=["results"])

Side = Annotated[list[str], Query(min_length=1, max_length=50, description="Ids of runs; one value each.")]


@router.get("", summary="Compare runs with runs", responses=GUARDED | problems(404, 409))
def compare(a: Side, b: Side, caller: Reader, store: StoreDep, now: NowDep) -> Comparison:
    """Ratio of each figure, b over a, with its interval, and whether it could be chance. Runs of one spec alone.

    Below four runs a side nothing is called a difference.
    """
    check_leases(store, now)
    with store.reading() as session:
        sides = [
            [evaluation_of(session, run_of(session, caller, run_id)) for run_id in dict.fromkeys(ids)] for ids in (a, b)
        ]
    return compare_evaluations(*sides)
