"""The list of sources. Adding one is a file in sources/ and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from collector.clock import Clock
from collector.sources.agent import AgentSource, Delivery
from collector.sources.attribution import AttributionSource
from collector.sources.base import Source
from collector.sources.cpu import CpuSource
from collector.sources.disk import DiskSource
from collector.sources.ethernet import EthernetSource
from collector.sources.filesystem import FilesystemSource
from collector.sources.infiniband import InfinibandSource
from collector.sources.job_use import JobUseSource
from collector.sources.lustre import LustreSource
from collector.sources.memory import MemorySource
from collector.sources.nfs import NfsSource
from collector.sources.numa import NumaSource
from collector.sources.nvml import NvmlSource
from collector.sources.pause import PauseSource
from collector.sources.pci import MAKERS, makers_present
from collector.sources.pressure import PressureSource
from collector.sources.remembering import Remembering
from collector.sources.resctrl import ResctrlSource
from collector.sources.tool import Commands, live_commands, recorded_commands
from tokenstone.errors import InvalidValue, UnknownName

if TYPE_CHECKING:
    from collector.config import AgentSettings


_ACCELERATORS = {"nvml", "dcgm_exporter", *MAKERS} - {"hccn"}
RECORDED_TOOLS = "tools"
"""The folder of a recorded node that holds what tools printed."""


def _load(module: str, name: str) -> Callable[..., Any]:
    """Return a source that most nodes do not need, loaded only when it is made: memory is most of the agent's cost."""
    made: Callable[..., Any] = getattr(importlib.import_module(f"collector.sources.{module}"), name)
    return made


def _commands(settings: AgentSettings) -> Commands:
    folder = settings.root / RECORDED_TOOLS
    return recorded_commands(folder) if folder.is_dir() else live_commands(settings.tools)


def _exporter(name: str, url: str | None) -> Source:
    if url is None:
        raise InvalidValue(f"the source {name} needs the exporter's address", where=name, hint=f"set {name}")
    exporters = importlib.import_module("collector.sources.exporters")
    mapping = importlib.import_module(f"collector.sources.{name}")
    source: Source = exporters.ExporterSource(name, url, mapping.METRICS, mapping.to_parts)
    return source


def _attribution(settings: AgentSettings, _: Clock) -> Source:
    return AttributionSource(settings.root, list)  # build_sources gives it the accelerators


# The order in which a tick reads them: what changes fastest and costs most comes first.
SOURCES: dict[str, Callable[[AgentSettings, Clock], Source]] = {
    "nvml": lambda settings, clock: NvmlSource(
        clock,
        slow_seconds=settings.nvml_slow_seconds,
        rare_seconds=settings.nvml_rare_seconds,
        skip=settings.nvml_skip,
        processes=settings.nvml_processes,
    ),
    "amd": lambda _, clock: _load("amd", "AmdSource")(clock.monotonic),
    "moorethreads": lambda _, clock: _load("moorethreads", "MooreThreadsSource")(clock.monotonic),
    "intel": lambda settings, clock: _load("intel", "IntelSource")(settings.root, clock.monotonic),
    "intel_xpu": lambda settings, _: _load("intel_xpu", "IntelXpuSource")(_commands(settings)),
    "ascend": lambda settings, _: _load("ascend", "AscendSource")(_commands(settings)),
    "hccn": lambda settings, _: _load("hccn", "HccnSource")(_commands(settings)),
    "hygon": lambda settings, _: _load("hygon", "HygonSource")(_commands(settings)),
    "cambricon": lambda settings, _: _load("cambricon", "CambriconSource")(_commands(settings)),
    "iluvatar": lambda settings, _: _load("iluvatar", "IluvatarSource")(_commands(settings)),
    "metax": lambda settings, _: _load("metax", "MetaxSource")(_commands(settings)),
    "kunlun": lambda settings, _: _load("kunlun", "KunlunSource")(_commands(settings)),
    "dcgm_exporter": lambda settings, _: _exporter("dcgm_exporter", settings.dcgm_exporter),
    "node_exporter": lambda settings, _: _exporter("node_exporter", settings.node_exporter),
    "cpu": lambda settings, _: CpuSource(settings.root),
    "memory": lambda settings, _: MemorySource(settings.root),
    "pressure": lambda settings, _: PressureSource(settings.root),
    "ethernet": lambda settings, _: EthernetSource(settings.root),
    "infiniband": lambda settings, clock: InfinibandSource(settings.root, clock.monotonic),
    "pause": lambda settings, _: PauseSource(settings.root, _commands(settings)),
    "numa": lambda settings, _: NumaSource(settings.root),
    "resctrl": lambda settings, clock: ResctrlSource(settings.root, clock.monotonic),
    "nfs": lambda settings, _: NfsSource(settings.root),
    "lustre": lambda settings, clock: LustreSource(settings.root, clock.monotonic),
    "job_use": lambda settings, clock: JobUseSource(settings.root, clock.monotonic),
    "attribution": _attribution,
    "disk": lambda settings, _: DiskSource(settings.root),
    "filesystem": lambda settings, _: FilesystemSource(settings.root),
}
"""Sources by name."""


# What a site's own exporters give already; two readings of one thing would count it twice.
_REPLACED = {
    "dcgm_exporter": ("nvml",),
    "node_exporter": ("cpu", "memory", "pressure", "ethernet", "disk", "filesystem"),
}


def _wanted(settings: AgentSettings) -> list[str]:
    """Return the names of the sources to read: those asked for, else all that this node can have."""
    for name in (*settings.sources, *settings.exclude_sources):
        if name not in SOURCES:
            raise UnknownName("source", name, SOURCES)
    if settings.sources:
        wanted = [name for name in SOURCES if name in settings.sources]
    else:
        there = makers_present(settings.root)
        exporters = [name for name in _REPLACED if getattr(settings, name) is not None]
        replaced = {name for exporter in exporters for name in _REPLACED[exporter]}
        wanted = [
            name
            for name in SOURCES
            if (name in there if name in MAKERS else name in exporters if name in _REPLACED else name not in replaced)
        ]
    return [name for name in wanted if name not in settings.exclude_sources]


def build_sources(
    settings: AgentSettings, *, clock: Clock | None = None, delivery: Callable[[], Delivery] | None = None
) -> list[Source]:
    """Make the sources that the settings ask for, the agent's own last; raises UnknownName.

    Where none is asked for, those of accelerators are made whose makers have a device here, and NVIDIA's always. Each
    can be read at once (`collector.sources.base.take`); close them when done.
    """
    clock = clock or Clock()
    sources: list[Source] = []
    accelerators: list[Remembering] = []
    for name in _wanted(settings):
        if name == "attribution":
            sources.append(AttributionSource(settings.root, lambda: [source.latest for source in accelerators]))
        elif name in _ACCELERATORS:
            accelerators.append(Remembering(SOURCES[name](settings, clock)))
            sources.append(accelerators[-1])
        else:
            sources.append(SOURCES[name](settings, clock))
    sources.append(AgentSource(delivery))
    for source in sources:
        if source.deadline_seconds <= Source.deadline_seconds:  # a tool's own is longer than what it runs may take
            source.deadline_seconds = settings.deadline_seconds
    return sources
