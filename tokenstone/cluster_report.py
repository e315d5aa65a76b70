"""The report of a cluster, as data: each workload that ran there, what its tokens cost, and how much runs vary."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tokenstone.compare.figures import SECONDS, USD, geometric_mean
from tokenstone.compare.noise import NoiseFloor, side_floor
from tokenstone.compare.side import LeftOut, RunFigures, make_side, run_figures
from tokenstone.errors import NotFound
from tokenstone.evaluate import Evaluation
from tokenstone.reproduce import Reproduction, reproduction
from tokenstone.score.bottleneck import Bottleneck, bottleneck, money, seconds
from tokenstone.wire import RunView

SCHEMA_VERSION = 1


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class WorkloadRow(_Row):
    """All runs of one spec on the cluster: like with like. Means are geometric, over runs."""

    spec_id: str
    preset: str
    kind: Literal["training", "inference"]
    runs: list[RunFigures]
    """The newest first."""
    score: float | None
    """Arithmetic mean."""
    tokens_per_second: float | None
    usd_per_million_tokens: float | None
    device_seconds_per_million_tokens: float | None
    noise_floor: NoiseFloor
    """How far apart two equal halves of these runs would lie by chance."""
    bottleneck: Bottleneck | None
    """Of the newest run."""
    missing: list[str]
    reproduce: Reproduction


class ClusterReport(_Row):
    """A cluster by its workloads."""

    schema_version: int = SCHEMA_VERSION
    cluster: str
    answer: str
    created_unix_seconds: float
    workloads: list[WorkloadRow]
    """The one with most runs first."""
    left_out: list[LeftOut]
    """Runs without figures, and why."""


def build_cluster_report(
    cluster: str,
    evaluated: Sequence[tuple[RunView, Evaluation]],
    *,
    left_out: Sequence[LeftOut] = (),
    created_unix_seconds: float,
) -> ClusterReport:
    """Make the report of a cluster from its evaluated runs, the newest first. Raises NotFound without any."""
    if not evaluated:
        raise NotFound(f"cluster {cluster!r} has no run with figures", where="cluster", hint="run `tokenstone bench`")
    by_spec: dict[str, list[tuple[RunView, Evaluation]]] = {}
    for run, evaluation in evaluated:
        by_spec.setdefault(run.spec_id, []).append((run, evaluation))
    rows = sorted((_row(runs) for runs in by_spec.values()), key=lambda row: -len(row.runs))
    return ClusterReport(
        cluster=cluster, answer=_answer(cluster, rows), created_unix_seconds=created_unix_seconds, workloads=rows,
        left_out=list(left_out),
    )  # fmt: skip


def _row(runs: Sequence[tuple[RunView, Evaluation]]) -> WorkloadRow:
    figures = [run_figures(*each) for each in runs]
    side = make_side(figures)
    run, evaluation = runs[0]
    scores = [value for value in _column(side.runs, "score") if value is not None]
    priced = side.usd_per_device_hour is not None
    costs = _known(side.runs, SECONDS)
    half = max(1, len(costs) // 2)
    return WorkloadRow(
        spec_id=run.spec_id,
        preset=run.spec.preset,
        kind=evaluation.kind,
        runs=figures,
        score=statistics.fmean(scores) if scores else None,
        tokens_per_second=geometric_mean(_known(side.runs, "tokens_per_second")),
        usd_per_million_tokens=geometric_mean(_known(side.runs, USD)) if priced else None,
        device_seconds_per_million_tokens=geometric_mean(costs),
        noise_floor=side_floor(run.cluster, costs, half, half),
        bottleneck=bottleneck(evaluation.bill) if evaluation.bill else None,
        missing=[*side.missing, *(f"run {out.run_id} does not count: {out.reason}" for out in side.left_out)],
        reproduce=reproduction(run.spec, evaluation.bill.price if evaluation.bill else None),
    )


def _column(runs: Sequence[RunFigures], name: str) -> list[float | None]:
    return [run.figures.get(name) for run in runs]


def _known(runs: Sequence[RunFigures], name: str) -> list[float]:
    return [value for value in _column(runs, name) if value is not None]


def _answer(cluster: str, rows: Sequence[WorkloadRow]) -> str:
    """About the workload with most runs, and how many others there are."""
    row = rows[0]
    if row.usd_per_million_tokens is not None:
        cost = f"costs {money(row.usd_per_million_tokens)}"
    elif row.device_seconds_per_million_tokens is not None:
        cost = f"takes {seconds(row.device_seconds_per_million_tokens)} device-seconds"
    else:
        return f"What a token costs on {cluster} is not known: no run of {row.preset} has a bill."
    score = "" if row.score is None else f" at a score of {row.score:.1f} of 100"
    number = f"{len(row.runs)} run{'s' if len(row.runs) != 1 else ''}"
    more = f"; {len(rows) - 1} more workload{'s' if len(rows) != 2 else ''} below" if len(rows) > 1 else ""
    return f"On {cluster} a million tokens of {row.preset} ({row.kind}) {cost}{score}, over {number}{more}."
