"""From the facts of a run to everything that is said about it: ledger, score, bill, panel, bottleneck, validity.

Pure: the same run, facts, windows and price give the same evaluation, and `inputs_hash` names those inputs.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict

from tokenstone.advice import Advice, advise
from tokenstone.cost import Bill, Price, TokenKind, make_bill, output_seconds
from tokenstone.course import Course, course
from tokenstone.errors import InvalidValue
from tokenstone.flops import AttentionCount, mfu, training_flops
from tokenstone.latency import DEFINITIONS, Latencies, latencies, missed
from tokenstone.ledger import Ledger, inference_ledger, training_ledger
from tokenstone.roofline import Roofline, find_roofline, scale_up_bytes_per_second
from tokenstone.run import InferenceSpec, JobSpec, TrainingSpec
from tokenstone.score.bottleneck import Bottleneck, bottleneck
from tokenstone.score.dollar_weighted import dollar_weighted_utilization
from tokenstone.score.efficiency import efficiency
from tokenstone.score.energy import energy
from tokenstone.score.factors import factors
from tokenstone.score.panel import PanelRow, telemetry_rows
from tokenstone.training_detail import TrainingDetail, training_detail
from tokenstone.wire import ClientLag, CollectiveTotal, Facts, InferenceFacts, RunView, TrainingFacts, WindowRow

SCHEMA_VERSION = 1

REASONS: dict[str, str] = {
    "valid": "everything that the score needs was measured and balances",
    "unknown_work": "what a token takes is not known: say it by flops_per_token, or by model and sequence_length",
    "unknown_peak": "the hardware's limit is not known: name catalogue hardware, or let `tokenstone probe` measure it",
    "peak_exceeded": "the work ran faster than the stated limit, which is therefore wrong for this device",
    "ledger_residual": "the ledger does not balance: the facts of the run contradict themselves",
    "mixed_hardware": "the run's devices are of different kinds; one limit does not describe them",
    "no_tokens": "no token was counted",
    "no_iterations": "the endpoint does not tell what its engine did: its busy time stays whole, and there is no score",
    "devices_unknown": "nobody said on what the endpoint runs: give --devices N (and --hardware NAME) for a bill",
    "client_saturated": "the load generator could not keep up: it measured itself; use a lower rate or a faster client",
    "energy_not_bracketed": "the energy readings do not cover the run from before its start to after its end",
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
    requests: int | None = None
    errors: dict[str, int] | None = None
    """Inference: requests that failed, by what became of them."""
    output_tokens_per_second: float | None = None
    """Inference: from the first arrival to the last end, start-up not included."""
    goodput_ratio: float | None = None
    """Inference: requests that met the objective over all requests."""
    goodput_requests_per_second: float | None = None
    goodput_tokens_per_second: float | None = None
    client: ClientLag | None = None
    bill: Bill | None
    input_bill: Bill | None = None
    uncached_input_bill: Bill | None = None
    output_bill: Bill | None = None
    goodput_bill: Bill | None = None
    """Inference: the output's cost borne only by the tokens of requests that met the objective."""
    bottleneck: Bottleneck | None
    advice: tuple[Advice, ...] = ()
    """What the ledger and the panel advise, the largest saving first."""
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
    course: Course | None = None
    """How it went: over time, step by step, on the roofline, expert by expert."""
    roofline: dict[str, str | float | None] | None
    conventions: list[str]
    provenance: dict[str, str]


def evaluate(run: RunView, facts: Facts, *, windows: Sequence[WindowRow], price: Price | None) -> Evaluation:
    """Evaluate a run. `windows`: those of the run's nodes; only the ones inside the run are used.

    Raises InvalidValue where facts and spec are of different kinds.
    """
    roofline, reasons = find_roofline(run, facts)
    if isinstance(facts, InferenceFacts):
        reasons = _serving_reasons(facts, reasons)
    inside = _during(windows, facts)
    if isinstance(facts, TrainingFacts) and isinstance(run.spec, TrainingSpec):
        figures = _training(run.spec, facts, roofline, price)
    elif isinstance(facts, TrainingFacts) and isinstance(run.spec, JobSpec):
        figures = _job(run.spec, facts, roofline, price)
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
    joules, joules_reason = _joules_per_token(windows, run, facts, tokens.total)
    if joules_reason == REASONS["energy_not_bracketed"] and isinstance(facts, InferenceFacts):
        reasons.append("energy_not_bracketed")
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
            "advice": _advice(ledger, panel, bill),
            "panel": panel,
            "dollar_weighted_utilization": weighted,
            "dollar_weighted_reason": weighted_reason,
            "joules_per_token": joules,
            "joules_reason": joules_reason,
            "exposed_communication_ratio": exposed / total if total else 0.0,
            "roofline": asdict(roofline) if roofline else None,
            "course": course(facts),
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
    requests: NotRequired[int]
    errors: NotRequired[dict[str, int]]
    output_tokens_per_second: NotRequired[float | None]
    goodput_ratio: NotRequired[float | None]
    goodput_requests_per_second: NotRequired[float | None]
    goodput_tokens_per_second: NotRequired[float | None]
    client: NotRequired[ClientLag | None]
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


