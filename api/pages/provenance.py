"""Where a page's figures come from: limits, prices, conventions, versions, hashes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from api.pages.bars import run_title
from api.pages.format import count, money, si
from tokenstone.evaluate import REASONS, Evaluation
from tokenstone.report import Report, Section
from tokenstone.run import AnySpec, TrainingSpec
from tokenstone.wire import RunDevice

_SAMPLE = "sample"
"""Provenance key under which a run keeps text that its model generated."""


@dataclass(frozen=True, slots=True)
class Code:
    """A validity code, what it means, and the runs that have it."""

    code: str
    meaning: str
    runs: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where the figures of one run come from: its machine, its work, and what they were measured with."""

    runs: str
    nodes: list[tuple[str, str]]
    layout: str
    spec: str
    """As JSON."""
    command: str
    """Empty where no command does that work again."""
    command_note: str
    roofline: list[tuple[str, str]]
    roofline_absent_reason: str
    measured_with: list[tuple[str, str]]
    conventions: list[str]
    inputs_hash: str


@dataclass(frozen=True, slots=True)
class Sample:
    """Text that a run's model generated."""

    run: str
    text: str


def codes(report: Report) -> list[Code]:
    """Return the validity codes of the report."""
    return [
        Code(code, note, ", ".join(run_title(s) for s in report.sections if code in s.evaluation.validity))
        for code, note in zip(report.validity, report.validity_notes, strict=True)
    ]


def sources(report: Report) -> list[Source]:
    """Return each run's provenance."""
    return [_source(section) for section in report.sections]


def samples(report: Report) -> list[Sample]:
    """Return the generated texts, each once."""
    found = {s.evaluation.provenance[_SAMPLE]: run_title(s) for s in reversed(report.sections)
             if s.evaluation.provenance.get(_SAMPLE)}  # fmt: skip
    return [Sample(run, text) for text, run in reversed(found.items())]


def price_components(report: Report) -> list[tuple[str, str]]:
    """Return the components of an owned price, in dollars per device-hour."""
    parts = (report.price.components if report.price else None) or {}
    return [(name.replace("_", " "), money(usd)) for name, usd in parts.items()]


def _source(section: Section) -> Source:
    e = section.evaluation
    limit_codes = [c for c in e.validity if c in {"unknown_peak", "mixed_hardware"}]
    return Source(
        runs=run_title(section),
        nodes=_nodes(section.run.devices),
        layout=_layout(section.run.spec),
        spec=json.dumps(section.run.spec.model_dump(mode="json"), indent=1),
        command=section.reproduce.command or "",
        command_note=section.reproduce.note,
        roofline=_roofline(e),
        roofline_absent_reason="" if e.roofline else REASONS[limit_codes[0] if limit_codes else "unknown_peak"],
        measured_with=[(_words(key), _value(key, text)) for key, text in e.provenance.items() if key != _SAMPLE],
        conventions=e.conventions,
        inputs_hash=e.inputs_hash,
    )


_MOST_NODES = 8


def _nodes(devices: list[RunDevice]) -> list[tuple[str, str]]:
    """Nodes and their devices; of many, the first, and how many more there are."""
    by_node: dict[str, Counter[str]] = {}
    for device in devices:
        name = device.model or device.hardware or device.id
        kind = f"{name} ({device.hardware})" if device.hardware and device.hardware != name else name
        by_node.setdefault(device.node, Counter())[kind] += 1
    shown = [
        (node, ", ".join(f"{count(number)} × {kind}" for kind, number in kinds.items()))
        for node, kinds in list(by_node.items())[:_MOST_NODES]
    ]
    rest = len(by_node) - len(shown)
    return [*shown, (f"and {count(rest)} more", "")] if rest > 0 else shown


def _layout(spec: AnySpec) -> str:
    if not isinstance(spec, TrainingSpec):
        return ""
    layout = spec.layout
    return (
        f"{count(layout.pipeline)} pipeline ranks × {count(layout.replicas)} replicas × {count(layout.experts)} expert "
        f"shards, {layout.data_parallel}"
    )


def _roofline(e: Evaluation) -> list[tuple[str, str]]:
    if e.roofline is None:
        return []
    memory = e.roofline["memory_bytes_per_second"]
    return [
        ("hardware", str(e.roofline["hardware"])),
        ("compute", f"{si(float(e.roofline['peak_flops_per_second'] or 0), 'FLOP/s')}, {e.roofline['dtype']}"),
        ("memory", "absent: not stated for this hardware" if memory is None else si(float(memory), "B/s")),
        ("from", f"{e.roofline['provenance']}: {e.roofline['source']}"),
    ]


def _words(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ")


def _value(key: str, text: str) -> str:
    """Write the two amounts that provenance holds as bare digits with their unit or separators."""
    if not text.isdecimal():
        return text
    if key.endswith("_bytes"):
        return si(float(text), "B")
    return count(int(text)) if key == "parameters" else text
