"""Which accelerators are there, and does the catalogue know them?"""

from __future__ import annotations

from collections.abc import Iterable

from cli.doctor.finding import Finding, Node
from cli.doctor.sources import read_sources
from tokenstone import hardware


def check(node: Node) -> Iterable[Finding]:
    """Every accelerator that a driver reports."""
    samples = read_sources(node)
    devices = [device for sample in samples for device in sample.devices if device.kind == "accelerator"]
    if not devices:
        yield Finding(
            "accelerators", "absent", "no driver reports one", "the processor is measured instead: `tokenstone probe`"
        )
    for device in devices:
        name = hardware.identify(device.model)
        known = f"catalogue: {name}" if name else "not in the catalogue, so `tokenstone probe` measures its limit"
        yield Finding(f"accelerator {device.index}", "works", f"{device.vendor} {device.model}; {known}")
