"""From the facts of a run to everything that is said about it: ledger, score, bill, panel, bottleneck, validity.

Pure: the same run, facts, windows and price give the same evaluation, and `inputs_hash` names those inputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict

from tokenstone.cost import Bill, Price, TokenKind, make_bill, output_seconds
from tokenstone.errors import InvalidValue
from tokenstone.flops import AttentionCount, mfu, training_flops
from tokenstone.latency import Latencies, latencies, missed
from tokenstone.ledger import Ledger, inference_ledger, training_ledger
from tokenstone.roofline import Roofline, find_roofline, scale_up_bytes_per_second
from tokenstone.run import InferenceSpec, TrainingSpec
from tokenstone.score.bottleneck import Bottleneck, bottleneck
from tokenstone.score.dollar_weighted import dollar_weighted_utilization
from tokenstone.score.efficiency import efficiency
from tokenstone.score.factors import factors
from tokenstone.score.panel import PanelRow, telemetry_rows
from tokenstone.training_detail import TrainingDetail, training_detail
from tokenstone.wire import CollectiveTotal, Facts, InferenceFacts, RunView, TrainingFacts, WindowRow

SCHEMA_VERSION = 1

REASONS: dict[str, str] = {
    "valid": "everything that the score needs was measured and balances",
    "unknown_peak": "the hardware's limit is not known: name catalogue hardware, or let `tokenstone probe` measure it",
    "peak_exceeded": "the work ran faster than the stated limit, which is therefore wrong for this device",
    "ledger_residual": "the ledger does not balance: the facts of the run contradict themselves",
    "mixed_hardware": "the run's devices are of different kinds; one limit does not describe them",
    "no_tokens": "no token was counted",
}
"""Validity codes and what they mean."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class Tokens(_Row):
    """Tokens that bear the cost."""

    trained: int | None = None
    input: int | None = None
    cached_input: int | None = None
    output: int | None = None
    output_within_objective: int | None = None

    @property
    def total(self) -> int:
        """All of them."""
        return (self.trained or 0) + (self.input or 0) + (self.output or 0)


class Evaluation(_Row):
    """All figures of one run. What is None is absent, with its reason beside it or among `validity`."""

    schema_version: int = SCHEMA_VERSION
    inputs_hash: str
    run_id: str
    spec_id: str
    kind: Literal["training", "inference"]
    validity: list[str]
    score: float | None
    factors: dict[str, float] | None
    ledger: Ledger
    tokens: Tokens
    tokens_per_second: float
    """Over the whole allocation, start-up included."""
    step_tokens_per_second: float | None = None
    """Training: over the counted steps alone."""
    mfu_ratio: float | None = None
    """Training: model FLOPs over the steps alone, against the peak, as papers print it."""
    latencies: Latencies | None = None
    goodput_ratio: float | None = None
    """Inference: requests that met the objective over all requests."""
    bill: Bill | None
    input_bill: Bill | None = None
    uncached_input_bill: Bill | None = None
    output_bill: Bill | None = None
    goodput_bill: Bill | None = None
    """Inference: the output's cost borne only by the tokens of requests that met the objective."""
    bottleneck: Bottleneck | None
    panel: list[PanelRow]
    dollar_weighted_utilization: float | None
    dollar_weighted_reason: str
    joules_per_token: float | None
    joules_reason: str
    exposed_communication_ratio: float
    communication: list[CollectiveTotal] = []
    """Training: waits and bytes by kind of collective."""
    training: TrainingDetail | None = None
    """Training: parts of a step, bandwidths, bubble, experts, gradients, memory, restarts."""
    max_violation: float | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    roofline: dict[str, str | float | None] | None
    conventions: list[str]
    provenance: dict[str, str]


