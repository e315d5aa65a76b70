"""What is known before anything runs: hardware, metrics, price books."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Response

from api import examples
from api.deps import NowDep, PagingDep, StoreDep
from api.openapi import EVERYWHERE, WITH_BODY, problems
from api.store.price_books import add_price_book, page_of_price_books
from api.views import MetricView
from tokenstone import hardware
from tokenstone.cost import PriceBook
from tokenstone.errors import NotFound, UnknownName
from tokenstone.hardware import Accelerator
from tokenstone.metric import REGISTRY
from tokenstone.wire import Page

router = APIRouter(prefix="/v1", tags=["catalogues"])


@router.get("/hardware", summary="List accelerators", responses=EVERYWHERE)
def list_hardware() -> list[Accelerator]:
    """The catalogue: published figures, each with source, date and whether it is verified."""
    return list(hardware.catalogue().values())


@router.get("/hardware/{name}", summary="Read one accelerator", responses=EVERYWHERE | problems(404))
def read_hardware(name: str) -> Accelerator:
    """One row of the catalogue."""
    try:
        return hardware.get(name)
    except UnknownName as error:
        raise NotFound(error.what, where="name", hint=error.hint) from error


@router.get("/metrics", summary="List metrics", responses=EVERYWHERE)
def list_metrics() -> list[MetricView]:
    """The registry: every metric that a window can be of."""
    return [
        MetricView(name=m.name, kind=m.kind, unit=m.unit, resource=m.resource, help=m.help, labels=list(m.labels))
        for m in REGISTRY.values()
    ]


@router.get("/price-books", summary="List price books", responses=EVERYWHERE)
def list_price_books(store: StoreDep, paging: PagingDep) -> Page[PriceBook]:
    """Every version of every book, the newest first. The published points come with the service."""
    with store.reading() as session:
        return page_of_price_books(session, cursor=paging.cursor, limit=paging.limit)


@router.post(
    "/price-books",
    summary="Add a version of a price book",
    status_code=201,
    responses=WITH_BODY | problems(409) | {200: {"description": "That version is there already", "model": PriceBook}},
)
def create_price_book(
    book: Annotated[PriceBook, Body(openapi_examples=examples.one(examples.PRICE_BOOK, "One row"))],
    store: StoreDep,
    now: NowDep,
    response: Response,
) -> PriceBook:
    """A version never changes; prices that change come as a new version."""
    with store.writing() as session:
        response.status_code = 201 if add_price_book(session, book, now=now) else 200
    return book
