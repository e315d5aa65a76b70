"""One side of a comparison: its runs with their figures, what they cost, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tokenstone.compare.published import Published
from tokenstone.cost import Bill
from tokenstone.errors import InvalidValue
from tokenstone.evaluate import REASONS, Evaluation
from tokenstone.report import environment
from tokenstone.wire import RunView

UNFIT = ("ledger_residual", "no_tokens", "client_saturated")
"""Validity codes of runs whose costs say nothing: such runs are left out, by name and with the reason."""


class Row(BaseModel):
    """What every part of a comparison shares."""

    model_config = ConfigDict(frozen=True)


class RunFigures(Row):
    """One run as a comparison sees it."""

    run_id: str
    cluster: str
    spec_id: str
    kind: Literal["training", "inference"]
    spec: dict[str, Any] | None
    """The workload spec; None in result files that do not hold it."""
    figures: dict[str, float | None]
    """By the names of `tokenstone.compare.figures.METRICS`; None is absent."""
    bill: Bill | None
    environment: dict[str, str]
    """Hardware, device count, limits, and what the run says of its software."""
    validity: list[str]


class LeftOut(Row):
    """A run that was named and does not count."""

    run_id: str
    reason: str


class Side(Row):
    """Runs that stand together, or a published result."""

    title: str
    """What it is called: a cluster, a run, a file, a published result."""
    source: Literal["measured", "published"]
    cluster: str
    runs: list[RunFigures]
    left_out: list[LeftOut]
    published: Published | None = None
    currency: str = "USD"
    usd_per_device_hour: float | None = None
    """None without a price, or where the runs have several."""
    missing: list[str] = []
    """What cannot be said of this side, and what to do about it."""

    @property
    def spec_ids(self) -> list[str]:
        """The specs of its runs, each once."""
        return sorted({run.spec_id for run in self.runs})


def run_figures(run: RunView, evaluation: Evaluation) -> RunFigures:
    """What a comparison needs of a run and its evaluation."""
    waits, bill = evaluation.latencies, evaluation.bill
    ttft, tpot = (waits.ttft_seconds, waits.tpot_seconds) if waits else (None, None)

    def usd(part: Bill | None) -> float | None:
        return part.usd_per_million_tokens if part else None

    return RunFigures(
        run_id=run.run_id,
        cluster=run.cluster,
        spec_id=run.spec_id,
        kind=evaluation.kind,
        spec=run.spec.model_dump(mode="json"),
        figures={
            "score": evaluation.score,
            "tokens_per_second": evaluation.tokens_per_second,
            "device_seconds_per_million_tokens": bill.device_seconds_per_million_tokens if bill else None,
            "usd_per_million_tokens": usd(bill),
            "usd_per_million_input_tokens": usd(evaluation.input_bill),
            "usd_per_million_output_tokens": usd(evaluation.output_bill),
            "ttft_p99_seconds": ttft.p99 if ttft else None,
            "tpot_p99_seconds": tpot.p99 if tpot else None,
            "mfu_ratio": evaluation.mfu_ratio,
            "joules_per_token": evaluation.joules_per_token,
        },
        bill=bill,
        environment=environment(run, evaluation),
        validity=evaluation.validity,
    )


def make_side(
    runs: Sequence[RunFigures],
    *,
    title: str | None = None,
    left_out: Sequence[LeftOut] = (),
    currency: str = "USD",
    where: str = "",
) -> Side:
    """Put runs on one side; the unfit ones are left out. Raises InvalidValue for several clusters or a run twice."""
    clusters = sorted({run.cluster for run in runs})
    if len(clusters) > 1:
        raise InvalidValue(f"runs of {len(clusters)} clusters on one side", where=where, hint="one cluster a side")
    if len({run.run_id for run in runs}) < len(runs):
        raise InvalidValue("a run is named twice on one side", where=where, hint="name each run once")
    fit = [run for run in runs if not set(run.validity) & set(UNFIT)]
    unfit = [
        LeftOut(run_id=run.run_id, reason="; ".join(REASONS[code] for code in run.validity if code in UNFIT))
        for run in runs
        if run not in fit
    ]
    prices = {run.bill.price.usd_per_device_hour if run.bill and run.bill.price else None for run in fit}
    price = prices.pop() if len(prices) == 1 else None
    cluster = clusters[0] if clusters else ""
    return Side(
        title=title or (runs[0].run_id if len(runs) == 1 else cluster) or "no run",
        source="measured",
        cluster=cluster,
        runs=fit,
        left_out=[*left_out, *unfit],
        currency=currency,
        usd_per_device_hour=price,
        missing=_missing(fit, priced_alike=len(prices) == 0),
    )


def published_side(result: Published) -> Side:
    """A published result as a side: figures without runs."""
    return Side(
        title=f"{result.title} (published)",
        source="published",
        cluster="",
        runs=[],
        left_out=[],
        published=result,
        currency=result.currency,
        usd_per_device_hour=result.usd_per_device_hour,
        missing=["published figures have neither interval nor ledger"],
    )


def _missing(runs: Sequence[RunFigures], *, priced_alike: bool) -> list[str]:
    if not runs:
        return ["no run with figures"]
    found = []
    unpriced = [run.run_id for run in runs if run.bill is not None and run.bill.price is None]
    if unpriced:
        found.append(f"no price: {_some(unpriced)}; give --price-per-device-hour, or score the runs with a price")
    elif not priced_alike:
        found.append("the runs have different prices, so what they cost is not one figure: score them with one price")
    without = [run.run_id for run in runs if run.bill is None]
    if without:
        found.append(f"no bill: {_some(without)}")
    for code in dict.fromkeys(code for run in runs for code in run.validity if code != "valid"):
        found.append(f"{REASONS[code]} ({_some([run.run_id for run in runs if code in run.validity])})")
    return found


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
