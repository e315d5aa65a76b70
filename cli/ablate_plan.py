"""What `ablate` compares: each technique as the same training without it and with it, and nothing else changed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.run import TrainingLayout, TrainingSpec

LATENCY_SECONDS = 0.01
"""Of the simulated link under which overlap is compared."""
PIPELINE = 2
MICRO_BATCHES = 4
"""What DualPipeV needs at least: two for each of its pipeline ranks."""
LAYERS = 2 * PIPELINE
"""A V-shaped schedule gives each pipeline rank two stages, and no stage is empty."""
SEQUENCES = 2 * MICRO_BATCHES
"""A multiple of these divides among two data-parallel ranks and then into micro-batches."""

STEPS_ALONE = 4
"""Times as many steps where one rank is compared with one rank."""

Side = Literal["off", "on"]
Beside = Literal["max_violation", "bubble_ratio", "loss_last", "peak_memory_bytes"]


@dataclass(frozen=True, slots=True)
class Technique:
    """Two trainings that differ in one technique."""

    name: str
    title: str
    """What it is, in one line."""
    off: TrainingSpec
    on: TrainingSpec
    conditions: str
    """Under what both are run, and what of it is simulated."""
    beside: tuple[Beside, ...] = ()
    """Figures by which it is judged beside tokens per second."""

    def spec(self, side: Side) -> TrainingSpec:
        """The training of one side."""
        return self.off if side == "off" else self.on


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of the plan."""

    technique: Technique
    side: Side
    repetition: int
    """From 1."""
    repetitions: int

    @property
    def title(self) -> str:
        """Such as "fp8 on 2/3"."""
        return f"{self.technique.name} {self.side} {self.repetition}/{self.repetitions}"


def parse_rate(text: str) -> float:
    """Bits per second of "200mbit", "1gbit" or "64kbit", as tc writes them. Raises InvalidValue."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(k|m|g)bit", text.strip().lower())
    if found is None or not float(found[1]) > 0:
        raise InvalidValue(f"a rate of {text!r}", where="--link-rate", hint="write it as 200mbit, 1gbit or 500kbit")
    return float(found[1]) * {"k": 1e3, "m": 1e6, "g": 1e9}[found[2]]


def base_spec(preset: TrainingSpec, steps: int, **link: Any) -> TrainingSpec:
    """The training that all comparisons share: the preset's, with layers and sequences enough for every layout.

    On one rank; the learning is the preset's, and nothing that is compared is on but balancing and the routing limit.
    `link`: the spec's fields of a limited link between ranks.
    """
    model = preset.model.model_copy(update={"layers": max(preset.model.layers, LAYERS)})
    return _changed(
        preset,
        model=model.model_dump(),
        batch_sequences=math.ceil(preset.batch_sequences / SEQUENCES) * SEQUENCES,
        steps=steps,
        balancing="none",
        balance_alpha=0.0,
        linear_precision="dtype",
        dispatch_precision="dtype",
        combine_precision="dtype",
        recompute="none",
        prediction_depths=0,
        simulated_latency_seconds=0.0,
        layout=TrainingLayout().model_dump(),
        redundant_experts=0,
        **link,
    )


def plan(base: TrainingSpec, names: Sequence[str] = ()) -> list[Technique]:
    """The techniques called `names` (default: all), in the order of TECHNIQUES. Raises UnknownName, InvalidValue."""
    for name in names:
        if name not in TECHNIQUES:
            raise UnknownName("technique", name, TECHNIQUES, where="--techniques")
    return [make(base) for name, make in TECHNIQUES.items() if not names or name in names]


def in_order(techniques: Sequence[Technique], repetitions: int) -> Iterator[PlannedRun]:
    """The runs, one technique after another; without and with it take turns, so that a drift falls on both alike."""
    sides: tuple[Side, Side] = ("off", "on")
    for technique in techniques:
        for repetition in range(1, repetitions + 1):
            for side in sides:
                yield PlannedRun(technique, side, repetition, repetitions)


def _changed(spec: TrainingSpec, **changes: Any) -> TrainingSpec:
    """The spec with some fields changed, and checked again."""
    return TrainingSpec.model_validate(spec.model_dump() | changes)


def _laid_out(spec: TrainingSpec, **layout: Any) -> TrainingSpec:
    return _changed(spec, layout=spec.layout.model_dump() | layout)


def _alone(base: TrainingSpec) -> TrainingSpec:
    """On one rank. Its steps are short beside the start of a process, so there can be more of them, for less noise."""
    return _changed(base, steps=STEPS_ALONE * base.steps, link_bits_per_second=None, link_simulated=False)


def _linked(base: TrainingSpec, text: str) -> str:
    """`text` of the conditions, and the link's."""
    if base.link_bits_per_second is None:
        return text
    how = "simulated: waits in exchanges of tokens" if base.link_simulated else "loopback limited by tc"
    return f"{text}; link of {base.link_bits_per_second / 1e6:g} Mbit/s ({how})"


