"""Clusters, devices and workload specs: what nodes and runs have named."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import func, select, tuple_, union
from sqlalchemy.orm import Session

from api.store.cluster_prices import cluster_prices
from api.store.paging import decode_cursor, make_page
from api.store.tables import Node, NodeDevice, Run
from api.views import ClusterView, DeviceView, SpecView
from tokenstone import hardware
from tokenstone.errors import NotFound
from tokenstone.run import AnySpec, WorkloadSpec
from tokenstone.wire import Device, Page

_SPEC: TypeAdapter[AnySpec] = TypeAdapter(WorkloadSpec)


def page_of_clusters(
    session: Session, *, cluster: str | None, cursor: str | None, limit: int, on: date
) -> Page[ClusterView]:
    """Clusters by name."""
    names = union(select(Node.cluster.label("name")), select(Run.cluster.label("name"))).subquery()
    query = select(names.c.name).order_by(names.c.name).limit(limit + 1)
    if cluster is not None:
        query = query.where(names.c.name == cluster)
    if cursor is not None:
        query = query.where(names.c.name > decode_cursor(cursor, str)[0])
    found = session.scalars(query).all()
    views = _clusters(session, found[:limit], on)
    return make_page(found, limit, item=lambda name: views[name], key=lambda name: (name,))


def get_cluster(session: Session, name: str, *, on: date) -> ClusterView:
    """One cluster; raises NotFound."""
    items = page_of_clusters(session, cluster=name, cursor=None, limit=1, on=on).items
    if not items:
        raise NotFound(f"there is no cluster {name[:200]!r}", where="cluster", hint="GET /v1/clusters lists them")
    return items[0]


def _clusters(session: Session, names: Sequence[str], on: date) -> dict[str, ClusterView]:
    nodes = _counts(
        session,
        select(Node.cluster, func.count(), func.max(Node.seen_unix_seconds))
        .where(Node.cluster.in_(names))
        .group_by(Node.cluster),
    )
    devices = _counts(
        session,
        select(Node.cluster, func.count())
        .join(NodeDevice, NodeDevice.node_id == Node.id)
        .where(Node.cluster.in_(names), NodeDevice.kind == "accelerator")
        .group_by(Node.cluster),
    )
    runs = _counts(session, select(Run.cluster, func.count()).where(Run.cluster.in_(names)).group_by(Run.cluster))
    prices = cluster_prices(session, names[0] if len(names) == 1 else None)
    return {
        name: ClusterView(
            name=name,
            nodes=nodes.get(name, (0,))[0],
            accelerators=devices.get(name, (0,))[0],
            runs=runs.get(name, (0,))[0],
            seen_unix_seconds=nodes.get(name, (0, None))[1],
            price=next((price for price in prices.get(name, ()) if price.effective_from <= on), None),
        )
        for name in names
    }


def _counts(session: Session, query: Any) -> dict[str, tuple[Any, ...]]:
    return {row[0]: tuple(row[1:]) for row in session.execute(query)}


def page_of_devices(
    session: Session, *, cluster: str | None, node: str | None, cursor: str | None, limit: int
) -> Page[DeviceView]:
    """Devices by node, in the order in which nodes were first seen."""
    query = (
        select(Node.cluster, Node.name, NodeDevice)
        .join(Node, Node.id == NodeDevice.node_id)
        .order_by(NodeDevice.node_id, NodeDevice.device)
        .limit(limit + 1)
    )
    if cluster is not None:
        query = query.where(Node.cluster == cluster)
    if node is not None:
        query = query.where(Node.name == node)
    if cursor is not None:
        query = query.where(tuple_(NodeDevice.node_id, NodeDevice.device) > decode_cursor(cursor, int, str))
    rows = session.execute(query).all()
    return make_page(rows, limit, item=_device, key=lambda row: (row[2].node_id, row[2].device))


def _device(row: Any) -> DeviceView:
    cluster, node, device = row
    values = {"id": device.device, "kind": device.kind, "vendor": device.vendor, "model": device.model,
              "index": device.position, "memory_bytes": device.memory_bytes}  # fmt: skip
    return DeviceView(
        cluster=cluster, node=node, device=Device.model_validate(values), hardware=hardware.identify(device.model)
    )


def page_of_specs(session: Session, *, cluster: str | None, cursor: str | None, limit: int) -> Page[SpecView]:
    """Specs of runs, by id."""
    query = select(Run.spec_id, func.count(), func.min(Run.id)).group_by(Run.spec_id)
    if cluster is not None:
        query = query.where(Run.cluster == cluster)
    if cursor is not None:
        query = query.where(Run.spec_id > decode_cursor(cursor, str)[0])
    rows = session.execute(query.order_by(Run.spec_id).limit(limit + 1)).all()
    bodies = dict(session.execute(select(Run.id, Run.spec).where(Run.id.in_([row[2] for row in rows]))).all())
    return make_page(
        rows,
        limit,
        item=lambda row: SpecView(spec_id=row[0], spec=_SPEC.validate_json(bodies[row[2]]), runs=row[1]),
        key=lambda row: (row[0],),
    )


def get_spec(session: Session, spec_id: str, *, cluster: str | None) -> SpecView:
    """One spec; raises NotFound, also for one that the runs of `cluster` have not had."""
    query = select(func.count(), func.min(Run.id)).where(Run.spec_id == spec_id)
    if cluster is not None:
        query = query.where(Run.cluster == cluster)
    count, first = session.execute(query).one()
    if not count:
        raise NotFound(f"there is no spec {spec_id[:200]!r}", where="spec_id", hint="GET /v1/specs lists them")
    body = session.scalar(select(Run.spec).where(Run.id == first))
    assert body is not None  # noqa: S101  the row was just found
    return SpecView(spec_id=spec_id, spec=_SPEC.validate_json(body), runs=count)


def nodes_seen(session: Session, *, since: float) -> list[tuple[str, str, float]]:
    """(cluster, node, when its last batch arrived) of the nodes heard of since then."""
    query = select(Node.cluster, Node.name, Node.seen_unix_seconds).where(Node.seen_unix_seconds >= since)
    return [(cluster, node, seen) for cluster, node, seen in session.execute(query.order_by(Node.cluster, Node.name))]
