"""What this process has read of nodes before, so that a batch of a node it knows asks the database for next to nothing.

Only what never changes is kept: ids of nodes and of series. Only what was there before the transaction began is kept,
because what it makes itself may yet be rolled back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

SeriesKey = tuple[str, str, str]
MOST_SERIES = 500_000
"""Series kept in mind: about 200 bytes each."""


@dataclass(slots=True)
class KnownNode:
    """A node's id and the ids of its series."""

    id: int
    series: dict[SeriesKey, int] = field(default_factory=dict)


class KnownNodes:
    """The nodes of late; those that were silent longest are put out first. Safe among threads."""

    def __init__(self, most_series: int = MOST_SERIES) -> None:
        self._most = most_series
        self._nodes: OrderedDict[tuple[str, str], KnownNode] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def find(self, cluster: str, name: str) -> KnownNode | None:
        """A node that is known."""
        with self._lock:
            node = self._nodes.get((cluster, name))
            if node is not None:
                self._nodes.move_to_end((cluster, name))
            return node

    def keep(self, cluster: str, name: str, node: KnownNode) -> None:
        """Keep a node in mind."""
        with self._lock:
            before = self._nodes.pop((cluster, name), None)
            self._count += len(node.series) + 1 - (len(before.series) + 1 if before else 0)
            self._nodes[(cluster, name)] = node
            while self._count > self._most and len(self._nodes) > 1:
                _, oldest = self._nodes.popitem(last=False)
                self._count -= len(oldest.series) + 1

    def forget(self, cluster: str, name: str) -> None:
        """Read a node again when it is asked for next."""
        with self._lock:
            before = self._nodes.pop((cluster, name), None)
            if before is not None:
                self._count -= len(before.series) + 1
