"""What is known before anything runs: hardware, metrics, price books."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Request, Response

from api import examples
from api.auth import Admin, Reader
from api.conditional import NOT_MODIFIED, immutable
from api.deps import ActDep, NowDep, PagingDep, StoreDep
from api.openapi import GUARDED, WITH_BODY, problems
from api.store.price_books import add_price_book, find_price_book, page_of_price_books
from api.views import MetricView
from tokenstone import hardware
from tokenstone.cost import PriceBook
from tokenstone.errors import NotFound, UnknownName
from tokenstone.hardware import Accelerator
from tokenstone.metric import REGISTRY
from tokenstone.wire import Page

router = APIRouter(prefix="/v1", tags=["catalogues"])


@router.get("/hardware", summary="List accelerators", responses=GUARDED)
def list_hardware(_caller: Reader) -> list[Accelerator]:
    """The catalogue: published figures, each with source, date and whether it is verified."""
    return list(hardware.catalogue().values())


@router.get("/hardware/{name}", summary="Read one accelerator", responses=GUARDED | problems(404))
def read_hardware(name: str, _caller: Reader) -> Accelerator:
    """One row of the catalogue."""
    try:
        return hardware.get(name)
    except UnknownName as error:
        raise NotFound(error.what, where="name", hint=error.hint) from error


@router.get("/metrics", summary="List metrics", responses=GUARDED)
def list_metrics(_caller: Reader) -> list[MetricView]:
    """The registry: every metric that a window can be of."""
    return [
        MetricView(name=m.name, kind=m.kind, unit=m.unit, resource=m.resource, help=m.help, labels=list(m.labels))
        for m in REGISTRY.values()
    ]


@router.get("/price-books", summary="List price books", responses=GUARDED)
def list_price_books(_caller: Reader, store: StoreDep, paging: PagingDep) -> Page[PriceBook]:
    """Every version of every book, the newest first. The published points come with the service."""
    with store.reading() as session:
        return page_of_price_books(session, cursor=paging.cursor, limit=paging.limit)


@router.get("/price-books/{name}", summary="List the versions of a price book", responses=GUARDED | problems(404))
def list_versions(name: str, _caller: Reader, store: StoreDep, paging: PagingDep) -> Page[PriceBook]:
    """The newest first."""
    with store.reading() as session:
        page = page_of_price_books(session, name=name, cursor=paging.cursor, limit=paging.limit)
    if not page.items and paging.cursor is None:
        raise NotFound(f"there is no price book {name[:100]!r}", where="name", hint="GET /v1/price-books lists them")
    return page


@router.get(
    "/price-books/{name}/{version}",
    summary="Read a version of a price book",
    response_model=PriceBook,
    responses=GUARDED | problems(404) | NOT_MODIFIED,
)
def read_price_book(name: str, version: str, _caller: Reader, store: StoreDep, request: Request) -> Response:
    """A version never changes: with its `ETag` in `If-None-Match` the answer is 304."""
    with store.reading() as session:
        book = find_price_book(session, name, version)
    if book is None:
        raise NotFound(
            f"there is no price book {name[:100]}@{version[:100]}",
            where="version",
            hint=f"GET /v1/price-books/{name[:100]}",
        )
    return immutable(request, book)


@router.post(
    "/price-books",
    summary="Add a version of a price book",
    status_code=201,
    responses=WITH_BODY | problems(409) | {200: {"description": "That version is there already", "model": PriceBook}},
)
def create_price_book(
    book: Annotated[PriceBook, Body(openapi_examples=examples.one(examples.PRICE_BOOK, "One row"))],
    caller: Admin,
    act: ActDep,
    store: StoreDep,
    now: NowDep,
    response: Response,
) -> PriceBook:
    """A version never changes; prices that change come as a new version."""
    with store.writing() as session:
        is_new = add_price_book(session, book, now=now)
        if is_new:
            act.audit(session, caller.name, "price book added", f"{book.name}@{book.version}")
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/price-books/{book.name}/{book.version}"
    return book
