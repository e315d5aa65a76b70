"""Limits of cardinality: one broken agent must not fill the store with names."""

from __future__ import annotations

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from api.store.ingest import series_key
from api.store.tables import Node, NodeDevice, SeriesRow, core_table
from tokenstone.errors import Conflict
from tokenstone.wire import WindowBatch

MOST_DEVICES_PER_NODE = 1024
_KEPT = core_table(NodeDevice)
_DEVICES = select(_KEPT.c.device).where(_KEPT.c.node_id == bindparam("of_node"))


def check_limits(session: Session, batch: WindowBatch, *, most_series: int, most_nodes: int) -> None:
    """Raise Conflict for a batch that would bring a node or a cluster beyond what it may have.

    Names are counted only where there are new ones, which is seldom: an agent sends the same series all its life.
    """
    known = session.info["known_nodes"].find(batch.cluster, batch.node)
    if known is not None and all(series_key(series) in known.series for series in batch.series):
        _check_devices(session, batch, known.id)
        return
    node = session.scalar(select(Node.id).where(Node.cluster == batch.cluster, Node.name == batch.node))
    if node is None:
        count = session.scalar(select(func.count()).select_from(Node).where(Node.cluster == batch.cluster)) or 0
        if count >= most_nodes:
            raise Conflict(
                f"cluster {batch.cluster} has {count:,} nodes, and may have {most_nodes:,}",
                where="body.node",
                hint="raise TOKENSTONE_MAX_NODES_PER_CLUSTER if that is right",
            )
    _check_series(session, batch, node, most_series)
    _check_devices(session, batch, node)


def _check_series(session: Session, batch: WindowBatch, node: int | None, most: int) -> None:
    count = 0
    if node is not None:
        count = session.scalar(select(func.count()).select_from(SeriesRow).where(SeriesRow.node_id == node)) or 0
    # At most so many after the batch; told apart exactly only where that is too many.
    if count + len(batch.series) <= most:
        return
    known: set[tuple[str, str, str]] = set()
    if node is not None:
        columns = select(SeriesRow.metric, SeriesRow.device, SeriesRow.labels).where(SeriesRow.node_id == node)
        known = {(metric, device, labels) for metric, device, labels in session.execute(columns)}
    new = {series_key(series) for series in batch.series} - known
    if new and count + len(new) > most:
        raise Conflict(
            f"node {batch.node} would have {count + len(new):,} series, and may have {most:,}",
            where="body.series",
            hint="a label may be unbounded; raise TOKENSTONE_MAX_SERIES_PER_NODE if that is right",
        )


def _check_devices(session: Session, batch: WindowBatch, node: int | None) -> None:
    if not batch.devices or node is None:
        return
    known = set(session.scalars(_DEVICES, {"of_node": node}))
    count = len(known | {device.id for device in batch.devices})
    if count > MOST_DEVICES_PER_NODE and count > len(known):
        raise Conflict(
            f"node {batch.node} would have {count:,} devices, and may have {MOST_DEVICES_PER_NODE:,}",
            where="body.devices",
            hint="the driver's names change from start to start",
        )
