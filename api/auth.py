"""Who asks, and what they may do.

Without authentication (the default on a loopback address) everybody is `LOCAL` and may do everything: keys are then
not looked at. With it, each request brings `Authorization: Bearer KEY`, and the key says which scopes and cluster.

A browser cannot send that header. It signs in once with a key (api/routes/sign_in.py) and then brings a cookie, which
opens what reading opens and nothing else: no request that changes something is ever made by a cookie, so a page from
elsewhere cannot make one either.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.secrets import prefix_of
from api.store.engine import Store
from api.store.keys import find_key, find_session
from tokenstone.errors import KeyNeeded, NotAllowed
from tokenstone.wire import KeyScope, KeyView

_bearer = HTTPBearer(auto_error=False, scheme_name="apiKey", description="A key of `tokenstone key create`.")
SESSION_COOKIE = "tokenstone_session"
_HINT = "send `Authorization: Bearer KEY`; `tokenstone key create` makes one"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `cluster` is the only one that they may see or fill; None is all."""

    name: str
    scopes: frozenset[KeyScope]
    cluster: str | None = None
    has_session: bool = False
    """Whether a browser's session says so, instead of the key itself."""

    def check_scope(self, scope: KeyScope) -> None:
        """Raise NotAllowed unless the caller may do what `scope` covers."""
        if scope not in self.scopes and KeyScope.ADMIN not in self.scopes:
            raise NotAllowed(
                f"this needs a key with the scope {scope}",
                where="header.Authorization",
                hint=f"key {self.name} has {', '.join(sorted(self.scopes))}",
            )

    def check_cluster(self, cluster: str, where: str) -> None:
        """Raise NotAllowed for a cluster that is not the caller's; `where` names the field that says it."""
        if self.cluster not in {None, cluster}:
            raise NotAllowed(
                f"key {self.name} is for cluster {self.cluster!r} alone", where=where, hint="use a key for that cluster"
            )

    def cluster_of_list(self, asked: str | None) -> str | None:
        """The cluster that a list shows: the one asked for, else the caller's own. Raises NotAllowed."""
        if asked is not None:
            self.check_cluster(asked, "query.cluster")
        return asked if asked is not None else self.cluster


LOCAL = Caller("local", frozenset(KeyScope))


def _key(request: Request, text: str) -> KeyView | None:
    store: Store = request.app.state.store
    with store.reading() as session:
        return find_key(session, text, now=request.app.state.clock())


async def _authenticated(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    if not request.app.state.settings.needs_keys:
        return LOCAL
    if credentials is None:
        return await run_in_threadpool(_signed_in, request)
    request.state.key = prefix_of(credentials.credentials)
    key = await run_in_threadpool(_key, request, credentials.credentials)
    if key is None:
        raise KeyNeeded("the API key is unknown, revoked or expired", where="header.Authorization", hint=_HINT)
    return Caller(key.prefix, frozenset(key.scopes), key.cluster)


def _signed_in(request: Request) -> Caller:
    store: Store = request.app.state.store
    session_text = request.cookies.get(SESSION_COOKIE, "") if request.method in {"GET", "HEAD"} else ""
    if session_text:
        with store.reading() as session:
            key = find_session(session, session_text, now=request.app.state.clock())
        if key is not None:
            request.state.key = key.prefix
            return Caller(key.prefix, frozenset({KeyScope.READ}), key.cluster, has_session=True)
    raise KeyNeeded("this service asks for an API key", where="header.Authorization", hint=_HINT)


def _needs(scope: KeyScope) -> Callable[..., Awaitable[Caller]]:
    async def check(caller: Annotated[Caller, Depends(_authenticated)]) -> Caller:
        caller.check_scope(scope)
        return caller

    return check


def _for_all_clusters(caller: Caller) -> Caller:
    if caller.cluster is not None:
        raise NotAllowed(
            f"key {caller.name} is for cluster {caller.cluster!r} alone, and this speaks of all",
            where="header.Authorization",
            hint="use a key without a cluster",
        )
    return caller


async def _observes_all(caller: Annotated[Caller, Depends(_needs(KeyScope.READ))]) -> Caller:
    return _for_all_clusters(caller)


Reader = Annotated[Caller, Depends(_needs(KeyScope.READ))]
Ingester = Annotated[Caller, Depends(_needs(KeyScope.INGEST))]
Admin = Annotated[Caller, Depends(_needs(KeyScope.ADMIN))]
Observer = Annotated[Caller, Depends(_observes_all)]
