"""Takes a batch of windows in: whole, once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, and_, bindparam, delete, select, update
from sqlalchemy.orm import Session

from api.store.horizons import FORGOTTEN, horizon
from api.store.known_nodes import KnownNode, KnownNodes, SeriesKey
from api.store.partitions import Partitions
from api.store.rollups import merge_into_hours
from api.store.sequences import Arrivals
from api.store.statements import insert_new, insert_windows, is_postgresql, upsert
from api.store.tables import Epoch, Node, NodeAbsence, NodeDevice, PendingHour, SeriesRow, core_table
from tokenstone.wire import Series, WindowBatch

HOUR = 3600.0
LATE_SECONDS = 86_400.0
"""Nothing younger is ever forgotten, so only for older windows is it looked up how far that went."""

# What every batch asks, made once: making a statement costs more than running it.
_EPOCHS, _NODES, _KEPT, _ABSENT = (core_table(entity) for entity in (Epoch, Node, NodeDevice, NodeAbsence))
_OF_NODE: BindParameter[int] = bindparam("of_node")
_OF_EPOCH: BindParameter[str] = bindparam("of_epoch")
_THIS_EPOCH = and_(_EPOCHS.c.node_id == _OF_NODE, _EPOCHS.c.epoch == _OF_EPOCH)
_ARRIVED = select(_EPOCHS.c.highest_sequence, _EPOCHS.c.missing).where(_THIS_EPOCH).with_for_update()
_ARRIVE = update(_EPOCHS).where(_THIS_EPOCH)
_SEE = update(_NODES).where(_NODES.c.id == _OF_NODE)
_DEVICES = select(_KEPT).where(_KEPT.c.node_id == _OF_NODE)
_ABSENCES = select(_ABSENT.c.metric, _ABSENT.c.device, _ABSENT.c.reason).where(_ABSENT.c.node_id == _OF_NODE)


def take_batch(session: Session, batch: WindowBatch, *, now: float) -> tuple[bool, Arrivals]:
    """Store a batch unless it is there already. Returns whether it was new, and what has arrived of its epoch."""
    if is_postgresql(session):  # before anything is locked: it has a transaction of its own
        partitions: Partitions = session.info["partitions"]
        partitions.make(session.get_bind().engine, set(batch.start_unix_seconds), now=now)
    known = _known(session, batch, now)
    arrivals = _epoch(session, known.id, batch.epoch)
    if arrivals.has(batch.sequence):
        return False, arrivals
    arrivals = arrivals.add(batch.sequence)
    values = {"highest_sequence": arrivals.highest, "missing": json.dumps(arrivals.missing)}
    session.execute(_ARRIVE, {"of_node": known.id, "of_epoch": batch.epoch, **values})
    session.execute(_SEE, {"of_node": known.id, "seen_unix_seconds": now})
    _store_devices(session, known.id, batch)
    _store_absences(session, known.id, batch)
    _store_windows(session, _columns(batch, _series_ids(session, known, batch)), now)
    _mark_hours(session, known.id, batch, now)
    return True, arrivals


def _known(session: Session, batch: WindowBatch, now: float) -> KnownNode:
    """The node, with those of its series that were there before."""
    known_nodes: KnownNodes = session.info["known_nodes"]
    known = known_nodes.find(batch.cluster, batch.node)
    if known is not None:
        return known
    wanted = select(Node.id).where(Node.cluster == batch.cluster, Node.name == batch.node)
    node_id = session.scalar(wanted)
    if node_id is not None:
        known = KnownNode(node_id, _stored_series(session, node_id))
        known_nodes.keep(batch.cluster, batch.node, known)
        return known
    insert_new(session, Node, [{"cluster": batch.cluster, "name": batch.node, "seen_unix_seconds": now}])
    return KnownNode(session.scalars(wanted).one())


def _epoch(session: Session, node_id: int, name: str) -> Arrivals:
    # The row is locked until the end, so that two batches of one agent at a time cannot both miss the other.
    which = {"of_node": node_id, "of_epoch": name}
    found = session.execute(_ARRIVED, which).one_or_none()
    if found is None:
        row = {"node_id": node_id, "epoch": name, "highest_sequence": -1, "missing": "[]"}
        insert_new(session, Epoch, [row])
        found = session.execute(_ARRIVED, which).one()
    return Arrivals(found.highest_sequence, tuple((first, last) for first, last in json.loads(found.missing)))


def _store_devices(session: Session, node_id: int, batch: WindowBatch) -> None:
    """Keep each device as it was named last; one that is silent now has not left the node."""
    kept = session.execute(_DEVICES, {"of_node": node_id}) if batch.devices else ()
    before = {row.device: row._asdict() for row in kept}
    rows = [
        {"node_id": node_id, "device": device.id, "kind": device.kind, "vendor": device.vendor, "model": device.model,
         "position": device.index, "memory_bytes": device.memory_bytes}
        for device in batch.devices
    ]  # fmt: skip
    upsert(session, NodeDevice, [row for row in rows if before.get(row["device"]) != row])


def _store_absences(session: Session, node_id: int, batch: WindowBatch) -> None:
    """Replace what the node could not give by what it cannot give now; mostly that is the same."""
    stored = session.execute(_ABSENCES, {"of_node": node_id})
    before = {(metric, device): reason for metric, device, reason in stored}
    after = {(absence.metric, absence.device): absence.reason for absence in batch.absences}
    if before == after:
        return
    session.execute(delete(NodeAbsence).where(NodeAbsence.node_id == node_id))
    insert_new(
        session,
        NodeAbsence,
        [{"node_id": node_id, "metric": m, "device": d, "reason": reason} for (m, d), reason in after.items()],
    )


def _series_ids(session: Session, known: KnownNode, batch: WindowBatch) -> list[int]:
    """The ids of the batch's series, in its order; new series are made."""
    keys = [series_key(series) for series in batch.series]
    ids = known.series
    unknown = {key for key in keys if key not in ids}
    if unknown:
        rows = [{"node_id": known.id, "metric": m, "device": d, "labels": labels} for m, d, labels in sorted(unknown)]
        insert_new(session, SeriesRow, rows)
        ids = _stored_series(session, known.id)
        session.info["known_nodes"].forget(batch.cluster, batch.node)  # to be read again, once this is committed
    return [ids[key] for key in keys]


