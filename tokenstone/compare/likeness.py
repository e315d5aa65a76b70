"""Like with like: whether two sides did the same work, and if not, what differs, field by field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenstone.compare.side import Row, RunFigures, Side

_ABSENT = "absent"


class FieldDifference(Row):
    """A field in which the sides differ; several values where runs of one side differ among themselves."""

    field: str
    a: list[str]
    b: list[str]


def refusal(a: Side, b: Side) -> str:
    """Why the sides cannot be judged; empty where they can."""
    for name, side in (("A", a), ("B", b)):
        if not side.runs and side.published is None:
            return f"side {name} has no run with figures"
    kinds = {run.kind for side in (a, b) for run in side.runs} | {p.kind for p in (a.published, b.published) if p}
    if len(kinds) > 1:
        return "one side trained and the other served"
    for name, side in (("A", a), ("B", b)):
        if side.published is not None:
            return f"side {name} is a published result, whose workload spec and runs are not known"
    specs = sorted({*a.spec_ids, *b.spec_ids})
    if len(specs) > 1:
        return f"the runs are of {len(specs)} specs ({', '.join(specs)}), so they did different work"
    return ""


def spec_differences(a: Side, b: Side) -> list[FieldDifference]:
    """Fields of the workload specs that differ; empty for one spec."""
    if a.published or b.published:
        return _published_differences(a, b)
    return _differences([_flat(run.spec) for run in a.runs], [_flat(run.spec) for run in b.runs])


def environment_differences(a: Side, b: Side) -> list[FieldDifference]:
    """What differs around the work: hardware, limits, software, and what else the runs say of themselves."""
    if a.published or b.published:
        return []
    return _differences([run.environment for run in a.runs], [run.environment for run in b.runs])


def unknown_specs(a: Side, b: Side) -> bool:
    """Whether the specs differ and a run does not hold its spec, so that the fields cannot be told."""
    runs: Sequence[RunFigures] = (*a.runs, *b.runs)
    return len({run.spec_id for run in runs}) > 1 and any(run.spec is None for run in runs)


def _differences(a: Sequence[dict[str, str]], b: Sequence[dict[str, str]]) -> list[FieldDifference]:
    names = list(dict.fromkeys(name for values in (*a, *b) for name in values))
    found = []
    for name in names:
        left, right = (sorted({values.get(name, _ABSENT) for values in side}) for side in (a, b))
        if left != right:
            found.append(FieldDifference(field=name, a=left, b=right))
    return found


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """A nested spec as dotted names.

    >>> _flat({"model": {"layers": 4}, "seed": 0})
    {'model.layers': '4', 'seed': '0'}
    """
    if value is None and not prefix:
        return {}
    if not isinstance(value, dict):
        return {prefix: "none" if value is None else str(value)}
    flat: dict[str, str] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    return flat


def _published_differences(a: Side, b: Side) -> list[FieldDifference]:
    left, right = (_described(side) for side in (a, b))
    return _differences([left], [right])


def _described(side: Side) -> dict[str, str]:
    """What the two kinds of side both say of their work."""
    if side.published is not None:
        p = side.published
        return {"model": p.model, "hardware": p.hardware, "devices": p.devices, "dtype": p.dtype, "work": p.work}
    run = side.runs[0] if side.runs else None
    spec = (run.spec if run else None) or {}
    environment = run.environment if run else {}
    model = spec.get("model") or {}
    return {
        "model": str(model.get("name") or spec.get("endpoint_model") or spec.get("preset") or "unknown"),
        "hardware": environment.get("hardware", "unknown"),
        "devices": environment.get("devices", "unknown"),
        "dtype": str(spec.get("dtype", "unknown")),
        "work": f"spec {', '.join(side.spec_ids) or 'unknown'}",
    }
