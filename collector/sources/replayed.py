"""Readings of a recorded node that could not be kept as files: what its driver, exporter or file system answered."""

from __future__ import annotations

import json
from pathlib import Path

from collector.sources.base import Parts, Source, SourceUnavailable
from tokenstone.sample import Absence, DeviceInfo, Reading, labels


class ReplayedSource(Source):
    """The source `name` of a recording: it gives what that source gave then."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.metrics: tuple[str, ...] = ()
        self._path = root / "readings" / f"{name}.json"

    def read(self) -> Parts:
        """Read it now; raises SourceUnavailable where the source had failed then."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
        except OSError:
            raise SourceUnavailable("the recording has nothing of it") from None
        absences = tuple(Absence(*fields) for fields in kept["absences"])
        if kept["error"] is not None:
            self.metrics = tuple(absence.metric for absence in absences)
            raise SourceUnavailable(kept["error"])
        return Parts(
            tuple(Reading(metric, value, device, labels(by)) for metric, value, device, by in kept["readings"]),
            absences,
            tuple(DeviceInfo(**device) for device in kept["devices"]),
        )