def _stored_series(session: Session, node_id: int) -> dict[SeriesKey, int]:
    columns = select(SeriesRow.metric, SeriesRow.device, SeriesRow.labels, SeriesRow.id)
    found = session.execute(columns.where(SeriesRow.node_id == node_id))
    return {(metric, device, labels): id_ for metric, device, labels, id_ in found}


def series_key(series: Series) -> SeriesKey:
    """What tells a series of a node from the others; labels are sorted."""
    labels = json.dumps(series.labels, sort_keys=True, separators=(",", ":")) if series.labels else "{}"
    return series.metric, series.device, labels


def _columns(batch: WindowBatch, ids: list[int]) -> list[Sequence[Any]]:
    """The columns of the table of windows."""
    return [
        [ids[index] for index in batch.series_index], batch.start_unix_seconds, batch.duration_seconds, batch.count,
        batch.mean, batch.minimum, batch.maximum, batch.delta,
    ]  # fmt: skip


def _store_windows(session: Session, columns: list[Sequence[Any]], now: float) -> None:
    """Store windows; those of days that are forgotten go into the roll-up alone."""
    starts = columns[1]
    if starts and min(starts) < now - LATE_SECONDS:
        forgotten = horizon(session, FORGOTTEN, lock=True)
        if min(starts) < forgotten:
            rows = list(zip(*columns, strict=True))
            merge_into_hours(session, [row for row in rows if row[1] < forgotten])
            columns = list(zip(*(row for row in rows if row[1] >= forgotten), strict=True)) or [()]
    insert_windows(session, columns)


def _mark_hours(session: Session, node_id: int, batch: WindowBatch, now: float) -> None:
    """Say that these hours of the node are to be rolled up, perhaps again."""
    # A row that is there is written again and not left alone: the roll-up, which deletes it, then waits for us.
    hours = {start // HOUR * HOUR for start in set(batch.start_unix_seconds)}
    rows = [{"node_id": node_id, "start_unix_seconds": hour, "touched_unix_seconds": now} for hour in sorted(hours)]
    upsert(session, PendingHour, rows)