def evaluate(run: RunView, facts: Facts, *, windows: Sequence[WindowRow], price: Price | None) -> Evaluation:
    """Evaluate a run. `windows`: those of the run's nodes; only the ones inside the run are used.

    Raises InvalidValue where facts and spec are of different kinds.
    """
    roofline, reasons = find_roofline(run, facts)
    inside = _during(windows, facts)
    if isinstance(facts, TrainingFacts) and isinstance(run.spec, TrainingSpec):
        figures = _training(run.spec, facts, roofline, price)
    elif isinstance(facts, InferenceFacts) and isinstance(run.spec, InferenceSpec):
        figures = _inference(run.spec, facts, roofline, price)
    else:
        raise InvalidValue(f"facts of {facts.kind} for a run of {run.spec.kind}", where=f"run {run.run_id}")
    ledger, tokens, bill = figures["ledger"], figures["tokens"], figures["bill"]
    reasons = [*reasons, *(r for r in ledger.reasons if r not in reasons)]
    if not tokens.total:
        reasons.append("no_tokens")
    score = efficiency([ledger]) if tokens.total else None
    panel = [_compute_row(ledger, roofline), *telemetry_rows(inside, scale_up_bytes_per_second(run))]
    weighted, weighted_reason = dollar_weighted_utilization(
        price.components if price else None, {row.resource: row.mean_ratio for row in panel}
    )
    joules, joules_reason = _joules_per_token(inside, run, tokens.total)
    total = sum(ledger.seconds.values())
    exposed = ledger.seconds.get("exposed_communication", 0.0)
    return Evaluation.model_validate(
        {
            "inputs_hash": _hash(run, facts, inside, price),
            "run_id": run.run_id,
            "spec_id": run.spec_id,
            "kind": facts.kind,
            "validity": reasons or ["valid"],
            "score": score,
            "factors": factors(ledger),
            "tokens_per_second": tokens.total / facts.allocated_seconds,
            "bottleneck": bottleneck(bill) if bill else None,
            "panel": panel,
            "dollar_weighted_utilization": weighted,
            "dollar_weighted_reason": weighted_reason,
            "joules_per_token": joules,
            "joules_reason": joules_reason,
            "exposed_communication_ratio": exposed / total if total else 0.0,
            "roofline": asdict(roofline) if roofline else None,
            "provenance": facts.provenance,
            **figures,
        }
    )


class _Figures(TypedDict):
    """What the two kinds of run work out for themselves; named as in Evaluation."""

    ledger: Ledger
    tokens: Tokens
    bill: Bill | None
    conventions: list[str]
    step_tokens_per_second: NotRequired[float | None]
    mfu_ratio: NotRequired[float | None]
    max_violation: NotRequired[float | None]
    communication: NotRequired[list[CollectiveTotal]]
    training: NotRequired[TrainingDetail]
    loss_first: NotRequired[float | None]
    loss_last: NotRequired[float | None]
    latencies: NotRequired[Latencies]
    goodput_ratio: NotRequired[float | None]
    input_bill: NotRequired[Bill | None]
    uncached_input_bill: NotRequired[Bill | None]
    output_bill: NotRequired[Bill | None]
    goodput_bill: NotRequired[Bill | None]


def _bill(ledger: Ledger, seconds: dict[str, float], tokens: int, kind: TokenKind, price: Price | None) -> Bill | None:
    """No bill from a ledger that does not balance: its lines would not add up to what was paid."""
    return make_bill(seconds, tokens, kind, price) if ledger.balanced else None


def _training(spec: TrainingSpec, facts: TrainingFacts, roofline: Roofline | None, price: Price | None) -> _Figures:
    flops = training_flops(spec.model, spec.sequence_length, AttentionCount.CAUSAL)
    ledger = training_ledger(facts, flops.flops_per_token * facts.tokens, roofline)
    step_seconds = sum(p.duration_seconds for d in facts.devices for p in d.phases if p.kind == "step")
    per_device = facts.tokens / step_seconds if step_seconds else None
    utilization = None
    if roofline and per_device is not None:
        utilization = mfu(flops.flops_per_token, per_device, 1, roofline.peak_flops_per_second)
    return {
        "ledger": ledger,
        "tokens": Tokens(trained=facts.tokens),
        "step_tokens_per_second": None if per_device is None else per_device * len(facts.devices),
        "mfu_ratio": utilization,
        "bill": _bill(ledger, ledger.seconds, facts.tokens, "trained", price),
        "max_violation": facts.max_violation,
        "communication": facts.communication,
        "training": training_detail(spec, facts),
        "loss_first": facts.loss_first,
        "loss_last": facts.loss_last,
        "conventions": [flops.convention, "tokens of counted steps only; warm-up is start-up"],
    }


