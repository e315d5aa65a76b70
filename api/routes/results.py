"""What is said about a run."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Body, Path, Request, Response

from api import examples
from api.access import run_of
from api.auth import Ingester, Reader
from api.conditional import NOT_MODIFIED, immutable
from api.deps import ActDep, NowDep, PagingDep, StoreDep
from api.leases import check_leases
from api.openapi import GUARDED, WITH_BODY, problems
from api.scoring import evaluation_of, score_again
from api.store.evaluations import get_evaluation, page_of_evaluations
from api.views import Bills, Scored
from tokenstone.errors import NotFound
from tokenstone.evaluate import REASONS, Evaluation
from tokenstone.ledger import Ledger
from tokenstone.wire import Page, PriceChoice

router = APIRouter(prefix="/v1/runs/{run_id}", tags=["results"], responses=problems(404))


@router.get("/ledger", summary="Read how a run's device-seconds were spent", responses=GUARDED)
def ledger(run_id: str, caller: Reader, store: StoreDep, now: NowDep) -> Ledger:
    """Device-seconds by category; they and the residual add up to what was allocated."""
    check_leases(store, now)
    with store.reading() as session:
        return evaluation_of(session, run_of(session, caller, run_id))[1].ledger


@router.get("/score", summary="Read everything that is said about a run", responses=GUARDED)
def score(run_id: str, caller: Reader, store: StoreDep, now: NowDep) -> Evaluation:
    """The latest evaluation. A figure that is null is absent, for the reason beside it or in `validity`."""
    check_leases(store, now)
    with store.reading() as session:
        return evaluation_of(session, run_of(session, caller, run_id))[1]


@router.get("/bill", summary="Read what a run's tokens cost", responses=GUARDED)
def bill(run_id: str, caller: Reader, store: StoreDep, now: NowDep) -> Bills:
    """The bill of the latest evaluation, itemised; input and output apart where the run served."""
    check_leases(store, now)
    with store.reading() as session:
        found = evaluation_of(session, run_of(session, caller, run_id))[1]
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
    caller: Ingester,
    store: StoreDep,
    now: NowDep,
    act: ActDep,
    response: Response,
) -> Evaluation:
    """Evaluates with the windows and the price of now. Evaluations before it stay in the history.

    With `Idempotency-Key`, the same request again gives the evaluation that the first made.
    """
    with store.reading() as session:
        run_of(session, caller, run_id)
    check_leases(store, now)
    scored = score_again(store, run_id, price, actor=caller.name, once=act, now=now)
    response.headers["Location"] = f"/v1/runs/{quote(run_id, safe='')}/scores/{scored.number}"
    return scored.evaluation


@router.get("/scores", summary="List every evaluation of a run", responses=GUARDED)
def scores(run_id: str, caller: Reader, store: StoreDep, paging: PagingDep) -> Page[Scored]:
    """The newest first. Each says which formulas, inputs and price it is of."""
    with store.reading() as session:
        run = run_of(session, caller, run_id)
        return page_of_evaluations(session, run, cursor=paging.cursor, limit=paging.limit)


@router.get(
    "/scores/{number}",
    summary="Read one evaluation",
    response_model=Scored,
    responses=GUARDED | NOT_MODIFIED,
)
def one_score(
    run_id: str,
    number: Annotated[int, Path(ge=1, le=2**53)],
    caller: Reader,
    store: StoreDep,
    request: Request,
) -> Response:
    """An evaluation never changes: with its `ETag` in `If-None-Match` the answer is 304."""
    with store.reading() as session:
        return immutable(request, get_evaluation(session, run_of(session, caller, run_id), number))
