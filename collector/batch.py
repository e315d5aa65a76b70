"""Windows made into a batch of the wire: columns, as compressed JSON."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tokenstone.sample import HOST, Absence, DeviceInfo, Sample, SeriesKey
from tokenstone.window import Window
from tokenstone.wire import AbsentMetric, Device, Series, WindowBatch

_LONGEST_TEXT = 500


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made a batch: one start (`epoch`) of the agent of one node."""

    cluster: str
    node: str
    epoch: str


def make_batch(origin: Origin, sequence: int, windows: Sequence[Window], samples: Iterable[Sample]) -> WindowBatch:
    """Return the batch of `windows`, with the devices and absences that the latest `samples` tell of."""
    index: dict[SeriesKey, int] = {}
    positions = [index.setdefault(window.series, len(index)) for window in windows]
    samples = list(samples)
    return WindowBatch(
        cluster=origin.cluster,
        node=origin.node,
        epoch=origin.epoch,
        sequence=sequence,
        devices=_devices(device for sample in samples for device in sample.devices),
        absences=_absences(absence for sample in samples for absence in sample.absences),
        series=[Series(metric=key.metric, device=key.device, labels=_texts(key.labels)) for key in index],
        series_index=positions,
        start_unix_seconds=[window.start_unix_seconds for window in windows],
        duration_seconds=[window.duration_seconds for window in windows],
        count=[window.count for window in windows],
        mean=[window.mean for window in windows],
        minimum=[window.minimum for window in windows],
        maximum=[window.maximum for window in windows],
        delta=[window.delta for window in windows],
    )


def compress(batch: WindowBatch) -> bytes:
    """Return the batch as gzip of JSON; the same batch gives the same bytes."""
    return gzip.compress(batch.model_dump_json(exclude_defaults=False).encode(), compresslevel=6, mtime=0)


def _texts(labels: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: value[:_LONGEST_TEXT] for name, value in labels}


def _devices(devices: Iterable[DeviceInfo]) -> list[Device]:
    by_id = {device.id: device for device in devices}
    return [
        Device(
            id=device.id,
            kind=_kind(device),
            vendor=device.vendor[:_LONGEST_TEXT],
            model=device.model[:_LONGEST_TEXT],
            index=device.index,
            memory_bytes=device.memory_bytes,
        )
        for device in by_id.values()
    ]


def _kind(device: DeviceInfo) -> Literal["accelerator", "host"]:
    return "host" if device.id == HOST else "accelerator"


def _absences(absences: Iterable[Absence]) -> list[AbsentMetric]:
    """Merge the reasons of one metric and device: the wire has one entry for each."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for absence in absences:
        reasons.setdefault((absence.metric, absence.device), []).append(absence.reason)
    return [
        AbsentMetric(metric=metric, device=device, reason="; ".join(dict.fromkeys(texts))[:_LONGEST_TEXT])
        for (metric, device), texts in reasons.items()
    ]
