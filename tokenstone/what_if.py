"""What if: the bill of a ledger under another price, network, precision, schedule, hardware or number of devices.

Each change multiplies the device-seconds of some categories and leaves the others as they were; what that takes for
granted is said with the result. The new ledger balances because it is the sum of its parts. Derivations stand in
docs/methodology.md. A change that the ledger cannot carry is refused by name: nothing is guessed.

Worked example: 100 device-seconds, 30 of them exposed communication, over a network twice as fast.

>>> base = Baseline(kind="training", seconds={"compute": 70.0, "exposed_communication": 30.0}, tokens=1000)
>>> what_if(base, Changes(link_rate_factor=2.0)).after.seconds
{'compute': 70.0, 'exposed_communication': 15.0}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from tokenstone import hardware as catalogue
from tokenstone.cost import Bill, Price, TokenKind, make_bill
from tokenstone.errors import InvalidValue, UsageError
from tokenstone.ledger import TOLERANCE
from tokenstone.project import Chunks, closed_form_bubble
from tokenstone.score.bubble import expected_bubble_ratio

PipelineSchedule = Literal["1F1B", "Interleaved1F1B", "ZB1P", "ZBVZeroBubble", "DualPipe", "DualPipeV"]
WORK = ("ideal", "recompute", "kernel_inefficiency", "compute", "preemption")
"""Categories that are computation."""
WAITS_FOR_WORK = ("pipeline_bubble", "load_imbalance")
"""Categories that last as long as the computation of others."""

Positive = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=10**9)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Baseline(_Row):
    """What is known of the run as it was. None is not known; a change that needs it is then refused."""

    kind: Literal["training", "inference"]
    seconds: dict[str, float]
    """The ledger: device-seconds by category."""
    input_seconds: dict[str, float] | None = None
    """Inference: the part that prefill caused."""
    residual_seconds: float = 0.0
    tokens: int
    price: Price | None = None
    devices: Count | None = None
    hardware: str | None = None
    """What the peak belongs to, a catalogue name if it is in there."""
    dtype: str | None = None
    peak_flops_per_second: float | None = None
    memory_bytes_per_second: float | None = None
    hidden_communication_seconds: float | None = None
    """Device-seconds of communication that ran behind computation."""
    schedule: PipelineSchedule | None = None
    pipeline: Count | None = None
    micro_batches: Count | None = None
    source: str = ""


class Changes(_Row):
    """What is to be otherwise; None stays as it was. They apply in the order in which they stand here."""

    devices: Count | None = None
    hardware: str | None = None
    precision: str | None = None
    schedule: PipelineSchedule | None = None
    link_rate_factor: Positive | None = None
    price: Price | None = None


class Side(_Row):
    """The run as it was, or as it would be."""

    seconds: dict[str, float]
    allocated_seconds: float
    bill: Bill | None


class WhatIf(_Row):
    """Both sides, and everything that the second takes for granted."""

    provenance: Literal["simulated"] = "simulated"
    changes: dict[str, str]
    before: Side
    after: Side
    cost_ratio: float | None
    """After over before, in dollars where both have a price, else in device-seconds; None without either."""
    assumptions: list[str]
    source: str


Seconds = dict[str, float]


def what_if(base: Baseline, changes: Changes) -> WhatIf:
    """Work out the other bill. Raises UsageError for no change, InvalidValue or UnknownName for one it cannot carry."""
    told = {name: _said(value) for name in type(changes).model_fields if (value := getattr(changes, name))}
    if not told:
        raise UsageError("nothing is to be otherwise", hint="give a price, a link rate factor, hardware, ...")
    allocated = math.fsum(base.seconds.values()) + base.residual_seconds
    if allocated <= 0 or abs(base.residual_seconds) > TOLERANCE * allocated:
        raise InvalidValue("its ledger does not balance, so no part of it can be moved", where=base.source)
    seconds, assumptions, now = dict(base.seconds), [], base
    for name, change in _CHANGES.items():
        wanted = getattr(changes, name)
        if wanted is not None:
            seconds, assumed, now = change(now, seconds, wanted)
            assumptions += assumed
    if changes.price is not None:
        now = now.model_copy(update={"price": changes.price})
        assumptions.append(f"a device-hour costs ${changes.price.usd_per_device_hour:g}: {changes.price.source}")
    before, after = _side(base, base.seconds, base.price), _side(base, seconds, now.price)
    return WhatIf(
        changes=told, before=before, after=after, cost_ratio=_ratio(before, after, base.price, now.price),
        assumptions=assumptions, source=base.source,
    )  # fmt: skip


def _said(value: object) -> str:
    return f"${value.usd_per_device_hour:g} per device-hour" if isinstance(value, Price) else str(value)


def _side(base: Baseline, seconds: Seconds, price: Price | None) -> Side:
    kind: TokenKind = "trained" if base.kind == "training" else "input and output"
    return Side(
        seconds=seconds, allocated_seconds=math.fsum(seconds.values()),
        bill=make_bill(seconds, base.tokens, kind, price),
    )  # fmt: skip


def _ratio(before: Side, after: Side, old: Price | None, new: Price | None) -> float | None:
    if (old is None) != (new is None):
        return None
    ratio = after.allocated_seconds / before.allocated_seconds
    if old is None or new is None:
        return ratio
    ratio *= new.usd_per_device_hour / old.usd_per_device_hour if old.usd_per_device_hour else math.inf
    return ratio if math.isfinite(ratio) else None


def _scaled(seconds: Seconds, factors: Mapping[str, float]) -> Seconds:
    return {name: value * factors.get(name, 1.0) for name, value in seconds.items()}


def _missing(what: str, change: str, hint: str) -> InvalidValue:
    return InvalidValue(f"the ledger does not carry {what}, which --{change} needs", where=f"--{change}", hint=hint)


Changed = tuple[Seconds, list[str], Baseline]


def _devices(base: Baseline, seconds: Seconds, count: int) -> Changed:
    """The same tokens on n devices instead of N: work is divided, whatever else a device does it does as long."""
    if base.kind == "inference":
        raise InvalidValue(
            "how requests would spread over other devices is not in the ledger", where="--devices",
            hint="run `tokenstone infer` there",
        )  # fmt: skip
    if base.devices is None:
        raise _missing("the number of devices", "devices", "give the run itself, or a result that names its devices")
    factor = count / base.devices
    others = {name: factor for name in seconds if name not in WORK}
    return _scaled(seconds, others), [
        f"the same tokens and the same global batch on {count:,} devices instead of {base.devices:,}: computation is "
        "divided evenly; communication, waiting, host, start-up and idle time stay as long on each device"
    ], base.model_copy(update={
        "devices": count,
        "hidden_communication_seconds": _times(base.hidden_communication_seconds, factor),
    })  # fmt: skip


def _hardware(base: Baseline, seconds: Seconds, name: str) -> Changed:
    """Computation at the same share of another device's limit: FLOPs by its peak, decoding by its bandwidth."""
    other = catalogue.get(name)
    if base.peak_flops_per_second is None or base.dtype is None or "ideal" not in seconds:
        raise _missing("work at the hardware's limit", "hardware", "its peak, or its FLOPs, were not known")
    peak = other.peak(base.dtype)
    by_flops = base.peak_flops_per_second / peak.value
    assumed = [
        f"kernels reach the same share of {name}'s {peak.value / 1e12:,.4g} TFLOP/s {base.dtype} ({peak.source}) as of "
        f"{base.peak_flops_per_second / 1e12:,.4g}; who waits for them waits in proportion",
        "links, host, input and checkpoints take as long as they did: add --link-rate-factor for another network",
    ]
    prefill = base.input_seconds
    bandwidth = other.figure("memory_bytes_per_second")
    if base.kind == "inference":
        if prefill is None or base.memory_bytes_per_second is None or bandwidth is None:
            raise _missing("memory bandwidth and prefill's part", "hardware", "decoding is bound by memory")
        by_bytes = base.memory_bytes_per_second / bandwidth.value
        read = {name: prefill.get(name, 0.0) for name in seconds}
        changed = {
            name: read[name] * by_flops + (value - read[name]) * by_bytes if name in WORK else value
            for name, value in seconds.items()
        }
        assumed.append("prefill is bound by FLOPs and decoding by memory bandwidth, all of it")
    else:
        changed = _scaled(seconds, dict.fromkeys((*WORK, *WAITS_FOR_WORK), by_flops))
    price = base.price
    if price is not None:
        assumed.append(
            f"a device-hour costs ${price.usd_per_device_hour:g} as before, unless --price-... says otherwise"
        )
    changed, uncovered, hidden = _uncovered(base, seconds, changed)
    return changed, assumed + uncovered, base.model_copy(update={
        "hidden_communication_seconds": hidden, "hardware": name, "peak_flops_per_second": peak.value,
        "memory_bytes_per_second": bandwidth.value if bandwidth else None,
    })  # fmt: skip


