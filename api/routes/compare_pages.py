"""The comparison in a browser: pick two sides by a form, and keep the address of what came out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from api.auth import Caller, Reader
from api.comparing import compare_runs_of
from api.deps import NowDep, StoreDep
from api.leases import check_leases
from api.pages.compare import Picked, compare_html
from api.routes.pages import Text, page, site
from api.store.engine import Session
from api.store.run_list import RunFilter, page_of_run_rows, run_groups, runs_of_group
from tokenstone.compare import Comparison
from tokenstone.compare.published import PREFIX
from tokenstone.errors import InvalidValue, NotAllowed, NotFound, TokenstoneError

router = APIRouter(include_in_schema=False)

_MOST_RUNS = 50
_NEWEST_RUNS = 25
"""Of a group: as many as a page reads in time. Single runs may be named up to `_MOST_RUNS` a side."""
Group = Annotated[str, Query(max_length=300)]
Runs = Annotated[list[str], Query(max_length=_MOST_RUNS)]


@router.get("/compare")
def compare_page(
    caller: Reader,
    store: StoreDep,
    now: NowDep,
    a: Runs = [],  # noqa: B006  FastAPI copies it
    b: Runs = [],  # noqa: B006
    group_a: Group = "",
    group_b: Group = "",
    spec_id: Text = "",
) -> HTMLResponse:
    """Runs `a` against runs `b`; or the newest runs of a group (SPEC@CLUSTER) against those of another."""
    check_leases(store, now)
    comparison, problem = None, None
    with store.reading() as session:
        groups = run_groups(session, caller.cluster)
        picked = Picked(
            group_a, group_b, a or _runs(session, caller, group_a), b or _runs(session, caller, group_b), spec_id
        )
        rows = []
        if spec_id:
            wanted = RunFilter(spec_id=spec_id, cluster=caller.cluster)
            found = page_of_run_rows(session, wanted, order="newest", cursor=None, limit=100).items
            rows = [row for row in found if row.device_seconds_per_million_tokens is not None]
        if picked.runs_a or picked.runs_b or group_a or group_b:
            try:
                comparison = _compared(session, caller, picked, now)
            except NotAllowed:
                raise
            except TokenstoneError as error:
                problem = error
    html = compare_html(site(caller, "/compare"), groups, picked, runs=rows, comparison=comparison, problem=problem)
    return page(html)


def _runs(session: Session, caller: Caller, group: str) -> list[str]:
    """The runs of a group, the newest of them; or the published result that it names."""
    if group.startswith(PREFIX):
        return [group]
    spec_id, _, cluster = group.partition("@")
    if not cluster:
        return []
    caller.check_cluster(cluster, "query.group")
    return runs_of_group(session, spec_id, cluster, limit=_NEWEST_RUNS)


def _compared(session: Session, caller: Caller, picked: Picked, now: float) -> Comparison:
    """Raises what the page then says in place of a verdict."""
    for name, ids in (("A", picked.runs_a), ("B", picked.runs_b)):
        if not ids:
            raise NotFound(f"side {name} has no run with figures", where="query", hint="pick one below")
    if set(picked.runs_a) == set(picked.runs_b):
        raise InvalidValue("both sides are the same runs", where="query", hint="pick another side below")
    return compare_runs_of(session, caller, picked.runs_a, picked.runs_b, now=now)
