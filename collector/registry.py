"""The list of sources. Adding one is a file in sources/ and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

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
from collector.sources.replayed import ReplayedSource
from collector.sources.resctrl import ResctrlSource
from collector.sources.tool import Commands, live_commands, recorded_commands
from tokenstone.errors import InvalidValue, UnknownName

if TYPE_CHECKING:
    from collector.config import AgentSettings


_ACCELERATORS = {"nvml", "dcgm_exporter", *MAKERS} - {"hccn"}
TOOLS, READINGS = "tools", "readings"
"""The folders of a recorded node that hold what tools printed and what drivers answered."""


def _load(module: str, name: str) -> Callable[..., Any]:
    """Return a source that most nodes do not need, loaded only when it is made: memory is most of the agent's cost."""
    made: Callable[..., Any] = getattr(importlib.import_module(f"collector.sources.{module}"), name)
    return made


class Place(NamedTuple):
    """Where sources are made: by which settings and clock, and how a vendor's tool is run."""

    settings: AgentSettings
    clock: Clock
    commands: Commands


def commands_of(settings: AgentSettings) -> Commands:
    """Return how tools are run: a recorded node has their outputs in a folder, and runs none."""
    folder = settings.root / TOOLS
    return recorded_commands(folder) if folder.is_dir() else live_commands(settings.tools)


def _exporter(name: str, url: str | None) -> Source:
    if url is None:
        raise InvalidValue(f"the source {name} needs the exporter's address", where=name, hint=f"set {name}")
    exporters = importlib.import_module("collector.sources.exporters")
    mapping = importlib.import_module(f"collector.sources.{name}")
    source: Source = exporters.ExporterSource(name, url, mapping.METRICS, mapping.to_parts)
    return source


def _attribution(place: Place) -> Source:
    return AttributionSource(place.settings.root, list)  # build_sources gives it the accelerators


# The order in which a tick reads them: what changes fastest and costs most comes first.
SOURCES: dict[str, Callable[[Place], Source]] = {
    "nvml": lambda place: NvmlSource(
        place.clock,
        slow_seconds=place.settings.nvml_slow_seconds,
        rare_seconds=place.settings.nvml_rare_seconds,
        skip=place.settings.nvml_skip,
        processes=place.settings.nvml_processes,
    ),
    "amd": lambda place: _load("amd", "AmdSource")(place.clock.monotonic),
    "moorethreads": lambda place: _load("moorethreads", "MooreThreadsSource")(place.clock.monotonic),
    "intel": lambda place: _load("intel", "IntelSource")(place.settings.root, place.clock.monotonic),
    "intel_xpu": lambda place: _load("intel_xpu", "IntelXpuSource")(place.commands),
    "ascend": lambda place: _load("ascend", "AscendSource")(place.commands),
    "hccn": lambda place: _load("hccn", "HccnSource")(place.commands),
    "hygon": lambda place: _load("hygon", "HygonSource")(place.commands),
    "cambricon": lambda place: _load("cambricon", "CambriconSource")(place.commands),
    "iluvatar": lambda place: _load("iluvatar", "IluvatarSource")(place.commands),
    "metax": lambda place: _load("metax", "MetaxSource")(place.commands),
    "kunlun": lambda place: _load("kunlun", "KunlunSource")(place.commands),
    "dcgm_exporter": lambda place: _exporter("dcgm_exporter", place.settings.dcgm_exporter),
    "node_exporter": lambda place: _exporter("node_exporter", place.settings.node_exporter),
    "cpu": lambda place: CpuSource(place.settings.root),
    "memory": lambda place: MemorySource(place.settings.root),
    "pressure": lambda place: PressureSource(place.settings.root),
    "ethernet": lambda place: EthernetSource(place.settings.root),
    "infiniband": lambda place: InfinibandSource(place.settings.root, place.clock.monotonic),
    "pause": lambda place: PauseSource(place.settings.root, place.commands),
    "numa": lambda place: NumaSource(place.settings.root),
    "resctrl": lambda place: ResctrlSource(place.settings.root, place.clock.monotonic),
    "nfs": lambda place: NfsSource(place.settings.root),
    "lustre": lambda place: LustreSource(place.settings.root, place.clock.monotonic),
    "job_use": lambda place: JobUseSource(place.settings.root, place.clock.monotonic),
    "attribution": _attribution,
    "disk": lambda place: DiskSource(place.settings.root),
    "filesystem": lambda place: FilesystemSource(place.settings.root),
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
        recorded = {path.stem for path in (settings.root / READINGS).glob("*.json")}
        there = makers_present(settings.root) | recorded
        exporters = [name for name in _REPLACED if getattr(settings, name) is not None]
        replaced = {name for exporter in exporters for name in _REPLACED[exporter]}
        wanted = [
            name
            for name in SOURCES
            if (
                name in there
                if name in MAKERS
                else name in exporters or name in recorded
                if name in _REPLACED
                else name not in replaced
            )
        ]
    return [name for name in wanted if name not in settings.exclude_sources]


def _make(name: str, place: Place) -> Source:
    root = place.settings.root
    if (root / READINGS / f"{name}.json").exists():
        return ReplayedSource(name, root)
    return SOURCES[name](place)


def build_sources(
    settings: AgentSettings,
    *,
    clock: Clock | None = None,
    delivery: Callable[[], Delivery] | None = None,
    commands: Commands | None = None,
) -> list[Source]:
    """Make the sources that the settings ask for, the agent's own last; raises UnknownName.

    Where none is asked for, those of accelerators are made whose makers have a device here, and NVIDIA's always. Each
    can be read at once (`collector.sources.base.take`); close them when done.
    """
    place = Place(settings, clock or Clock(), commands or commands_of(settings))
    sources: list[Source] = []
    accelerators: list[Remembering] = []
    for name in _wanted(settings):
        if name == "attribution":
            sources.append(AttributionSource(settings.root, lambda: [source.latest for source in accelerators]))
        elif name in _ACCELERATORS:
            accelerators.append(Remembering(_make(name, place)))
            sources.append(accelerators[-1])
        else:
            sources.append(_make(name, place))
    sources.append(AgentSource(delivery))
    for source in sources:
        if source.deadline_seconds <= Source.deadline_seconds:  # a tool's own is longer than what it runs may take
            source.deadline_seconds = settings.deadline_seconds
    return sources