def _precision(base: Baseline, seconds: Seconds, dtype: str) -> Changed:
    """The model's FLOPs at another format's peak; what kernels lose beside them they lose as before."""
    if base.kind == "inference":
        raise InvalidValue(
            "bytes of weights and cache in another format are not in a serving ledger", where="--precision",
            hint="run `tokenstone infer` in that format",
        )  # fmt: skip
    if base.peak_flops_per_second is None or base.dtype is None or "ideal" not in seconds:
        raise _missing("work at the hardware's limit", "precision", "its peak, or its FLOPs, were not known")
    if base.hardware is None or base.hardware not in catalogue.catalogue():
        raise _missing("hardware of the catalogue", "precision", "only its devices have peaks in several formats")
    peak = catalogue.get(base.hardware).peak(dtype)
    factor = base.peak_flops_per_second / peak.value
    changed = _scaled(seconds, dict.fromkeys(("ideal", "recompute"), factor))
    changed, uncovered, hidden = _uncovered(base, seconds, changed)
    return changed, [
        f"all model FLOPs run in {dtype} at {peak.value / 1e12:,.4g} TFLOP/s ({peak.source}); kernel inefficiency, "
        "bytes sent and quantisation are not changed, and the model still converges", *uncovered
    ], base.model_copy(update={
        "dtype": dtype, "peak_flops_per_second": peak.value, "hidden_communication_seconds": hidden,
    })  # fmt: skip


