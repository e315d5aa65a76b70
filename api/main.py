"""The application, and the server that runs it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog
from fastapi import FastAPI

from api import errors, openapi
from api.body import BodyMiddleware
from api.envelope import EnvelopeMiddleware
from api.housekeeping import house_kept
from api.leases import leases_checked
from api.log import configure_logging
from api.metrics import ServiceMetrics
from api.routes import (
    administration,
    catalogue_pages,
    catalogues,
    compare_pages,
    comparisons,
    documents,
    fleet,
    operation,
    pages,
    reports,
    results,
    runs,
    sign_in,
    telemetry,
)  # fmt: skip
from api.server import run_server, run_workers
from api.settings import Settings, is_loopback
from api.store.engine import Store, open_store
from api.store.keys import has_admin_key
from api.store.price_books import add_price_book
from tokenstone import __version__
from tokenstone.cost import builtin_book
from tokenstone.errors import Conflict, NotWritable
from tokenstone.listen import bound_socket

log = structlog.get_logger()

DESCRIPTION = """What does a token really cost on this cluster, and where did the rest of the money go?

A service that listens beyond loopback asks for an API key: `Authorization: Bearer KEY`.
Errors are problem documents (RFC 9457). Lists are pages: ask on with `cursor`. Times are in seconds, money in US
dollars, and a figure that is null is absent, never zero."""


def create_app(settings: Settings, *, clock: Callable[[], float] = time.time) -> FastAPI:
    """Open the store and return the application. `clock` gives the wall time in seconds since 1970.

    Raises InvalidValue for the database's URL, NotWritable, and StoreDamaged.
    """
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritable.of(
            "the data folder cannot be made", error, where=str(settings.data), otherwise="choose another --data"
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
        # The pages that FastAPI makes of the description load scripts from elsewhere; the description itself stays.
        docs_url=None,
        redoc_url=None,
    )
    metrics = ServiceMetrics(store, clock)
    app.state.store, app.state.clock, app.state.metrics, app.state.settings = store, clock, metrics, settings
    app.add_middleware(BodyMiddleware, limit_bytes=settings.max_body_bytes)
    app.add_middleware(
        EnvelopeMiddleware,
        requests_per_second=settings.max_requests_per_second,
        log_all=settings.access_log,
        secure=settings.tls_certificate is not None,
        count=metrics.count_request,
    )
    errors.install(app)
    for part in (telemetry, runs, results, comparisons, reports, documents, fleet, catalogues, administration,
                 operation, pages, catalogue_pages, compare_pages, sign_in):  # fmt: skip
        app.include_router(part.router)
    openapi.install(app, asks_for_keys=settings.needs_keys)
    return app


def _add_published_prices(store: Store, now: float) -> None:
    """Keep the shipped price book with the others, so that a score by it can be told from later versions."""
    try:
        with store.writing() as session:
            add_price_book(session, builtin_book(), now=now)
    except Conflict:
        pass  # somebody's own book has that name and version, and versions never change


def _say_who_may_enter(settings: Settings, store: Store) -> None:
    """Say at start what a stranger on the network could do."""
    if not settings.needs_keys:
        if not is_loopback(settings.host):
            log.warning("everybody who reaches this address may do everything: authentication is off")
        return
    with store.reading() as session:
        if not has_admin_key(session, now=time.time()):
            log.warning("there is no key with the scope admin yet", hint="tokenstone key create --scope admin")
    if settings.tls_certificate is None and not is_loopback(settings.host):
        log.warning("keys cross the network in clear text", hint="--tls-certificate, or a proxy that speaks TLS")


def serve(settings: Settings, on_ready: Callable[[str], None] | None = None) -> None:
    """Run the service in this process until SIGINT or SIGTERM, then end what is under way and return.

    With several workers, each is a process of its own and this one watches them. `on_ready` is told the address once
    requests are answered; without it a line is logged. Raises PortInUse, NotWritable, StoreDamaged and InvalidValue.
    """
    configure_logging(settings.log_format)
    with bound_socket(settings.host, settings.port) as listener:
        if settings.workers == 1:
            app = create_app(settings)
            _say_who_may_enter(settings, app.state.store)
            run_server(app, listener, settings, on_ready)
            return
        # The schema is brought up to date once, before the workers ask for it.
        store = open_store(settings.database_url)
        try:
            _say_who_may_enter(settings, store)
        finally:
            store.close()
        run_workers(partial(_worker, settings), listener, settings, on_ready)


def _worker(settings: Settings) -> FastAPI:
    configure_logging(settings.log_format)
    return create_app(settings)
