"""The host's processors: /proc/stat, /proc/loadavg and, once, /proc/cpuinfo."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from collector.sources.base import Parts, Source
from collector.sources.files import Files
from tokenstone.sample import HOST, Absence, DeviceInfo, Reading, labels

# /proc/stat also has guest and guest_nice, which user and nice already contain. Without them the modes add up.
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")

_LABELS = {mode: labels(mode=mode) for mode in _MODES}

# The kernel's idle and iowait may step back by a few ticks; more than this is a real reset.
_BACKWARD_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds by mode of all logical processors together, and how many are on line."""

    seconds: dict[str, float]
    logical_processors: int


def parse_stat(text: str, ticks_per_second: int) -> CpuTimes:
    """Parse /proc/stat; raises ValueError where it has no line for all processors.

    >>> parse_stat("cpu  100 0 50 850\\ncpu0 100 0 50 850\\n", 100).seconds["idle"]
    8.5
    """
    seconds: dict[str, float] = {}
    processors = 0
    # Interrupts follow, thousands of them on a large machine.
    for line in text.partition("\nintr ")[0].splitlines():
        name, *ticks = line.split() or [""]
        if name == "cpu":
            # Kernels before 2.6.11 have fewer columns: a mode they do not count is absent.
            seconds = {mode: int(tick) / ticks_per_second for mode, tick in zip(_MODES, ticks, strict=False)}
        elif name.startswith("cpu") and name[3:].isdigit():
            processors += 1
    if not seconds or not processors:
        raise ValueError("/proc/stat has no processor times")
    return CpuTimes(seconds, processors)


def parse_loadavg(text: str) -> float:
    """Parse /proc/loadavg to the mean number of runnable tasks over one minute; raises ValueError."""
    fields = text.split()
    if not fields:
        raise ValueError("the file is empty")
    return float(fields[0])


def parse_cpuinfo(text: str) -> tuple[str, str]:
    """Parse /proc/cpuinfo to vendor and model, each empty where the architecture does not tell."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields.get("vendor_id", ""), fields.get("model name", "")


def _why(error: OSError | ValueError) -> str:
    return str((error.strerror if isinstance(error, OSError) else None) or error)


class CpuSource(Source):
    """Processor time by mode, processors on line and load."""

    name = "cpu"
    metrics = ("host_cpu_seconds_total", "host_cpu_logical_processors", "host_load_average")

    def __init__(self, root: Path) -> None:
        self._files = Files(root)
        self._ticks_per_second = os.sysconf("SC_CLK_TCK")
        self._seconds: dict[str, float] = {}
        self._host: DeviceInfo | None = None

    def read(self) -> Parts:
        """Read the processors' times; raises OSError or ValueError where /proc/stat is not as it should be."""
        times = parse_stat(self._files.text("proc/stat"), self._ticks_per_second)
        readings = [
            Reading("host_cpu_seconds_total", self._steady(mode, seconds), labels=_LABELS[mode])
            for mode, seconds in times.seconds.items()
        ]
        readings.append(Reading("host_cpu_logical_processors", times.logical_processors))
        absences: list[Absence] = []
        try:
            readings.append(Reading("host_load_average", parse_loadavg(self._files.text("proc/loadavg"))))
        except (OSError, ValueError) as error:
            absences.append(Absence("host_load_average", f"/proc/loadavg cannot be read ({_why(error)})"))
        return Parts(tuple(readings), tuple(absences), (self._describe_host(),))

    def _steady(self, mode: str, seconds: float) -> float:
        before = self._seconds.get(mode, 0.0)
        if before - _BACKWARD_SECONDS < seconds < before:
            return before
        self._seconds[mode] = seconds
        return seconds

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _describe_host(self) -> DeviceInfo:
        if self._host is None:
            try:
                vendor, model = parse_cpuinfo(self._files.text("proc/cpuinfo"))
            except OSError:
                vendor, model = "", ""
            self._host = DeviceInfo(id=HOST, kind="host", vendor=vendor, model=model)
        return self._host