def _inference(spec: InferenceSpec, facts: InferenceFacts, roofline: Roofline | None, price: Price | None) -> _Figures:
    late = missed(facts.requests, spec.objective)
    ledger = inference_ledger(facts, late, roofline)
    columns = facts.requests
    read, cached, written = sum(columns.input_tokens), sum(columns.cached_input_tokens), sum(columns.output_tokens)
    good = sum(n for n, is_late in zip(columns.output_tokens, late, strict=True) if not is_late)
    prefill, decode = ledger.input_seconds or {}, output_seconds(ledger)
    split = "unknown" if ledger.prefill_ratio is None else f"{ledger.prefill_ratio:.1%} prefill"
    return {
        "ledger": ledger,
        "tokens": Tokens(input=read, cached_input=cached, output=written, output_within_objective=good),
        "latencies": latencies(columns),
        "goodput_ratio": 1 - sum(late) / len(late) if late and spec.objective else None,
        "bill": _bill(ledger, ledger.seconds, read + written, "input and output", price),
        "input_bill": _bill(ledger, prefill, read, "input", price),
        "uncached_input_bill": _bill(ledger, prefill, read - cached, "uncached input", price),
        "output_bill": _bill(ledger, decode, written, "output", price),
        "goodput_bill": _bill(ledger, decode, good, "output within the objective", price) if spec.objective else None,
        "conventions": [
            "ideal per engine iteration = max(FLOPs / peak, bytes / bandwidth); bytes are activated weights once, "
            "cache read and written",
            f"cost split between input and output by measured time of prefill and decode ({split})",
            "TTFT from arrival; TPOT = (E2E - TTFT) / (n - 1); percentiles over the requests of this one run",
        ],
    }


def _during(windows: Sequence[WindowRow], facts: Facts) -> list[WindowRow]:
    """Windows whose middle lies inside the run."""
    start, end = facts.started_unix_seconds, facts.started_unix_seconds + facts.allocated_seconds
    return [w for w in windows if start <= w.start_unix_seconds + w.duration_seconds / 2 <= end]


def _compute_row(ledger: Ledger, roofline: Roofline | None) -> PanelRow:
    resource = "accelerator compute"
    if roofline is None or ledger.ideal_seconds is None:
        return PanelRow(resource=resource, absent_reason="the peak is not known")
    return PanelRow(
        resource=resource,
        mean_ratio=ledger.ideal_seconds / ledger.allocated_seconds,
        capacity=f"{roofline.peak_flops_per_second / 1e12:,.3g} TFLOP/s {roofline.dtype}, {roofline.provenance}",
        provenance="derived from the ledger",
    )


def _joules_per_token(windows: Sequence[WindowRow], run: RunView, tokens: int) -> tuple[float | None, str]:
    """Energy of the run's devices by their own counters; absent unless every device reported it."""
    joules: dict[tuple[str, str], float] = {}
    for w in windows:
        if w.metric == "accel_energy_joules_total" and w.delta is not None:
            joules[(w.node, w.device)] = joules.get((w.node, w.device), 0.0) + w.delta
    if not all((device.node, device.id) in joules for device in run.devices):
        return None, "no energy counter on every device of the run"
    if not tokens:
        return None, REASONS["no_tokens"]
    return sum(joules[(device.node, device.id)] for device in run.devices) / tokens, ""


def _hash(run: RunView, facts: Facts, windows: Sequence[WindowRow], price: Price | None) -> str:
    inputs = {
        "spec": run.spec.model_dump(mode="json"),
        "devices": [device.model_dump(mode="json") for device in run.devices],
        "facts": facts.model_dump(mode="json"),
        "windows": [window.model_dump(mode="json") for window in windows],
        "price": price.model_dump(mode="json") if price else None,
        "schema_version": SCHEMA_VERSION,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
