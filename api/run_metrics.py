"""What `/metrics` says of single runs, from their evaluations: ledger, bill, steps, latencies, resource panel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tokenstone.cost import Bill
from tokenstone.evaluate import Evaluation
from tokenstone.latency import Latencies
from tokenstone.ledger import Ledger
from tokenstone.wire import Facts, Iterations, RunView, TrainingFacts

TENTHS = 10


class Family(NamedTuple):
    """A metric: what it means, and its labels beside `cluster` and `run_id`."""

    help: str
    labels: tuple[str, ...] = ()


class Figure(NamedTuple):
    """One sample: name of its family without `tokenstone_run_`, values of the family's labels, value."""

    name: str
    labels: tuple[str, ...]
    value: float | None


_MILLION = "a million tokens, by what bears the cost"
FAMILIES: dict[str, Family] = {
    "info": Family("Always 1; the labels say what the run was.", ("kind", "preset", "spec_id", "validity")),
    "started_timestamp_seconds": Family("When the run began, seconds since 1970."),
    "ended_timestamp_seconds": Family("When the run ended, seconds since 1970."),
    "devices": Family("Devices that the run held."),
    "score": Family("100 x ideal device-seconds / allocated ones."),
    "ledger_device_seconds": Family("Device-seconds by category of the ledger.", ("category",)),
    "bill_usd_per_million_tokens": Family("Lines of the bill; they add up to the cost.", ("category",)),
    "bill_device_seconds_per_million_tokens": Family("Lines of the bill in device-seconds.", ("category",)),
    "usd_per_million_tokens": Family(f"Cost of {_MILLION}.", ("tokens",)),
    "device_seconds_per_million_tokens": Family(f"Device-seconds of {_MILLION}.", ("tokens",)),
    "tokens_per_second": Family("Tokens of the run / allocated time, start-up included."),
    "step_tokens_per_second": Family("Training: tokens of counted steps / their time, all devices together."),
    "mfu_ratio": Family("Training: model FLOPs / time of counted steps / peak."),
    "exposed_communication_ratio": Family("Share of device-time with communication and no computation."),
    "step_part_seconds": Family("Training: parts of a counted step, mean over ranks and steps.", ("part",)),
    "collective_seconds": Family("Training: waits of all ranks over the counted steps.", ("collective",)),
    "collective_bytes_per_second": Family("Training: NCCL's algbw.", ("collective",)),
    "max_violation": Family("Training: MaxVio over the counted steps, worst layer (arXiv 2408.15664)."),
    "max_violation_batch": Family("Training: MaxVio of a step's batch, mean over counted steps."),
    "dead_experts": Family("Training: experts without any token of a counted step, all layers."),
    "restarts": Family("Training: how often it went on after its processes had died."),
    "lost_steps": Family("Training: steps done again after a restart."),
    "joules_per_token": Family("Energy of the run's devices by their own counters / tokens."),
    "dollar_weighted_utilization_ratio": Family("Utilization of the resources, weighted by their share of the cost."),
    "resource_mean_ratio": Family("Mean use of a resource / its capacity.", ("resource", "capacity")),
    "resource_p95_ratio": Family("95th percentile of a resource's use / its capacity.", ("resource", "capacity")),
    "resource_absent": Family("1 for a resource whose use is not known.", ("resource", "reason")),
    "latency_seconds": Family("Inference: latency of requests that succeeded.", ("measure", "statistic")),
    "requests": Family("Inference: requests."),
    "request_errors": Family("Inference: requests that failed.", ("error",)),
    "output_tokens_per_second": Family("Inference: output tokens / time from the first arrival to the last end."),
    "goodput_ratio": Family("Inference: requests that met the objective / all requests."),
    "goodput_requests_per_second": Family("Inference: requests that met the objective, a second."),
    "goodput_tokens_per_second": Family("Inference: output tokens of such requests, a second."),
    "cached_input_ratio": Family("Inference: input tokens found in the cache / all input tokens."),
}  # fmt: skip
DETAIL: dict[str, Family] = {
    "activity_device_seconds": Family(
        "Training: device-seconds by activity in each tenth of the run; within a phase they are taken to be even.",
        ("tenth", "category"),
    ),
    "step_seconds": Family("Training: mean time of a counted step, in each tenth of them.", ("tenth",)),
    "batch_requests": Family("Inference: requests in an engine iteration, weighted by time.", ("statistic",)),
    "cache_used_ratio": Family("Inference: pages of the cache held by requests, weighted by time.", ("statistic",)),
}
"""What follows from the facts alone, which are large: only of the newest runs."""


def figures(run: RunView, evaluation: Evaluation) -> Iterator[Figure]:
    """Everything of FAMILIES that the run has; a value of None is absent."""
    spec, tokens = run.spec, evaluation.tokens
    yield Figure("info", (spec.kind, spec.preset, run.spec_id, ", ".join(evaluation.validity)), 1.0)
    yield Figure("started_timestamp_seconds", (), run.started_unix_seconds)
    yield Figure("ended_timestamp_seconds", (), run.ended_unix_seconds)
    yield Figure("devices", (), float(len(run.devices)))
    for name in ("score", "tokens_per_second", "step_tokens_per_second", "mfu_ratio", "exposed_communication_ratio",
                 "max_violation", "joules_per_token", "requests", "output_tokens_per_second", "goodput_ratio",
                 "goodput_requests_per_second", "goodput_tokens_per_second"):  # fmt: skip
        yield Figure(name, (), getattr(evaluation, name))
    yield Figure("dollar_weighted_utilization_ratio", (), evaluation.dollar_weighted_utilization)
    yield from _money(evaluation)
    yield from _resources(evaluation)
    yield from _training(evaluation)
    if evaluation.latencies is not None:
        yield from _latencies(evaluation.latencies)
    for error, count in (evaluation.errors or {}).items():
        yield Figure("request_errors", (error,), float(count))
    if tokens.input:
        yield Figure("cached_input_ratio", (), (tokens.cached_input or 0) / tokens.input)


