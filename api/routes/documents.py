"""Reports and comparisons as files: Markdown, CSV and PDF, beside the JSON and the pages."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response

from api.access import run_of
from api.auth import Caller, Reader
from api.comparing import compare_runs_of
from api.deps import NowDep, StoreDep
from api.documents import MEDIA_TYPES, Document, Form, write_document
from api.leases import check_leases
from api.openapi import GUARDED, problems
from api.routes.comparisons import Side
from api.routes.reports import Runs, report
from api.scoring import why_no_facts
from api.store.engine import Store
from api.store.evaluations import latest_evaluation
from api.store.runs import page_of_runs, view
from tokenstone.cluster_report import ClusterReport, build_cluster_report
from tokenstone.compare import LeftOut

router = APIRouter(prefix="/v1/reports", tags=["results"], responses=problems(404, 409))

MOST_RUNS = 100
"""Of a cluster's report: the newest."""
FileForm = Annotated[Form, Path(description="The form of the file.")]
Cluster = Annotated[str, Query(min_length=1, max_length=200, description="Name of the cluster.")]
AS_FILE = GUARDED | {
    200: {"description": "The document", "content": {kind.partition(";")[0]: {} for kind in MEDIA_TYPES.values()}}
}


@router.get("/cluster", summary="Report on a cluster", responses=GUARDED)
def cluster_report(cluster: Cluster, caller: Reader, store: StoreDep, now: NowDep) -> ClusterReport:
    """Each workload that ran there: what its tokens cost, and how much its runs vary. Of the newest runs."""
    return _cluster(cluster, caller, store, now)


@router.get("/cluster/{form}", summary="Report on a cluster, as a file", response_class=Response, responses=AS_FILE)
def cluster_document(cluster: Cluster, form: FileForm, caller: Reader, store: StoreDep, now: NowDep) -> Response:
    """The same as Markdown, CSV or PDF."""
    return _file(_cluster(cluster, caller, store, now), form, cluster)


@router.get(
    "/comparison/{form}", summary="Compare runs with runs, as a file", response_class=Response, responses=AS_FILE
)
def comparison_document(a: Side, b: Side, form: FileForm, caller: Reader, store: StoreDep, now: NowDep) -> Response:
    """What GET /v1/comparisons says, as Markdown, CSV or PDF."""
    check_leases(store, now)
    with store.reading() as session:
        comparison = compare_runs_of(session, caller, a, b, now=now)
    return _file(comparison, form, "comparison")


@router.get("/{form}", summary="Report on runs, as a file", response_class=Response, responses=AS_FILE)
def report_document(runs: Runs, form: FileForm, caller: Reader, store: StoreDep, now: NowDep) -> Response:
    """What GET /v1/reports says, as Markdown, CSV or PDF."""
    return _file(report(runs, caller, store, now), form, "report")


def _cluster(cluster: str, caller: Caller, store: Store, now: float) -> ClusterReport:
    caller.check_cluster(cluster, "query.cluster")
    check_leases(store, now)
    evaluated, left_out = [], []
    with store.reading() as session:
        page = page_of_runs(session, state=None, cluster=cluster, spec_id=None, cursor=None, limit=MOST_RUNS)
        for item in page.items:
            run = run_of(session, caller, item.run_id)
            evaluation = latest_evaluation(session, run)
            if evaluation is not None:
                evaluated.append((view(run), evaluation))
            else:
                reason = f"it is {run.state} and has no score: {why_no_facts(run.state)}"
                left_out.append(LeftOut(run_id=run.run_id, reason=reason))
    return build_cluster_report(cluster, evaluated, left_out=left_out, created_unix_seconds=now)


def _file(document: Document, form: Literal["markdown", "csv", "pdf"], name: str) -> Response:
    ending = {"markdown": "md"}.get(form, form)
    safe = "".join(c if c.isalnum() and c.isascii() else "-" for c in name)[:60]
    return Response(
        write_document(document, form),
        media_type=MEDIA_TYPES[form],
        headers={"Content-Disposition": f'inline; filename="tokenstone-{safe}.{ending}"'},
    )
