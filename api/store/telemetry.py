"""Answers about nodes and their windows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session

from api.store.paging import decode_cursor, make_page
from api.store.tables import Node, NodeAbsence, NodeDevice, Run, RunNode, SeriesRow, Window
from tokenstone.wire import AbsentMetric, Device, NodeView, Page, WindowRow

LONGEST_WINDOW_SECONDS = 3600.0
"""A window that starts this long before a run can still reach into it: agents make none that are longer."""


@dataclass(frozen=True, slots=True)
class WindowFilter:
    """Which windows are asked for; None is any. Windows that start from `start` on and before `end`."""

    cluster: str | None = None
    node: str | None = None
    device: str | None = None
    metric: str | None = None
    start: float | None = None
    end: float | None = None


_WINDOW_COLUMNS = (
    Node.name, SeriesRow.device, SeriesRow.metric, SeriesRow.labels, Window.start_unix_seconds,
    Window.duration_seconds, Window.count, Window.mean, Window.minimum, Window.maximum, Window.delta, Window.series_id,
)  # fmt: skip


def _windows() -> Select[*tuple[Any, ...]]:
    joined = select(*_WINDOW_COLUMNS).join(SeriesRow, SeriesRow.id == Window.series_id)
    return joined.join(Node, Node.id == SeriesRow.node_id).order_by(Window.series_id, Window.start_unix_seconds)


def _window(row: Any) -> WindowRow:
    return WindowRow(
        node=row[0], device=row[1], metric=row[2], labels=json.loads(row[3]), start_unix_seconds=row[4],
        duration_seconds=row[5], count=row[6], mean=row[7], minimum=row[8], maximum=row[9], delta=row[10],
    )  # fmt: skip


def page_of_windows(session: Session, wanted: WindowFilter, *, cursor: str | None, limit: int) -> Page[WindowRow]:
    """Windows by series and, within one, by time."""
    query = _windows()
    for column, value in (
        (Node.cluster, wanted.cluster),
        (Node.name, wanted.node),
        (SeriesRow.device, wanted.device),
        (SeriesRow.metric, wanted.metric),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.start is not None:
        query = query.where(Window.start_unix_seconds >= wanted.start)
    if wanted.end is not None:
        query = query.where(Window.start_unix_seconds < wanted.end)
    if cursor is not None:
        query = query.where(tuple_(Window.series_id, Window.start_unix_seconds) > decode_cursor(cursor, int, float))
    rows = session.execute(query.limit(limit + 1)).all()
    return make_page(rows, limit, item=_window, key=lambda row: (row[11], row[4]))


def windows_of_run(session: Session, run: Run, *, start: float, end: float) -> list[WindowRow]:
    """Windows of the run's nodes that may lie between `start` and `end`, in a fixed order."""
    nodes = select(RunNode.node).where(RunNode.run == run.id)
    query = _windows().where(
        Node.cluster == run.cluster,
        Node.name.in_(nodes),
        Window.start_unix_seconds >= start - LONGEST_WINDOW_SECONDS,
        Window.start_unix_seconds <= end,
    )
    return [_window(row) for row in session.execute(query)]


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
