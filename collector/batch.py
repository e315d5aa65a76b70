"""Windows as records of the spool, and records as a batch of the wire (`tokenstone.wire.WindowBatch`).

Both are plain dictionaries: the service checks what arrives against the wire's model, a test checks what is made
here, and the agent does without the library that would.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from collector.segment import Record
from tokenstone.sample import HOST, Absence, DeviceInfo, Sample, SeriesKey
from tokenstone.window import Window

_LONGEST_TEXT = 500
_COLUMNS = ("count", "mean", "minimum", "maximum", "delta")
_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 3  # 6 takes twice the time for a tenth less


class Origin(NamedTuple):
    """Who made a batch: one start (`epoch`) of the agent of one node."""

    cluster: str
    node: str
    epoch: str


class RecordMaker:
    """Makes the records of one segment: each says only what the one before did not."""

    def __init__(self) -> None:
        self._index: dict[SeriesKey, int] = {}
        self._said: Record = {}

    def record(self, windows: Sequence[Window], samples: Iterable[Sample]) -> Record:
        """Return the record of the windows of one interval, with what the latest `samples` tell of devices."""
        samples = list(samples)
        known = len(self._index)
        positions = [self._index.setdefault(window.series, len(self._index)) for window in windows]
        new = list(self._index)[known:]
        state = {
            "index": positions,
            "devices": _devices(device for sample in samples for device in sample.devices),
            "absences": _absences(absence for sample in samples for absence in sample.absences),
        }
        record = {name: value for name, value in state.items() if self._said.get(name) != value}
        self._said = state
        if new:
            record["series"] = [[key.metric, key.device, _texts(key.labels)] for key in new]
        if windows:
            record["start"], record["seconds"] = windows[0].start_unix_seconds, windows[0].duration_seconds
        for name in _COLUMNS:
            column = [getattr(window, name) for window in windows]
            record[name] = None if all(value is None for value in column) else column
        return record


def whole(records: Iterable[Record]) -> Iterator[Record]:
    """Yield each record with all that it left to the one before; `series` is then all series so far."""
    said: Record = {"index": [], "devices": [], "absences": [], "series": []}
    for record in records:
        series = [*said["series"], *record.get("series", [])]
        said = {name: record.get(name, said[name]) for name in said} | {"series": series}
        yield {**record, **said}


def wire_batch(head: Record, records: Iterable[Record]) -> dict[str, Any]:
    """Return the batch of a segment."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("series_index", "start_unix_seconds", "duration_seconds", *_COLUMNS)
    }
    last: Record = {"devices": [], "absences": [], "series": []}
    for last in whole(records):
        count = len(last["index"])
        columns["series_index"] += last["index"]
        columns["start_unix_seconds"] += [last.get("start")] * count
        columns["duration_seconds"] += [last.get("seconds")] * count
        for name in _COLUMNS:
            columns[name] += last[name] or [None] * count
    return {
        **head,
        "devices": last["devices"],
        "absences": last["absences"],
        "series": [{"metric": metric, "device": device, "labels": by} for metric, device, by in last["series"]],
        **columns,
    }


def compress(batch: dict[str, Any]) -> bytes:
    """Return the batch as gzip of JSON; the same batch gives the same bytes."""
    return zlib.compress(json.dumps(batch, separators=(",", ":")).encode(), _LEVEL, wbits=_GZIP)


def head_of(origin: Origin, sequence: int) -> Record:
    """Return what identifies a batch on the wire."""
    return {"schema_version": 1, **origin._asdict(), "sequence": sequence}


def _texts(labels: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: value[:_LONGEST_TEXT] for name, value in labels}


def _devices(devices: Iterable[DeviceInfo]) -> list[dict[str, Any]]:
    by_id = {device.id: device for device in devices}
    return [
        {
            "id": device.id,
            "kind": "host" if device.id == HOST else "accelerator",
            "vendor": device.vendor[:_LONGEST_TEXT],
            "model": device.model[:_LONGEST_TEXT],
            "index": device.index,
            "memory_bytes": device.memory_bytes,
        }
        for device in by_id.values()
    ]


def _absences(absences: Iterable[Absence]) -> list[dict[str, str]]:
    """Merge the reasons of one metric and device: the wire has one entry for each."""
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for absence in absences:
        reasons.setdefault((absence.metric, absence.device), {})[absence.reason] = None
    return [
        {"metric": metric, "device": device, "reason": "; ".join(texts)[:_LONGEST_TEXT]}
        for (metric, device), texts in reasons.items()
    ]
