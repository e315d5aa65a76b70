"""What does each source of the agent give on this node?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cli.doctor.finding import Finding, Node
from tokenstone.sample import Sample


def read_sources(node: Node) -> Sequence[Sample]:
    """Read every source once."""
    from collector.clock import Clock  # noqa: PLC0415  absent without the agent's extra
    from collector.config import load_settings  # noqa: PLC0415
    from collector.registry import build_sources  # noqa: PLC0415
    from collector.sources.base import take  # noqa: PLC0415

    sources = build_sources(load_settings(root=node.root))
    try:
        return [take(source, Clock()) for source in sources]
    finally:
        for source in sources:
            source.close()


def check(node: Node) -> Iterable[Finding]:
    """Readings and absences of every source."""
    for sample in read_sources(node):
        name = f"source {sample.source}"
        reasons = sorted({absence.reason for absence in sample.absences})
        if sample.error is not None:
            yield Finding(name, "absent", sample.error)
        elif not sample.readings:
            yield Finding(name, "absent", "; ".join(reasons) or "nothing to read")
        else:
            milliseconds = sample.duration_seconds * 1000
            hint = f"absent: {'; '.join(reasons)}" if reasons else ""
            yield Finding(name, "works", f"{len(sample.readings)} readings in {milliseconds:.1f} ms", hint)
