"""What the page says of one run: the headlines, the factors, the latencies, the resources, and why some are absent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from api.pages.course import CoursePage, course_page
from api.pages.figures import Figure
from api.pages.format import count, decimals, duration, fixed, money, percent, utc
from api.pages.training import TrainingPage, training_page
from tokenstone.cost import Bill
from tokenstone.evaluate import REASONS
from tokenstone.latency import Percentiles
from tokenstone.report import Section
from tokenstone.run import AnySpec, InferenceSpec, JobSpec, TrainingSpec
from tokenstone.score.panel import PanelRow
from tokenstone.wire import RunDevice, RunView

ABSENT = "absent"
"""How a headline says that it has no value."""
_FACTORS = {
    "availability": "neither starting, saving, recovering nor idle",
    "balance": "not waiting for other devices",
    "communication": "communication hidden behind work",
    "host": "not waiting for the host",
    "useful_work": "nothing done twice or in vain",
    "kernel": "how near the kernels come to the limit",
}


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of the score."""

    title: str
    value: str
    meaning: str
    is_lowest: bool


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """One latency in one unit; without cells, why."""

    name: str
    meaning: str
    unit: str
    cells: list[str]
    objective: str
    absent_reason: str


@dataclass(frozen=True, slots=True)
class RunPage:
    """One run, ready to be shown."""

    kind: str
    run_id: str
    state: str
    reason: str
    invalid_codes: list[str]
    facts: list[Figure]
    headlines: list[Figure]
    factors: list[Factor]
    factors_product: str
    why_no_score: list[str]
    latencies: list[LatencyRow]
    panel: list[PanelRow]
    beside: list[Figure]
    course: CoursePage
    training: TrainingPage | None


def run_page(section: Section) -> RunPage:
    """Return what is said of one run."""
    run, e = section.run, section.evaluation
    invalid = [code for code in e.validity if code != "valid"]
    why = [REASONS[code] for code in invalid]
    return RunPage(
        kind=section.kind.capitalize(),
        run_id=run.run_id,
        state=run.state.value,
        reason=run.reason,
        invalid_codes=invalid,
        facts=run_facts(run, e.ledger.allocated_seconds / len(run.devices)),
        headlines=[*_headlines(section, why), _cost(e.bill, why)],
        factors=_factors(e.factors),
        factors_product="" if e.score is None else fixed(e.score / 100, 3),
        why_no_score=why,
        latencies=_latencies(section),
        panel=e.panel,
        beside=_beside(section),
        course=course_page(section),
        training=training_page(section),
    )


def run_facts(run: RunView, held_seconds: float | None) -> list[Figure]:
    """Return what a run is; `held_seconds`: for how long each device was held, None where that is not known."""
    spec = run.spec
    started = None if run.started_unix_seconds is None else utc(run.started_unix_seconds)
    held = Figure("Held for", "", absent_reason="the run has not told")
    if held_seconds is not None:
        held = Figure("Held for", duration(held_seconds), note="" if len(run.devices) == 1 else "each device")
    return [
        Figure("Devices", _devices(run.devices)),
        held,
        Figure("Started", started or "", absent_reason="" if started else "the run was never started"),
        Figure("Workload", _workload(spec)),
        Figure("Model", _model(spec)),
        Figure("Spec id", run.spec_id),
    ]


def _devices(devices: list[RunDevice]) -> str:
    """Devices by what they are, for thousands of them in one line."""
    kinds = Counter(device.hardware or device.model or device.id for device in devices)
    nodes = list(dict.fromkeys(device.node for device in devices))
    place = nodes[0] if len(nodes) == 1 else f"{count(len(nodes))} nodes"
    return f"{', '.join(f'{count(number)} × {kind}' for kind, number in kinds.items())} on {place}"


def _workload(spec: AnySpec) -> str:
    if isinstance(spec, JobSpec):
        return f"{spec.preset}: a job of its own, {spec.dtype}"
    if isinstance(spec, TrainingSpec):
        return (
            f"{spec.preset}: {count(spec.steps)} steps of {count(spec.batch_sequences)} × "
            f"{count(spec.sequence_length)} tokens after {count(spec.warm_up_steps)} of warm-up, {spec.dtype}, "
            f"{spec.data}, seed {spec.seed}"
        )
    lengths = spec.lengths
    read, written = count(lengths.input_tokens), count(lengths.output_tokens)
    drawn = "" if lengths.name == "fixed" else f" ({lengths.name}, medians)"
    return (
        f"{spec.preset}: {count(spec.requests)} requests of {read} tokens in and {written} out{drawn}, "
        f"{_arrivals(spec)}, {spec.dtype}, seed {spec.seed}"
    )