def details(facts: Facts) -> Iterator[Figure]:
    """Everything of DETAIL that the facts tell."""
    if isinstance(facts, TrainingFacts):
        yield from _activities(facts)
        yield from _steps(facts)
    elif facts.iterations_known:
        yield from _iterations(facts.iterations)


def ledger_ratios(ledger: Ledger) -> Iterator[tuple[str, float]]:
    """Share of the allocated device-seconds by category."""
    for category, seconds in ledger.seconds.items():
        yield category, seconds / ledger.allocated_seconds


def _money(evaluation: Evaluation) -> Iterator[Figure]:
    for category, seconds in evaluation.ledger.seconds.items():
        yield Figure("ledger_device_seconds", (category,), seconds)
    for line in evaluation.bill.lines if evaluation.bill else ():
        yield Figure("bill_usd_per_million_tokens", (line.category,), line.usd_per_million_tokens)
        yield Figure("bill_device_seconds_per_million_tokens", (line.category,), line.device_seconds_per_million_tokens)
    bills: tuple[Bill | None, ...] = (
        evaluation.bill, evaluation.input_bill, evaluation.uncached_input_bill, evaluation.output_bill,
        evaluation.goodput_bill,
    )  # fmt: skip
    for bill in bills:
        if bill is not None:
            kind = (bill.token_kind,)
            yield Figure("usd_per_million_tokens", kind, bill.usd_per_million_tokens)
            yield Figure("device_seconds_per_million_tokens", kind, bill.device_seconds_per_million_tokens)


def _resources(evaluation: Evaluation) -> Iterator[Figure]:
    for row in evaluation.panel:
        if row.mean_ratio is None and row.p95_ratio is None:
            yield Figure("resource_absent", (row.resource, row.absent_reason), 1.0)
        yield Figure("resource_mean_ratio", (row.resource, row.capacity), row.mean_ratio)
        yield Figure("resource_p95_ratio", (row.resource, row.capacity), row.p95_ratio)


def _training(evaluation: Evaluation) -> Iterator[Figure]:
    detail = evaluation.training
    if detail is None:
        return
    for part, seconds in detail.part_seconds.items():
        yield Figure("step_part_seconds", (part,), seconds)
    for collective in detail.collectives:
        yield Figure("collective_seconds", (collective.name,), collective.wait_seconds)
        yield Figure("collective_bytes_per_second", (collective.name,), collective.algorithm_bytes_per_second)
    yield Figure("max_violation_batch", (), detail.max_violation_batch)
    for name in ("dead_experts", "restarts", "lost_steps"):
        yield Figure(name, (), getattr(detail, name))


def _latencies(latencies: Latencies) -> Iterator[Figure]:
    for measure in ("ttft", "tpot", "itl", "e2e"):
        found = getattr(latencies, f"{measure}_seconds")
        for statistic in ("mean", "p50", "p90", "p95", "p99"):
            if found is not None:
                yield Figure("latency_seconds", (measure, statistic), getattr(found, statistic))


def _activities(facts: TrainingFacts) -> Iterator[Figure]:
    length = facts.allocated_seconds / TENTHS
    sums: dict[tuple[int, str], float] = {}
    for device in facts.devices:
        covered = [0.0] * TENTHS
        for phase in device.phases:
            begin, end = phase.start_seconds, phase.start_seconds + phase.duration_seconds
            for tenth in range(min(int(begin / length), TENTHS - 1), TENTHS):
                part = min(end, (tenth + 1) * length) - max(begin, tenth * length)
                if part <= 0:
                    break
                covered[tenth] += part
                for activity, seconds in phase.activity_seconds.items():
                    key = (tenth, activity)
                    sums[key] = sums.get(key, 0.0) + seconds * part / phase.duration_seconds
        for tenth, seconds in enumerate(covered):  # between phases a device is idle, as in the ledger
            sums[(tenth, "idle")] = sums.get((tenth, "idle"), 0.0) + max(0.0, length - seconds)
    for (tenth, name), seconds in sorted(sums.items()):
        yield Figure("activity_device_seconds", (f"{tenth + 1:02}", name), seconds)


def _steps(facts: TrainingFacts) -> Iterator[Figure]:
    steps = facts.steps.duration_seconds if facts.steps else []
    for tenth in range(TENTHS):
        part = steps[len(steps) * tenth // TENTHS : len(steps) * (tenth + 1) // TENTHS]
        if part:
            yield Figure("step_seconds", (f"{tenth + 1:02}",), sum(part) / len(part))


def _iterations(iterations: Iterations) -> Iterator[Figure]:
    weights = iterations.duration_seconds
    total = sum(weights)
    batches = [float(len(members)) for members in iterations.requests]
    for name, column in (("batch_requests", batches), ("cache_used_ratio", iterations.cache_used_ratio)):
        if column and total > 0:
            mean = sum(value * weight for value, weight in zip(column, weights, strict=True)) / total
            yield Figure(name, ("mean",), mean)
            yield Figure(name, ("largest",), max(column))
