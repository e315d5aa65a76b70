"""Everything that goes wrong, as a problem document (RFC 9457); for a browser, as a page that says the same."""

from __future__ import annotations

import http
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from api.pages import PAGE_HEADERS
from api.pages.problem import problem_html
from tokenstone.errors import KeyNeeded, TokenstoneError
from tokenstone.wire import Problem

log = structlog.get_logger()

PROBLEM = "application/problem+json"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_MOST_ERRORS = 20


class ProblemResponse(JSONResponse):
    """A problem document, or, where a browser asks (`Accept: text/html`), a page."""

    def __init__(self, document: Problem, headers: Mapping[str, str]) -> None:
        super().__init__(document.model_dump(mode="json"), document.status, dict(headers), media_type=PROBLEM)
        self._document, self._told = document, dict(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it in the form that was asked for."""
        if "text/html" not in Headers(scope=scope).get("accept", ""):
            await super().__call__(scope, receive, send)
            return
        query = scope.get("query_string", b"").decode("latin-1")
        asked = quote(scope["path"]) + (f"?{query}" if query else "")
        page = HTMLResponse(problem_html(self._document, asked), self.status_code, PAGE_HEADERS | self._told)
        await page(scope, receive, send)


def problem(
    status: int,
    detail: str,
    *,
    slug: str = "",
    where: str = "",
    hint: str = "",
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> JSONResponse:
    """A problem document as the answer. `where` names the field, file or resource; `more` are extension members."""
    slug = slug or http.HTTPStatus(status).phrase.lower().replace(" ", "-")
    members = {"where": where, **more} if where else more
    document = Problem(
        type=f"urn:tokenstone:problem:{slug}",
        title=slug.replace("-", " ").capitalize(),
        status=status,
        detail=detail,
        hint=hint,
        **members,
    )
    return ProblemResponse(document, headers or {})


def problem_of(error: TokenstoneError) -> JSONResponse:
    """The problem document of one of our own errors."""
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, KeyNeeded) else {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    return problem(error.http_status, error.what, slug=error.slug, where=error.where, hint=error.hint, headers=headers)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(TokenstoneError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _ours(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TokenstoneError)  # noqa: S101  installed for these alone
    return problem_of(error)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    """A request that does not fit its model. Values are not repeated: they may be long, secret or not JSON."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  installed for these alone
    found = error.errors()
    if found and found[0]["type"] == "json_invalid":
        reason = found[0].get("ctx", {}).get("error", "")
        return problem(400, f"the body is not JSON: {reason} at character {found[0]['loc'][-1]}", where="body")
    errors = [{"where": _place(entry["loc"]), "what": entry["msg"]} for entry in found[:_MOST_ERRORS]]
    first = errors[0]
    detail = first["what"] if len(found) == 1 else f"{first['what']} (and {len(found) - 1} more)"
    return problem(422, detail, slug="invalid-value", where=first["where"], errors=errors)


def _place(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  installed for these alone
    if error.status_code == http.HTTPStatus.NOT_FOUND:
        return problem(
            404, "there is nothing at this path", where=request.url.path, hint="/openapi.json lists the paths"
        )
    if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed(request)
        return problem(
            405, f"{request.method} is not possible here", where=request.url.path, headers={"Allow": ", ".join(allowed)}
        )
    return problem(error.status_code, str(error.detail), headers=error.headers)


def _allowed(request: Request) -> list[str]:
    """Methods that some route takes at this path; the router itself names those of one route only."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.router.routes
    return [m for m, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)]


def internal_error(error: Exception, request_id: str) -> JSONResponse:
    """A fault of ours: the traceback goes to the log; it is none of the client's business."""
    log.error("internal error", exc_info=error)
    return problem(
        500, f"the service failed; its log says why, under {request_id}", slug="internal-error", request_id=request_id
    )
