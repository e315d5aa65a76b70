"""Waiting across ranks: a collective ends when its slowest rank has come, so who came early waited.

A rank's wait in a collective is its own duration minus the shortest of all ranks'. Durations need no common clock.
Collectives are matched by their order within their group; it takes the traces of all members.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tokenstone.trace.device import Collective, DeviceTrace
from tokenstone.trace.intervals import joined, union

_RANKS = re.compile(r"\[([\d,\s]*)\]")


def find_waiting(devices: Sequence[DeviceTrace], world_size: int | None) -> str:
    """Set `waiting_us` of each device, as far as it can be known; return the reason where it cannot, else ""."""
    if len(devices) < 2:
        return "waiting for slower ranks needs the traces of several ranks"
    ranks = {device.rank for device in devices}
    complete = None not in ranks and (world_size is None or len(ranks) == world_size)
    calls: dict[str, list[list[Collective]]] = defaultdict(lambda: [[] for _ in devices])
    for number, device in enumerate(devices):
        for collective in device.collectives:
            calls[collective.group][number].append(collective)
    waits: list[list[tuple[float, float]]] = [[] for _ in devices]
    reasons: set[str] = set()
    for group, by_device in calls.items():
        if re.match(r"(send|recv|_?coalesced)", group, re.IGNORECASE):
            continue  # between two ranks, not of a group
        members = [calls_of_one for calls_of_one in by_device if calls_of_one]
        named = _RANKS.search(group)
        expected = len(named.group(1).split(",")) if named and named.group(1).strip() else None
        if (len(members) != expected) if expected is not None else not complete:
            reasons.add("not all ranks of a collective's group were given")
        elif len({len(calls_of_one) for calls_of_one in members}) > 1:
            reasons.add("ranks differ in the number of collectives, so they cannot be matched")
        else:
            _match(by_device, waits)
    if reasons:
        return "waiting for slower ranks is not told from communication: " + "; ".join(sorted(reasons))
    for device, intervals in zip(devices, waits, strict=True):
        starts = np.array([start for start, _ in intervals], dtype=np.float64)
        ends = np.array([end for _, end in intervals], dtype=np.float64)
        device.waiting_us = joined(union(starts, ends), device.compute).length - device.compute.length
    return ""


def _match(by_device: Sequence[Sequence[Collective]], waits: list[list[tuple[float, float]]]) -> None:
    for together in zip(*(calls for calls in by_device if calls), strict=True):
        shortest = min(call.end - call.start for call in together)
        members = (number for number, calls in enumerate(by_device) if calls)
        for number, call in zip(members, together, strict=True):
            if call.end - call.start > shortest:
                waits[number].append((call.start, call.end - shortest))
