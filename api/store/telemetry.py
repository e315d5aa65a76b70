"""Answers about nodes and their windows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.store.paging import decode_cursor, make_page
from api.store.tables import Node, NodeAbsence, NodeDevice
from api.store.windows import SeriesSelector, query_windows, windows_of_run
from tokenstone.wire import AbsentMetric, Device, NodeView, Page, WindowRow

__all__ = ["WindowFilter", "page_of_nodes", "page_of_windows", "query_windows", "windows_of_run"]


@dataclass(frozen=True, slots=True)
class WindowFilter:
    """Which windows are asked for; None is any. Windows that start from `start` on and before `end`."""

    cluster: str | None = None
    node: str | None = None
    device: str | None = None
    metric: str | None = None
    start: float | None = None
    end: float | None = None


def page_of_windows(session: Session, wanted: WindowFilter, *, cursor: str | None, limit: int) -> Page[WindowRow]:
    """Windows by series and, within one, by time."""
    selector = SeriesSelector(wanted.cluster, wanted.node, wanted.device, wanted.metric)
    return query_windows(session, selector, wanted.start, wanted.end, None, "series", limit, cursor)


def page_of_nodes(session: Session, *, cluster: str | None, cursor: str | None, limit: int) -> Page[NodeView]:
    """Nodes in the order in which they were first seen, with their devices and absences."""
    query = select(Node).order_by(Node.id).limit(limit + 1)
    if cluster is not None:
        query = query.where(Node.cluster == cluster)
    if cursor is not None:
        query = query.where(Node.id > decode_cursor(cursor, int)[0])
    nodes = session.scalars(query).all()
    devices, absences = _of_nodes(session, nodes)
    return make_page(
        nodes,
        limit,
        item=lambda node: NodeView(
            cluster=node.cluster,
            name=node.name,
            seen_unix_seconds=node.seen_unix_seconds,
            devices=devices[node.id],
            absences=absences[node.id],
        ),
        key=lambda node: (node.id,),
    )


def _of_nodes(session: Session, nodes: Sequence[Node]) -> tuple[dict[int, list[Device]], dict[int, list[AbsentMetric]]]:
    devices: dict[int, list[Device]] = defaultdict(list)
    absences: dict[int, list[AbsentMetric]] = defaultdict(list)
    ids = [node.id for node in nodes]
    kept = select(NodeDevice).where(NodeDevice.node_id.in_(ids)).order_by(NodeDevice.position, NodeDevice.device)
    for row in session.scalars(kept):
        device = {"id": row.device, "kind": row.kind, "vendor": row.vendor, "model": row.model,
                  "index": row.position, "memory_bytes": row.memory_bytes}  # fmt: skip
        devices[row.node_id].append(Device.model_validate(device))
    missing = select(NodeAbsence).where(NodeAbsence.node_id.in_(ids)).order_by(NodeAbsence.metric, NodeAbsence.device)
    for absent in session.scalars(missing):
        absences[absent.node_id].append(AbsentMetric(metric=absent.metric, device=absent.device, reason=absent.reason))
    return devices, absences