def _balancing(base: TrainingSpec) -> Technique:
    base = _alone(base)
    return Technique(
        "balancing",
        "load balancing without an auxiliary loss: a bias on each expert, for the choice alone",
        _changed(base, bias_update_rate=0.0),
        _changed(base, bias_update_rate=base.bias_update_rate or 1e-3),
        f"one rank, {base.steps} steps",
        ("max_violation",),
    )


def _routing_limit(base: TrainingSpec) -> Technique:
    model = base.model
    experts = model.experts
    if experts is None or experts.groups == 1:
        raise InvalidValue(
            f"{model.name} has no groups of experts to limit", where="--techniques routing-limit",
            hint="leave it out, or use another --preset",
        )  # fmt: skip
    spread = _laid_out(base, experts=2)
    limit = min(experts.active_groups, experts.groups - 1)

    def limited(groups: int) -> TrainingSpec:
        changed = model.model_copy(update={"experts": experts.model_copy(update={"active_groups": groups})})
        return _changed(spread, model=changed.model_dump())

    return Technique(
        "routing-limit",
        f"each token is sent to experts of at most {limit} of {experts.groups} groups",
        limited(experts.groups),
        limited(limit),
        _linked(base, "experts on 2 ranks"),
        ("loss_last",),
    )


def _schedule(base: TrainingSpec) -> Technique:
    layout = {"pipeline": PIPELINE, "micro_batches": MICRO_BATCHES, "overlap": False}
    return Technique(
        "schedule",
        "DualPipeV, bidirectional and with split backward passes, rather than 1F1B; neither overlaps",
        _laid_out(base, **layout, schedule="1F1B"),
        _laid_out(base, **layout, schedule="DualPipeV"),
        _linked(base, f"pipeline of 2 ranks, {MICRO_BATCHES} micro-batches"),
        ("bubble_ratio",),
    )


def _overlap(base: TrainingSpec) -> Technique:
    slow = _changed(base, simulated_latency_seconds=LATENCY_SECONDS)
    layout = {"pipeline": PIPELINE, "experts": 2, "schedule": "DualPipeV", "micro_batches": MICRO_BATCHES}
    return Technique(
        "overlap",
        "DualPipeV runs the forward of one micro-batch behind the exchanges of another's backward",
        _laid_out(slow, **layout, overlap=False),
        _laid_out(slow, **layout, overlap=True),
        _linked(
            base,
            f"pipeline of 2 x experts on 2 ranks; simulated: each exchange takes {LATENCY_SECONDS * 1000:g} ms longer",
        ),
    )


def _fp8(base: TrainingSpec) -> Technique:
    base = _alone(base)
    return Technique(
        "fp8",
        "matrix multiplications in FP8 with fine-grained scales, master weights as before",
        base,
        _changed(base, linear_precision="fp8"),
        f"one rank, {base.steps} steps",
        ("loss_last",),
    )


def _fp8_dispatch(base: TrainingSpec) -> Technique:
    spread = _laid_out(base, experts=2)
    return Technique(
        "fp8-dispatch",
        "tokens travel to their experts in FP8 and home in BF16",
        spread,
        _changed(spread, dispatch_precision="fp8", combine_precision="bf16"),
        _linked(base, "experts on 2 ranks"),
        ("loss_last",),
    )


def _recomputation(base: TrainingSpec) -> Technique:
    base = _alone(base)
    return Technique(
        "recomputation",
        "activations of whole blocks are computed again rather than kept: less memory for more time",
        base,
        _changed(base, recompute="blocks"),
        f"one rank, {base.steps} steps",
        ("peak_memory_bytes",),
    )


TECHNIQUES: Mapping[str, Callable[[TrainingSpec], Technique]] = {
    "balancing": _balancing,
    "routing-limit": _routing_limit,
    "schedule": _schedule,
    "overlap": _overlap,
    "fp8": _fp8,
    "fp8-dispatch": _fp8_dispatch,
    "recomputation": _recomputation,
}
