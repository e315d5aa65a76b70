"""The agent itself: what it costs the node, and what it still has to hand over."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from collector.sources.base import Parts, Source
from collector.sources.files import Files
from tokenstone.sample import Absence, Reading, labels

_DELIVERY = (
    "tokenstone_push_batches_total",
    "tokenstone_spool_bytes",
    "tokenstone_spool_dropped_batches_total",
)
_CLOCK_OFFSET = "tokenstone_clock_offset_seconds"


@dataclass(frozen=True, slots=True)
class Delivery:
    """State of the handing over: batches by outcome, bytes that wait on disk, batches lost to a full spool, and by how
    much the service's clock is ahead of ours (None before its first answer)."""

    batches: dict[str, int]
    spool_bytes: int
    dropped_batches: int
    clock_offset_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process takes: processor seconds since its start, and resident memory now."""

    cpu_seconds: float
    memory_bytes: int


_OWN = Files(Path("/"))


def own_usage() -> Usage:
    """Return what this process takes; raises OSError or ValueError where /proc/self is not readable."""
    times = resource.getrusage(resource.RUSAGE_SELF)
    resident_pages = int(_OWN.read("proc/self/statm").split()[1])
    return Usage(times.ru_utime + times.ru_stime, resident_pages * os.sysconf("SC_PAGE_SIZE"))


class AgentSource(Source):
    """The agent's own processor time and memory, and its spool. `delivery` is None where nothing is pushed."""

    name = "agent"
    metrics = ("tokenstone_agent_cpu_seconds_total", "tokenstone_agent_memory_bytes", *_DELIVERY, _CLOCK_OFFSET)

    def __init__(self, delivery: Callable[[], Delivery] | None = None, usage: Callable[[], Usage] = own_usage) -> None:
        self._delivery = delivery
        self._usage = usage

    def read(self) -> Parts:
        """Read the agent's own state."""
        usage = self._usage()
        readings = [
            Reading("tokenstone_agent_cpu_seconds_total", usage.cpu_seconds),
            Reading("tokenstone_agent_memory_bytes", usage.memory_bytes),
        ]
        if self._delivery is None:
            reason = "this agent pushes to no service"
            return Parts(tuple(readings), tuple(Absence(metric, reason) for metric in (*_DELIVERY, _CLOCK_OFFSET)))
        delivery = self._delivery()
        readings += [
            Reading("tokenstone_push_batches_total", count, labels=labels(outcome=outcome))
            for outcome, count in delivery.batches.items()
        ]
        readings.append(Reading("tokenstone_spool_bytes", delivery.spool_bytes))
        readings.append(Reading("tokenstone_spool_dropped_batches_total", delivery.dropped_batches))
        if delivery.clock_offset_seconds is None:
            return Parts(tuple(readings), (Absence(_CLOCK_OFFSET, "the service has not answered yet"),))
        readings.append(Reading(_CLOCK_OFFSET, delivery.clock_offset_seconds))
        return Parts(tuple(readings))
