"""What is said about a run."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body

from api import examples
from api.deps import NowDep, PagingDep, StoreDep
from api.leases import check_leases
from api.openapi import EVERYWHERE, WITH_BODY, problems
from api.scoring import evaluation_of, score_again
from api.store.evaluations import page_of_evaluations
from api.store.runs import get_run
from api.views import Bills, Scored
from tokenstone.errors import NotFound
from tokenstone.evaluate import REASONS, Evaluation
from tokenstone.ledger import Ledger
from tokenstone.wire import Page, PriceChoice

router = APIRouter(prefix="/v1/runs/{run_id}", tags=["results"], responses=problems(404))


@router.get("/ledger", summary="Read how a run's device-seconds were spent", responses=EVERYWHERE)
def ledger(run_id: str, store: StoreDep, now: NowDep) -> Ledger:
    """Device-seconds by category; they and the residual add up to what was allocated."""
    check_leases(store, now)
    with store.reading() as session:
        return evaluation_of(session, run_id)[1].ledger


@router.get("/score", summary="Read everything that is said about a run", responses=EVERYWHERE)
def score(run_id: str, store: StoreDep, now: NowDep) -> Evaluation:
    """The latest evaluation. A figure that is null is absent, for the reason beside it or in `validity`."""
    check_leases(store, now)
    with store.reading() as session:
        return evaluation_of(session, run_id)[1]


@router.get("/bill", summary="Read what a run's tokens cost", responses=EVERYWHERE)
def bill(run_id: str, store: StoreDep, now: NowDep) -> Bills:
    """The bill of the latest evaluation, itemised; input and output apart where the run served."""
    check_leases(store, now)
    with store.reading() as session:
        found = evaluation_of(session, run_id)[1]
    if found.bill is None:
        reasons = "; ".join(REASONS[code] for code in found.validity)
        raise NotFound(f"run {run_id} has no bill: {reasons}", where="run_id", hint=f"GET /v1/runs/{run_id}/score")
    return Bills(
        run_id=run_id,
        bill=found.bill,
        input_bill=found.input_bill,
        uncached_input_bill=found.uncached_input_bill,
        output_bill=found.output_bill,
        goodput_bill=found.goodput_bill,
    )


@router.post("/scores", summary="Score a run again", status_code=201, responses=WITH_BODY | problems(409))
def add_score(
    run_id: str,
    price: Annotated[PriceChoice, Body(openapi_examples=examples.one(examples.PRICE, "Two dollars a device-hour"))],
    store: StoreDep,
    now: NowDep,
) -> Evaluation:
    """Evaluates with the windows and the price of now. Evaluations before it stay in the history."""
    check_leases(store, now)
    return score_again(store, run_id, price, now=now).evaluation


@router.get("/scores", summary="Read every evaluation of a run", responses=EVERYWHERE)
def scores(run_id: str, store: StoreDep, paging: PagingDep) -> Page[Scored]:
    """The newest first."""
    with store.reading() as session:
        run = get_run(session, run_id)
        return page_of_evaluations(session, run, cursor=paging.cursor, limit=paging.limit)