def _job(spec: JobSpec, facts: TrainingFacts, roofline: Roofline | None, price: Price | None) -> _Figures:
    """What is known of a job that is not ours: its compute splits where both its work and the limit are known."""
    flops, convention = spec.flops_per_token, "FLOPs per token as the job's owner counts them"
    if spec.model is not None and spec.sequence_length is not None:
        count = training_flops(spec.model, spec.sequence_length, AttentionCount.CAUSAL)
        flops, convention = count.flops_per_token, count.convention
    ledger = training_ledger(facts, (flops or 0.0) * facts.tokens, roofline if flops else None)
    if flops is None:
        reasons = ["unknown_work", *(reason for reason in ledger.reasons if reason != "unknown_peak")]
        ledger, convention = ledger.model_copy(update={"reasons": reasons}), "FLOPs per token are not known"
    return {
        "ledger": ledger,
        "tokens": Tokens(trained=facts.tokens),
        "bill": _bill(ledger, ledger.seconds, facts.tokens, "all", price),
        "loss_first": facts.loss_first,
        "loss_last": facts.loss_last,
        "conventions": [convention, "tokens as the job counts them; what a step does not mark is computation"],
    }


def _serving_reasons(facts: InferenceFacts, reasons: list[str]) -> list[str]:
    """What makes the figures of serving invalid; an endpoint that tells no iterations needs no peak."""
    found = list(reasons) if facts.iterations_known else []
    if not facts.devices_known:
        found.append("devices_unknown")
    if facts.client is not None and facts.client.saturated:
        found.append("client_saturated")
    return found


def _inference(spec: InferenceSpec, facts: InferenceFacts, roofline: Roofline | None, price: Price | None) -> _Figures:
    late = missed(facts.requests, spec.objective)
    ledger = inference_ledger(facts, late, roofline)
    columns = facts.requests
    read, cached, written = sum(columns.input_tokens), sum(columns.cached_input_tokens), sum(columns.output_tokens)
    good = sum(n for n, is_late in zip(columns.output_tokens, late, strict=True) if not is_late)
    prefill, decode = ledger.input_seconds or {}, output_seconds(ledger)
    split = "unknown" if ledger.prefill_ratio is None else f"{ledger.prefill_ratio:.1%} prefill"
    seconds = _serving_seconds(facts)
    aimed = spec.objective is not None

    def bill(parts: dict[str, float], tokens: int, kind: TokenKind) -> Bill | None:
        return _bill(ledger, parts, tokens, kind, price) if facts.devices_known else None

    return {
        "ledger": ledger,
        "tokens": Tokens(input=read, cached_input=cached, output=written, output_within_objective=good),
        "latencies": latencies(columns, facts.inter_token),
        "requests": len(late),
        "errors": dict(Counter(error for error in columns.error if error is not None)),
        "output_tokens_per_second": written / seconds if seconds else None,
        "goodput_ratio": 1 - sum(late) / len(late) if late and aimed else None,
        "goodput_requests_per_second": (len(late) - sum(late)) / seconds if seconds and aimed else None,
        "goodput_tokens_per_second": good / seconds if seconds and aimed else None,
        "client": facts.client,
        "bill": bill(ledger.seconds, read + written, "input and output"),
        "input_bill": bill(prefill, read, "input"),
        "uncached_input_bill": bill(prefill, read - cached, "uncached input"),
        "output_bill": bill(decode, written, "output"),
        "goodput_bill": bill(decode, good, "output within the objective") if aimed else None,
        "conventions": [
            "ideal per engine iteration = max(FLOPs / peak, bytes / bandwidth); bytes are activated weights once, "
            "cache read and written",
            f"cost split between input and output by measured time of prefill and decode ({split})"
            if facts.iterations_known
            else f"cost split between input and output by the requests' own time before and after the first token "
            f"({split}), queueing included, because the endpoint does not tell its iterations",
            *(f"{name}: {meaning}" for name, meaning in DEFINITIONS.items()),
        ],
    }


def _serving_seconds(facts: InferenceFacts) -> float | None:
    """From the first arrival to the last end; None where nothing ended."""
    ends = [end for end in facts.requests.end_seconds if end is not None]
    span = max(ends) - min(facts.requests.arrival_seconds) if ends else 0.0
    return span if span > 0 else None


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


def _advice(ledger: Ledger, panel: Sequence[PanelRow], bill: Bill | None) -> list[Advice]:
    """None from a ledger that does not balance: its shares are not what happened."""
    if not ledger.balanced:
        return []
    ratios = {row.resource: row.mean_ratio for row in panel}
    return advise(ledger.seconds, ratios=ratios, usd_per_million_tokens=bill.usd_per_million_tokens if bill else None)


def _joules_per_token(
    windows: Sequence[WindowRow], run: RunView, facts: Facts, tokens: int
) -> tuple[float | None, str]:
    devices = [(device.node, device.id) for device in run.devices]
    start, end = facts.started_unix_seconds, facts.started_unix_seconds + facts.allocated_seconds
    joules, missing = energy(windows, devices, start=start, end=end)
    if missing == "no counter":
        return None, "no energy counter on every device of the run"
    if not tokens:
        return None, REASONS["no_tokens"]
    return (None, REASONS["energy_not_bracketed"]) if joules is None else (joules / tokens, "")


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