def _arrivals(spec: InferenceSpec) -> str:
    traffic = spec.arrivals
    if traffic.arrival == "closed":
        return f"{count(traffic.concurrency)} at once"
    if traffic.arrival == "trace":
        return f"arriving as in the trace {traffic.trace_sha256[:12]}"
    kind = "Poisson" if traffic.arrival == "poisson" else f"gamma, burstiness {traffic.burstiness:g}"
    return f"{traffic.rate:g} a second ({kind})"


def _model(spec: AnySpec) -> str:
    model = spec.model
    if model is None:
        return f"{spec.endpoint_model} on an endpoint, shape not known" if isinstance(spec, InferenceSpec) else ""
    experts = model.experts
    text = f"{model.name}: {count(model.layers)} layers, width {count(model.dim)}, {model.attention.kind} attention"
    if experts is None:
        return f"{text}, dense"
    return f"{text}, {count(experts.active)} of {count(experts.routed)} experts and {count(experts.shared)} shared"


def _headlines(section: Section, why: list[str]) -> list[Figure]:
    limit = why[0] if why else ""
    reasons = {
        "Score": limit,
        "MFU": limit,
        "Loss": "the run reported none",
        "Expert balance": "the run reported no expert loads",
        "TTFT p95": "no request got a token",
        "TPOT p95": "no request ended with two tokens or more",
        "Goodput": "the run had no objective",
    }
    return [
        Figure(h.title, h.value, h.unit, h.note)
        if ABSENT not in h.value
        else Figure(h.title, "", absent_reason=reasons.get(h.title) or "not measured")
        for h in section.headlines
    ]


def _cost(bill: Bill | None, why: list[str]) -> Figure:
    if bill is None:
        return Figure("Cost", "", absent_reason=why[0] if why else "not measured")
    if bill.usd_per_million_tokens is not None:
        return Figure("Cost", money(bill.usd_per_million_tokens), note="per million tokens")
    amount = bill.device_seconds_per_million_tokens
    return Figure("Cost", fixed(amount, decimals(amount, digits=3)), note="device-seconds per million tokens")


def _factors(factors: dict[str, float] | None) -> list[Factor]:
    if not factors:
        return []
    lowest = min(factors, key=lambda name: factors[name])
    return [
        Factor(name.replace("_", " "), f"{value:.3f}", _FACTORS.get(name, ""), name == lowest and value < 1)
        for name, value in factors.items()
    ]


def _latencies(section: Section) -> list[LatencyRow]:
    waits, spec = section.evaluation.latencies, section.run.spec
    if waits is None or not isinstance(spec, InferenceSpec):
        return []
    goal = spec.objective
    first, each, whole = (goal.ttft_seconds, goal.tpot_seconds, goal.e2e_seconds) if goal else (None, None, None)
    return [
        _latency("TTFT", "time to first token", waits.ttft_seconds, "s", 1, first),
        _latency("TPOT", "time per output token after the first", waits.tpot_seconds, "ms", 1e3, each),
        _latency(
            "ITL",
            "gap between two tokens, all gaps",
            waits.itl_seconds,
            "ms",
            1e3,
            None,
            absent="the run reported no gaps",
        ),
        _latency("E2E", "from arrival to the last token", waits.e2e_seconds, "s", 1, whole),
    ]


def _latency(
    name: str, meaning: str, found: Percentiles | None, unit: str, scale: float, limit: float | None,
    absent: str = "no request got so far",
) -> LatencyRow:  # fmt: skip
    objective = "" if limit is None else f"≤ {limit * scale:,.4g} {unit}"
    if found is None:
        return LatencyRow(name, meaning, unit, [], objective, absent)
    values = [value * scale for value in (found.p50, found.p90, found.p95, found.p99)]
    places = decimals(max(values), digits=3)
    cells = [count(found.count), *(fixed(value, places) for value in values)]
    return LatencyRow(name, meaning, unit, cells, objective, "")


def _beside(section: Section) -> list[Figure]:
    """Return the single figures that stand beside the panel."""
    e = section.evaluation
    weighted, joules = e.dollar_weighted_utilization, e.joules_per_token
    figures = [
        Figure("Dollar-weighted utilization", "", absent_reason=e.dollar_weighted_reason)
        if weighted is None
        else Figure(
            "Dollar-weighted utilization", percent(weighted), note="how busy the average dollar of hardware was"
        ),
        Figure("Energy", "", absent_reason=e.joules_reason)
        if joules is None
        else Figure("Energy", fixed(joules, decimals(joules, digits=3)), "J per token"),
        Figure("Exposed communication", percent(e.exposed_communication_ratio), "of device-seconds"),
    ]
    if section.kind == "inference":
        return figures
    balance = e.max_violation
    return [
        *figures,
        Figure("Expert balance", "", absent_reason="the run reported no expert loads")
        if balance is None
        else Figure("Expert balance", f"{balance:,.2f}", "MaxVio", "largest expert load over the mean, less 1"),
    ]
