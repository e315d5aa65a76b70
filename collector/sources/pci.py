"""Whose accelerators are in this node, by what the kernel sees on the PCI bus.

So a node is not asked for the tools and drivers of makers whose devices it does not have, and their sources are not
shown as down. Vendors' numbers are those of the PCI ID list (pci-ids.ucw.cz); classes tell an accelerator from the
network adapter, bridge or small graphics unit of the same maker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_FOLDER = "sys/bus/pci/devices"
_DISPLAY, _COPROCESSOR, _ACCELERATOR = ("0x0302", "0x0380"), ("0x0b40",), ("0x1200",)
_COMPUTE = (*_DISPLAY, *_COPROCESSOR, *_ACCELERATOR)

MAKERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "amd": ("0x1002", _COMPUTE),
    "moorethreads": ("0x1ed5", ("0x03", *_ACCELERATOR)),
    "intel": ("0x8086", (*_DISPLAY, *_ACCELERATOR)),
    "intel_xpu": ("0x8086", (*_DISPLAY, *_ACCELERATOR)),
    "ascend": ("0x19e5", _ACCELERATOR),
    "hccn": ("0x19e5", _ACCELERATOR),
    "hygon": ("0x1d94", _COMPUTE),
    "cambricon": ("0xcabc", _COMPUTE),
    "iluvatar": ("0x1e3e", _COMPUTE),
    "metax": ("0x9999", _COMPUTE),
    "kunlun": ("0x1d22", _COMPUTE),
}
"""For each source of accelerators, the vendor of its devices and how their class begins."""


def _devices(root: Path) -> Iterator[tuple[str, str]]:
    for folder in (root / _FOLDER).glob("*"):
        try:
            yield (folder / "vendor").read_text().strip().lower(), (folder / "class").read_text().strip().lower()
        except OSError:
            continue


def makers_present(root: Path) -> set[str]:
    """Return the sources of `MAKERS` whose devices are in the node below `root`."""
    found = set(_devices(root))
    return {
        source
        for source, (vendor, classes) in MAKERS.items()
        if any(maker == vendor and kind.startswith(classes) for maker, kind in found)
    }
