"""Hardware, prices and metrics in a browser."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from api.auth import Reader
from api.deps import StoreDep
from api.pages.catalogues import accelerator_html, hardware_html, prices_html, registry_html
from api.routes.catalogues import read_hardware
from api.routes.pages import Cursor, page, site
from api.store.cluster_prices import cluster_prices
from api.store.price_books import page_of_price_books
from tokenstone import hardware
from tokenstone.metric import REGISTRY

router = APIRouter(include_in_schema=False)

_BOOKS = 10


@router.get("/hardware")
def hardware_page(caller: Reader) -> HTMLResponse:
    """All accelerators of the catalogue."""
    return page(hardware_html(site(caller, "/hardware"), list(hardware.catalogue().values())))


@router.get("/hardware/{name}")
def accelerator_page(name: str, caller: Reader) -> HTMLResponse:
    """One accelerator."""
    return page(accelerator_html(site(caller, "/hardware"), read_hardware(name, caller)))


@router.get("/prices")
def prices_page(caller: Reader, store: StoreDep, cursor: Cursor = None) -> HTMLResponse:
    """Price books, the newest first, and what the clusters that the caller may see are priced by."""
    with store.reading() as session:
        books = page_of_price_books(session, cursor=cursor, limit=_BOOKS)
        found = cluster_prices(session, caller.cluster)
    priced = [price for name in sorted(found) for price in found[name]]
    return page(prices_html(site(caller, "/prices"), books, priced))


@router.get("/registry")
def registry_page(caller: Reader) -> HTMLResponse:
    """Every metric that a window can be of."""
    return page(registry_html(site(caller, "/registry"), list(REGISTRY.values())))
