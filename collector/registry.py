"""The list of sources. Adding one is a file in sources/ and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from collector.clock import Clock
from collector.sources.agent import AgentSource, Delivery
from collector.sources.base import Source
from collector.sources.cpu import CpuSource
from collector.sources.disk import DiskSource
from collector.sources.ethernet import EthernetSource
from collector.sources.filesystem import FilesystemSource
from collector.sources.infiniband import InfinibandSource
from collector.sources.memory import MemorySource
from collector.sources.nvml import NvmlSource
from collector.sources.pressure import PressureSource
from tokenstone.errors import UnknownName

if TYPE_CHECKING:
    from collector.config import AgentSettings

# The order in which a tick reads them: what changes fastest and costs most comes first.
SOURCES: dict[str, Callable[[AgentSettings, Clock], Source]] = {
    "nvml": lambda settings, clock: NvmlSource(
        clock,
        slow_seconds=settings.nvml_slow_seconds,
        rare_seconds=settings.nvml_rare_seconds,
        skip=settings.nvml_skip,
        processes=settings.nvml_processes,
    ),
    "cpu": lambda settings, _: CpuSource(settings.root),
    "memory": lambda settings, _: MemorySource(settings.root),
    "pressure": lambda settings, _: PressureSource(settings.root),
    "ethernet": lambda settings, _: EthernetSource(settings.root),
    "infiniband": lambda settings, clock: InfinibandSource(settings.root, clock.monotonic),
    "disk": lambda settings, _: DiskSource(settings.root),
    "filesystem": lambda settings, _: FilesystemSource(settings.root),
}
"""Sources by name."""


def build_sources(
    settings: AgentSettings, *, clock: Clock | None = None, delivery: Callable[[], Delivery] | None = None
) -> list[Source]:
    """Make the sources that the settings ask for, the agent's own last; raises UnknownName.

    Each can be read at once (`collector.sources.base.take`); close them when done.
    """
    for name in (*settings.sources, *settings.exclude_sources):
        if name not in SOURCES:
            raise UnknownName("source", name, SOURCES)
    clock = clock or Clock()
    wanted = [
        make
        for name, make in SOURCES.items()
        if (not settings.sources or name in settings.sources) and name not in settings.exclude_sources
    ]
    sources = [*(make(settings, clock) for make in wanted), AgentSource(delivery)]
    for source in sources:
        source.deadline_seconds = settings.deadline_seconds
    return sources