def _uncovered(base: Baseline, before: Seconds, after: Seconds) -> tuple[Seconds, list[str], float | None]:
    """Shorter computation hides less communication: what it no longer covers is exposed. Longer hides what it did."""
    hidden = base.hidden_communication_seconds
    if hidden is None:
        return after, ["communication that hides behind computation still does"], None
    work = math.fsum(before.get(name, 0.0) for name in WORK)
    share = math.fsum(after.get(name, 0.0) for name in WORK) / work if work else 1.0
    left = hidden * min(1.0, share)
    if left == hidden:
        return after, [], hidden
    exposed = after.get("exposed_communication", 0.0) + hidden - left
    assumed = [f"{hidden - left:,.4g} device-seconds of communication lose the computation that hid them"]
    return after | {"exposed_communication": exposed}, assumed, left


def bubble_over_work(schedule: PipelineSchedule, pipeline: int, micro_batches: int) -> float:
    """A rank's waiting over its work by the closed forms of project.py and score/bubble.py, for even stages, F = I = W.

    >>> [round(bubble_over_work(s, 8, 16), 4) for s in ("1F1B", "Interleaved1F1B", "ZB1P", "DualPipe")]
    [0.4375, 0.2188, 0.1458, 0.125]
    """
    if schedule in {"1F1B", "ZB1P", "DualPipe"}:
        even = Chunks(forward=1.0, backward=2.0, weight=1.0, pair=3.0)
        return closed_form_bubble(cast(Any, schedule), pipeline, even) / (micro_batches * 3.0)
    ratio = expected_bubble_ratio(cast(Any, schedule), pipeline, micro_batches)
    return ratio / (1 - ratio)


def _schedule(base: Baseline, seconds: Seconds, schedule: PipelineSchedule) -> Changed:
    """The measured bubble in proportion to the closed forms: what it had beyond its own form it keeps in proportion."""
    if base.schedule is None or base.pipeline is None or base.micro_batches is None or base.pipeline < 2:
        hint = "it had no pipeline, or give --from-schedule, --pipeline and --micro-batches"
        raise _missing("a pipeline's schedule, stages and micro-batches", "schedule", hint)
    if schedule == "DualPipe" and base.pipeline % 2:
        raise InvalidValue(f"DualPipe on {base.pipeline} stages", where="--schedule", hint="it needs an even number")
    old = bubble_over_work(base.schedule, base.pipeline, base.micro_batches)
    new = bubble_over_work(schedule, base.pipeline, base.micro_batches)
    return _scaled(seconds, {"pipeline_bubble": new / old}), [
        f"the measured bubble changes as the closed forms do, {old:.3g} to {new:.3g} of the work, with "
        f"{base.pipeline} even stages, {base.micro_batches} micro-batches and F = I = W; forward and backward do not "
        "run at once; communication stays as exposed; memory is not checked"
    ], base.model_copy(update={"schedule": schedule})  # fmt: skip


def _link(base: Baseline, seconds: Seconds, factor: float) -> Changed:
    """Communication takes 1/k as long: E' = max(0, (E + H) / k - H), with H hidden behind computation."""
    exposed = seconds.get("exposed_communication", 0.0)
    hidden = base.hidden_communication_seconds
    if hidden is None and factor < 1:
        raise _missing(
            "hidden communication", "link-rate-factor", "a slower network would uncover it; give a result of `trace`"
        )
    after = exposed / factor if hidden is None else max(0.0, exposed / factor - hidden * (1 - 1 / factor))
    assumed = [f"links carry {factor:g} times as much and all communication is bound by them, not by latency"]
    if factor != 1:
        assumed.append(
            "how much communication hides behind computation is not known: the saving is at least that"
            if hidden is None
            else f"{hidden:,.4g} device-seconds of communication hide behind computation, and as much can"
        )
    changed = seconds | ({"exposed_communication": after} if after or "exposed_communication" in seconds else {})
    return changed, assumed, base


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


_CHANGES: dict[str, Callable[[Baseline, Seconds, Any], Changed]] = {
    "devices": _devices,
    "hardware": _hardware,
    "precision": _precision,
    "schedule": _schedule,
    "link_rate_factor": _link,
}
