"""A past job out of what its exporters have told: the span, the ledger from outside, and what nobody can know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cli.bracket import Outcome
from cli.run_facts import bracketed_facts, joules
from tokenstone import hardware as catalogue
from tokenstone.cost import Price
from tokenstone.errors import InvalidValue
from tokenstone.evaluate import REASONS, evaluate
from tokenstone.run import JobSpec, RunState
from tokenstone.wire import RunDevice, RunView, WindowRow

if TYPE_CHECKING:
    from collector.history.job import PastJob
    from collector.history.windows import History

STEP_SECONDS = 60.0
_MOST_WINDOWS, _MOST_POINTS = 480, 400_000
_LONGEST_SECONDS = 400 * 86_400.0

UNKNOWABLE = (
    "communication, pipeline bubbles, load imbalance, input stalls and checkpoints: utilization sees a kernel run, and "
    "not which; tokenstone.record or a profiler trace tells them apart",
    "start-up and lost work: no exporter knows the job's steps",
)
"""What no history of these exporters can tell."""


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` to `end`, Unix seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    def step(self, devices: int) -> float:
        """Length of a window, such that neither a series nor all of them together have too many points."""
        most = max(10, min(_MOST_WINDOWS, _MOST_POINTS // max(1, devices)))
        return max(STEP_SECONDS, self.seconds / most)

    def windows(self, wanted: float) -> float:
        """The length nearest to the wanted one that divides the span evenly, in whole milliseconds."""
        count = max(1, round(self.seconds / wanted))
        return math.floor(self.seconds / count * 1000) / 1000


def past_span(start: str, end: str) -> Span:
    """The span between two instants as people write them; raises InvalidValue."""
    span = Span(_instant(start, "--from"), _instant(end, "--to"))
    if not 1 <= span.seconds <= _LONGEST_SECONDS:
        raise InvalidValue(
            f"{span.seconds:g} s from {start} to {end}", where="--to", hint="give a later end, within 400 days"
        )
    return span


def _instant(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise InvalidValue(
                f"{text!r} is no instant", where=option, hint="write 2026-11-01T08:00:00Z, or Unix seconds"
            ) from None
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= value <= 1e11:  # NaN is neither
        raise InvalidValue(f"{text!r} is no instant", where=option, hint="Unix seconds, not milliseconds")
    return value


def describe(
    found: PastJob, history: History, span: Span, step: float, spec: JobSpec, tokens: int, hardware: str | None,
    price: Price | None,
) -> dict[str, Any]:  # fmt: skip
    """The document of `tokenstone score`. Its keys are stable: scripts and `tokenstone what-if` rely on them."""
    devices = [
        RunDevice(id=d.id, node=d.node, model=d.model, hardware=hardware or catalogue.identify(d.model))
        for d in found.devices
    ]
    outcome = Outcome(0, span.start, span.seconds, 0.0, 0, None)
    facts = bracketed_facts(outcome, devices, history.rows, tokens=tokens)
    view = RunView(
        run_id="past", cluster="default", spec_id=spec.spec_id, spec=spec, devices=devices, state=RunState.COMPLETE,
        reason="", created_unix_seconds=span.start, started_unix_seconds=span.start, ended_unix_seconds=span.end,
    )  # fmt: skip
    e = evaluate(view, facts, windows=history.rows, price=price)
    energy, energy_from = _energy(devices, history.rows, span)
    hours = e.ledger.allocated_seconds / 3600
    return {
        "job": spec.preset,
        "selected_by": found.matchers,
        "start_unix_seconds": span.start,
        "end_unix_seconds": span.end,
        "window_seconds": step,
        "devices": len(devices),
        "nodes": sorted({device.node for device in devices}),
        "hardware": sorted({device.hardware or f"unknown: {device.model or 'no name'}" for device in devices}),
        "coverage_ratio": _coverage(devices, history.rows, span),
        "allocated_seconds": e.ledger.allocated_seconds,
        "device_hours": hours,
        "ledger_seconds": e.ledger.seconds,
        "residual_seconds": e.ledger.residual_seconds,
        "score": e.score,
        "validity": e.validity,
        "validity_notes": [REASONS[code] for code in e.validity],
        "tokens": tokens,
        "price": price.model_dump(mode="json") if price else None,
        "usd": None if price is None else price.usd_per_device_hour * hours,
        "usd_per_million_tokens": e.bill.usd_per_million_tokens if e.bill else None,
        "device_seconds_per_million_tokens": e.bill.device_seconds_per_million_tokens if e.bill else None,
        "joules": energy,
        "joules_provenance": energy_from,
        "joules_per_token": None if energy is None or not tokens else energy / tokens,
        "panel": [row.model_dump(mode="json") for row in e.panel],
        "advice": [advice.model_dump(mode="json") for advice in e.advice],
        "roofline": e.roofline,
        "provenance": facts.provenance,
        "cannot_be_known": list(UNKNOWABLE),
        "notes": history.notes,
    }


def _coverage(devices: Sequence[RunDevice], windows: Sequence[WindowRow], span: Span) -> float:
    """Share of the devices' time for which utilization was recorded."""
    names = {device.id for device in devices}
    seconds = math.fsum(
        window.duration_seconds
        for window in windows
        if window.metric == "accel_busy_ratio" and window.device in names and window.mean is not None
    )
    return min(1.0, seconds / (span.seconds * len(devices)))


def _energy(devices: Sequence[RunDevice], windows: Sequence[WindowRow], span: Span) -> tuple[float | None, str]:
    """By the devices' own counters, else by their mean power; absent unless each of them told one."""
    counted = joules(devices, windows)
    if counted is not None:
        return counted, "measured: the devices' energy counters"
    watts: dict[str, list[float]] = {}
    for window in windows:
        if window.metric == "accel_power_watts" and window.mean is not None:
            watts.setdefault(window.device, []).append(window.mean)
    if not all(device.id in watts for device in devices):
        return None, "absent: neither an energy counter nor power of every device"
    total = math.fsum(math.fsum(watts[device.id]) / len(watts[device.id]) for device in devices)
    return total * span.seconds, "derived: mean power x time"
