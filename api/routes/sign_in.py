"""A session for a browser, which cannot send an API key with every page it asks for."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from api.auth import SESSION_COOKIE
from api.deps import NowDep, SettingsDep, StoreDep
from api.pages import PAGE_HEADERS
from api.pages.problem import sign_in_html
from api.secrets import SESSION_SECONDS
from api.store.keys import begin_session, find_key
from tokenstone.errors import InvalidValue
from tokenstone.wire import KeyScope

router = APIRouter(include_in_schema=False)

_MOST_BYTES = 10_000


@router.get("/sign-in")
def sign_in_page(settings: SettingsDep) -> Response:
    """The form, where keys are asked for."""
    if not settings.needs_keys:
        return RedirectResponse("/clusters", 303)
    return HTMLResponse(sign_in_html("/clusters"), headers=PAGE_HEADERS)


@router.post("/sign-in")
async def sign_in(request: Request, store: StoreDep, settings: SettingsDep, now: NowDep) -> Response:
    """Give a session for a key that may read, and go on to the page that was wanted."""
    try:
        told = parse_qs((await request.body())[:_MOST_BYTES].decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        raise InvalidValue("more fields than the form has", where="body") from None
    wanted = _own_path(told.get("next", [""])[0])
    refused, token = "", ""
    with store.reading() as session:
        key = find_key(session, told.get("key", [""])[0].strip(), now=now)
        if key is None:
            refused = "That key is unknown, revoked or expired."
        elif not {KeyScope.READ, KeyScope.ADMIN} & set(key.scopes):
            refused = "That key may not read: pages need one with the scope read."
        elif request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            refused = "The form came from another site."
        else:
            token = begin_session(session, key, now=now)
    if refused:
        return HTMLResponse(sign_in_html(wanted, refused=refused), 403, headers=PAGE_HEADERS)
    answer = RedirectResponse(wanted, 303)
    answer.set_cookie(
        SESSION_COOKIE, token, max_age=SESSION_SECONDS, httponly=True, samesite="strict",
        secure=settings.tls_certificate is not None or request.url.scheme == "https",
    )  # fmt: skip
    return answer


@router.post("/sign-out")
def sign_out() -> Response:
    """Forget the session in this browser."""
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return answer


def _own_path(wanted: str) -> str:
    """A path of this service, never an address elsewhere."""
    is_path = wanted.startswith("/") and wanted[1:2] not in {"/", "\\"} and wanted.isascii() and wanted.isprintable()
    return wanted if is_path else "/clusters"
