"""Where agents serve their metrics, for Prometheus to find them."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.store.tables import ScrapeTarget
from tokenstone.wire import TargetGroup

MOST_TARGETS = 50_000
FORGOTTEN_AFTER_SECONDS = 86_400.0
"""An agent that has pushed nothing for a day is no target any more."""


def register_target(session: Session, cluster: str, node: str, address: str, *, now: float) -> None:
    """Keep the address of a node's agent, as it says it now."""
    row = session.get(ScrapeTarget, (cluster, node))
    if row is None:
        session.add(ScrapeTarget(cluster=cluster, node=node, address=address, seen_unix_seconds=now))
        return
    row.address, row.seen_unix_seconds = address, now


def targets(session: Session, *, cluster: str | None, now: float) -> list[TargetGroup]:
    """The agents heard of within a day, as Prometheus' HTTP service discovery wants them."""
    query = select(ScrapeTarget).where(ScrapeTarget.seen_unix_seconds > now - FORGOTTEN_AFTER_SECONDS)
    if cluster is not None:
        query = query.where(ScrapeTarget.cluster == cluster)
    rows = session.scalars(query.order_by(ScrapeTarget.cluster, ScrapeTarget.node).limit(MOST_TARGETS))
    return [TargetGroup(targets=[row.address], labels={"cluster": row.cluster, "node": row.node}) for row in rows]
