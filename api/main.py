"""The application, and the server that runs it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api import errors, openapi
from api.body import BodyMiddleware
from api.housekeeping import house_kept
from api.leases import leases_checked
from api.metrics import ServiceMetrics
from api.routes import catalogues, operation, reports, results, runs, telemetry
from api.server import bound_socket, run_server
from api.settings import Settings
from api.store.engine import Store, open_store
from api.store.price_books import add_price_book
from tokenstone import __version__
from tokenstone.cost import builtin_book
from tokenstone.errors import Conflict, NotWritable

DESCRIPTION = """What does a token really cost on this cluster, and where did the rest of the money go?

Errors are problem documents (RFC 9457). Lists are pages: ask on with `cursor`. Times are in seconds, money in US
dollars, and a figure that is null is absent, never zero."""


def create_app(settings: Settings, *, clock: Callable[[], float] = time.time) -> FastAPI:
    """Open the store and return the application. `clock` gives the wall time in seconds since 1970.

    Raises InvalidValue for the database's URL, NotWritable, and StoreDamaged.
    """
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritable(
            f"the data folder cannot be made: {error.strerror}", where=str(settings.data), hint="choose another --data"
        ) from error
    store = open_store(settings.database_url)
    _add_published_prices(store, clock())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            async with (
                leases_checked(store, clock, settings.lease_check_seconds),
                house_kept(
                    store, clock, keep_days=settings.keep_windows_days, every_seconds=settings.housekeeping_seconds
                ),
            ):
                yield
        finally:
            store.close()

    app = FastAPI(
        title="Tokenstone",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=openapi.TAGS,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
    )
    app.state.store, app.state.clock, app.state.metrics = store, clock, ServiceMetrics(store)
    app.add_middleware(BodyMiddleware, limit_bytes=settings.max_body_bytes)
    errors.install(app)
    for part in (telemetry, runs, results, reports, catalogues, operation):
        app.include_router(part.router)
    openapi.install(app)
    return app


def _add_published_prices(store: Store, now: float) -> None:
    """Keep the shipped price book with the others, so that a score by it can be told from later versions."""
    try:
        with store.writing() as session:
            add_price_book(session, builtin_book(), now=now)
    except Conflict:
        pass  # somebody's own book has that name and version, and versions never change


def serve(settings: Settings, on_ready: Callable[[str], None] | None = None) -> None:
    """Run the service in this process until SIGINT or SIGTERM, then end what is under way and return.

    `on_ready` is told the address once requests are answered; without it a line is logged. Raises PortInUse,
    NotWritable, StoreDamaged and InvalidValue.
    """
    with bound_socket(settings.host, settings.port) as listener:
        run_server(create_app(settings), listener, on_ready)
