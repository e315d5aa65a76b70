"""Takes a batch of windows in: whole, once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from api.store.sequences import Arrivals
from api.store.statements import insert_new
from api.store.tables import Epoch, Node, NodeAbsence, NodeDevice, SeriesRow, Window
from tokenstone.wire import Series, WindowBatch

SeriesKey = tuple[str, str, str]


def take_batch(session: Session, batch: WindowBatch, *, now: float) -> tuple[bool, Arrivals]:
    """Store a batch unless it is there already. Returns whether it was new, and what has arrived of its epoch."""
    node = _node(session, batch, now)
    epoch, arrivals = _epoch(session, node.id, batch.epoch)
    if arrivals.has(batch.sequence):
        return False, arrivals
    arrivals = arrivals.add(batch.sequence)
    epoch.highest_sequence = arrivals.highest
    epoch.missing = json.dumps(arrivals.missing)
    node.seen_unix_seconds = now
    _store_devices(session, node.id, batch)
    _store_absences(session, node.id, batch)
    insert_new(session, Window, _rows(batch, _series_ids(session, node.id, batch)))
    return True, arrivals


def _node(session: Session, batch: WindowBatch, now: float) -> Node:
    wanted = select(Node).where(Node.cluster == batch.cluster, Node.name == batch.node)
    node = session.scalar(wanted)
    if node is None:
        insert_new(session, Node, [{"cluster": batch.cluster, "name": batch.node, "seen_unix_seconds": now}])
        node = session.scalars(wanted).one()
    return node


def _epoch(session: Session, node_id: int, name: str) -> tuple[Epoch, Arrivals]:
    # The row is locked until the end, so that two batches of one agent at a time cannot both miss the other.
    wanted = select(Epoch).where(Epoch.node_id == node_id, Epoch.epoch == name).with_for_update()
    epoch = session.scalar(wanted)
    if epoch is None:
        row = {"node_id": node_id, "epoch": name, "highest_sequence": -1, "missing": "[]"}
        insert_new(session, Epoch, [row])
        epoch = session.scalars(wanted).one()
    missing = tuple((first, last) for first, last in json.loads(epoch.missing))
    return epoch, Arrivals(epoch.highest_sequence, missing)


def _store_devices(session: Session, node_id: int, batch: WindowBatch) -> None:
    """Keep each device as it was named last; one that is silent now has not left the node."""
    known = {d.device: d for d in session.scalars(select(NodeDevice).where(NodeDevice.node_id == node_id))}
    for device in batch.devices:
        values = {"kind": device.kind, "vendor": device.vendor, "model": device.model,
                  "position": device.index, "memory_bytes": device.memory_bytes}  # fmt: skip
        if device.id not in known:
            known[device.id] = NodeDevice(node_id=node_id, device=device.id, **values)
            session.add(known[device.id])
        for name, value in values.items():
            setattr(known[device.id], name, value)


def _store_absences(session: Session, node_id: int, batch: WindowBatch) -> None:
    """Replace what the node could not give by what it cannot give now; mostly that is the same."""
    stored = select(NodeAbsence.metric, NodeAbsence.device, NodeAbsence.reason).where(NodeAbsence.node_id == node_id)
    before = {(metric, device): reason for metric, device, reason in session.execute(stored)}
    after = {(absence.metric, absence.device): absence.reason for absence in batch.absences}
    if before == after:
        return
    session.execute(delete(NodeAbsence).where(NodeAbsence.node_id == node_id))
    insert_new(
        session,
        NodeAbsence,
        [{"node_id": node_id, "metric": m, "device": d, "reason": reason} for (m, d), reason in after.items()],
    )


def _series_ids(session: Session, node_id: int, batch: WindowBatch) -> list[int]:
    """The ids of the batch's series, in its order; new series are made."""
    keys = [_key(series) for series in batch.series]
    ids = _known_series(session, node_id)
    unknown = {key for key in keys if key not in ids}
    if unknown:
        rows = [{"node_id": node_id, "metric": m, "device": d, "labels": labels} for m, d, labels in sorted(unknown)]
        insert_new(session, SeriesRow, rows)
        ids = _known_series(session, node_id)
    return [ids[key] for key in keys]


def _known_series(session: Session, node_id: int) -> Mapping[SeriesKey, int]:
    columns = select(SeriesRow.metric, SeriesRow.device, SeriesRow.labels, SeriesRow.id)
    found = session.execute(columns.where(SeriesRow.node_id == node_id))
    return {(metric, device, labels): id_ for metric, device, labels, id_ in found}


def _key(series: Series) -> SeriesKey:
    return series.metric, series.device, json.dumps(series.labels, sort_keys=True, separators=(",", ":"))


def _rows(batch: WindowBatch, ids: list[int]) -> list[dict[str, Any]]:
    columns = zip(
        batch.series_index, batch.start_unix_seconds, batch.duration_seconds, batch.count,
        batch.mean, batch.minimum, batch.maximum, batch.delta, strict=True,
    )  # fmt: skip
    return [
        {"series_id": ids[index], "start_unix_seconds": start, "duration_seconds": duration, "count": count,
         "mean": mean, "minimum": minimum, "maximum": maximum, "delta": delta}
        for index, start, duration, count, mean, minimum, maximum, delta in columns
    ]  # fmt: skip
