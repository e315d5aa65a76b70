"""Bandwidth of the host's memory: /sys/fs/resctrl (Documentation/filesystems/resctrl.rst).

The processor counts what each monitoring group moves over each cache domain; a task is in one group, so the groups add
up. Nothing is mounted or set up here: a node whose administrator has not mounted it has no such figure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from collector.sources.base import Parts, Source
from collector.sources.files import Files
from tokenstone.sample import HOST, Absence, Reading, labels

_FOLDER = "sys/fs/resctrl"
_METRIC = "host_memory_traffic_bytes_total"
_RESCAN_SECONDS = 10.0
_NO_GROUPS = {"info", "mon_data", "mon_groups"}


class ResctrlSource(Source):
    """Bytes that processors moved from and to memory, by cache domain (as a rule, a socket)."""

    name = "resctrl"
    metrics = (_METRIC,)

    def __init__(self, root: Path, monotonic: Callable[[], float]) -> None:
        self._root, self._monotonic = root, monotonic
        self._files = Files(root)
        self._groups: list[str] = []
        self._before: dict[str, int] = {}
        self._totals: dict[str, float] = {}
        self._scan_at = 0.0
        self._started = False

    def read(self) -> Parts:
        """Read all groups. Without resctrl, or on a processor that does not count, the metric is absent."""
        now = self._monotonic()
        if now >= self._scan_at:
            self._groups = self._scan()
            self._scan_at = now + _RESCAN_SECONDS
        reason = ""
        for path in self._groups:
            domain = path.split("/")[-2].removeprefix("mon_L3_").removeprefix("0") or "0"
            try:
                value = self._files.number(path)
            except OSError:
                continue  # the group was removed
            except ValueError:
                reason = f"domain {domain}: the processor has no counter free (Unavailable)"
                continue
            # Groups come and go, so the increases are added up: a sum of totals would fall with every group removed.
            # One that came since the last look began at zero; what was counted before the agent came is not ours.
            before = self._before.get(path, 0 if self._started else value)
            self._before[path] = value
            self._totals[domain] = self._totals.get(domain, 0.0) + max(value - before, 0)
        self._started = self._started or bool(self._totals)
        readings = tuple(
            Reading(_METRIC, total, HOST, labels(domain=domain)) for domain, total in sorted(self._totals.items())
        )
        if readings:
            return Parts(readings)
        return Parts(absences=(Absence(_METRIC, reason or self._why_none()),))

    def _scan(self) -> list[str]:
        base = self._root / _FOLDER
        controls = [base, *(path for path in base.glob("*/") if path.name not in _NO_GROUPS)]
        groups = [group for control in controls for group in (control, *control.glob("mon_groups/*/"))]
        paths = [path for group in groups for path in group.glob("mon_data/mon_L3_*/mbm_total_bytes")]
        there = sorted({str(path.relative_to(self._root)) for path in paths})
        self._before = {path: value for path, value in self._before.items() if path in there}
        return there

    def _why_none(self) -> str:
        base = self._root / _FOLDER
        if (base / "info/L3_MON").is_dir():
            features = base / "info/L3_MON/mon_features"
            known = features.read_text(encoding="utf-8").split() if features.exists() else []
            if "mbm_total_bytes" not in known:
                return "the processor does not count memory bandwidth (resctrl has no mbm_total_bytes)"
        if not (base / "mon_data").is_dir():
            return "resctrl is not mounted (mount -t resctrl resctrl /sys/fs/resctrl)"
        return "resctrl gives no memory bandwidth here"

    def close(self) -> None:
        """Close the files."""
        self._files.close()
        self._scan_at = 0.0
