"""What to change: rules over a ledger and what else was measured, each with the saving it could bring.

A rule fires only on what the data show, says what it rests on, and never promises more than the category costs: the
saving is the part of the bill above what a good run was seen to spend on it (`floor`), an upper bound.

Worked example: of 100 device-seconds, 31 are exposed communication. DeepSeek's own trace exposes 3.2 % of its span, so
overlapping could save 27.8 of the 100.

>>> [found] = advise({"ideal": 40.0, "kernel_inefficiency": 29.0, "exposed_communication": 31.0})
>>> found.rule, round(found.saving_ratio, 3)
('overlap-communication', 0.278)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires where `category` takes at least `threshold` of the device-seconds and every ratio is inside its bounds."""

    name: str
    category: str
    threshold: float
    hint: str
    floor: float = 0.0
    floor_source: str = ""
    ratios: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Measured ratios by name, from and to. A ratio that is absent keeps the rule from firing."""


RULES: tuple[Rule, ...] = (
    Rule(
        "overlap-communication", "exposed_communication", 0.05,
        "run communication behind computation (DualPipe, two micro-batches), limit routing to fewer nodes, or send "
        "FP8 to the experts",
        floor=0.032, floor_source="DeepSeek-V3's own training trace exposes 3.2 % of its span",
    ),
    Rule(
        "shrink-bubbles", "pipeline_bubble", 0.05,
        "use more micro-batches a step, or a schedule with smaller bubbles (zero-bubble, DualPipeV)",
    ),
    Rule(
        "balance-load", "load_imbalance", 0.03,
        "look for a slow node or link first; if all are even, balance the experts (bias, redundant experts)",
    ),
    Rule("feed-faster", "input_stall", 0.02, "prefetch batches in the background, with more loader processes"),
    Rule("checkpoint-behind", "checkpoint", 0.02, "write checkpoints asynchronously, or less often"),
    Rule(
        "free-the-host", "host_overhead", 0.05,
        "launch fewer and larger kernels (graphs, fusion), keep the host ahead: no synchronisation inside a step",
    ),
    Rule(
        "recompute-less", "recompute", 0.05, "keep more activations: the device's memory has room for them",
        ratios={"accelerator memory": (0.0, 0.8)},
    ),
    Rule(
        "relieve-memory", "kernel_inefficiency", 0.30,
        "kernels wait for memory: fuse them, batch more, or store in fewer bits (FP8)",
        ratios={"accelerator memory bandwidth": (0.7, 1.0)},
    ),
    Rule(
        "grow-products", "kernel_inefficiency", 0.30,
        "neither memory nor arithmetic is busy: make the matrix products larger (micro-batch, grouped experts) or use "
        "faster kernels",
        ratios={"accelerator memory bandwidth": (0.0, 0.5)},
    ),
    Rule("start-faster", "startup", 0.10, "keep compiled kernels and weights near, and run longer once started"),
    Rule("lose-less", "recovery", 0.02, "write checkpoints more often, and replace what keeps failing"),
    Rule("give-back", "idle", 0.05, "release devices that no step uses"),
    Rule("serve-with-fewer", "queue_idle", 0.20, "serve the same requests with fewer devices, or add batch work"),
    Rule(
        "meet-the-objective", "slo_miss", 0.02,
        "take fewer requests at once, or keep long prompts from delaying others (chunked or separate prefill)",
    ),
    Rule("enlarge-cache", "preemption", 0.01, "give the cache more memory, or run fewer requests at once"),
)  # fmt: skip
"""All rules, in the order of the ledger. To add one, add a row, and a case where it fires and where it must not."""


class Advice(BaseModel):
    """One thing to change. The saving is at most that, of the bill as it is."""

    model_config = ConfigDict(frozen=True)

    rule: str
    category: str
    hint: str
    rests_on: str
    saving_ratio: float
    """Share of all device-seconds, and so of the bill."""
    saving_usd_per_million_tokens: float | None


def advise(
    seconds: Mapping[str, float],
    *,
    ratios: Mapping[str, float | None] | None = None,
    usd_per_million_tokens: float | None = None,
) -> list[Advice]:
    """What the data advise, the largest saving first.

    `seconds`: a balanced ledger's device-seconds by category. `ratios`: mean utilization by resource of the panel, None
    or missing where not measured. `usd_per_million_tokens`: the whole bill's.
    """
    total = math.fsum(seconds.values())
    if total <= 0:
        return []
    found = [
        _apply(rule, seconds.get(rule.category, 0.0) / total, ratios or {}, usd_per_million_tokens) for rule in RULES
    ]
    return sorted((advice for advice in found if advice), key=lambda advice: -advice.saving_ratio)


def combine(parts: Sequence[tuple[str, float, Sequence[Advice]]], usd_per_million_tokens: float | None) -> list[Advice]:
    """Advice on several runs as advice on their common bill, the largest saving first.

    `parts`: what each run is called, its device-seconds, and its own advice. What one rule finds in several runs is one
    piece of advice. `usd_per_million_tokens`: the common bill's.
    """
    total = math.fsum(seconds for _, seconds, _ in parts)
    found: dict[str, list[tuple[str, float, Advice]]] = {}
    for name, seconds, advice in parts:
        for one in advice:
            found.setdefault(one.rule, []).append((name, one.saving_ratio * seconds / total, one))
    combined = []
    for several in found.values():
        saving = math.fsum(ratio for _, ratio, _ in several)
        grounds = "; ".join(f"{name}: {one.rests_on}" if len(parts) > 1 else one.rests_on for name, _, one in several)
        usd = None if usd_per_million_tokens is None else usd_per_million_tokens * saving
        update = {"rests_on": grounds, "saving_ratio": saving, "saving_usd_per_million_tokens": usd}
        combined.append(several[0][2].model_copy(update=update))
    return sorted(combined, key=lambda advice: -advice.saving_ratio)


def _apply(
    rule: Rule, share: float, ratios: Mapping[str, float | None], usd_per_million_tokens: float | None
) -> Advice | None:
    if share < rule.threshold:
        return None
    grounds = [f"{rule.category} takes {share:.1%} of the device-seconds"]
    for name, (low, high) in rule.ratios.items():
        measured = ratios.get(name)
        if measured is None or not low <= measured <= high:
            return None
        grounds.append(f"{name} is used to {measured:.1%}")
    if rule.floor_source:
        grounds.append(rule.floor_source)
    saving = share - rule.floor
    return Advice(
        rule=rule.name,
        category=rule.category,
        hint=rule.hint,
        rests_on="; ".join(grounds),
        saving_ratio=saving,
        saving_usd_per_million_tokens=None if usd_per_million_tokens is None else usd_per_million_tokens * saving,
    )
