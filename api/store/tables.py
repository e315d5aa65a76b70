"""The tables. Migrations make them (api/migrations); a test holds the two together.

Windows are plain typed columns, because there are many and they are queried. What is only kept and given back whole
(specs, facts, evaluations, price books) is the JSON of its own pydantic model.
"""

from __future__ import annotations

from typing import cast

from sqlalchemy import BigInteger, Double, ForeignKey, Index, Integer, MetaData, Table, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite numbers rows by itself only in a column of type INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """What every table shares: names of constraints, so that migrations can name them, and column types."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {int: BigInteger, float: Double, str: Text}  # noqa: RUF012  SQLAlchemy's own form


def core_table(entity: type[Base]) -> Table:
    """The table of an entity, for statements over many rows."""
    return cast("Table", entity.__table__)


class Node(Base):
    """A node that has sent windows."""

    __tablename__ = "nodes"
    __table_args__ = (UniqueConstraint("cluster", "name"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    cluster: Mapped[str]
    name: Mapped[str]
    seen_unix_seconds: Mapped[float]


class NodeDevice(Base):
    """A device of a node, as its driver named it last."""

    __tablename__ = "devices"

    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    device: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    vendor: Mapped[str]
    model: Mapped[str]
    position: Mapped[int]
    memory_bytes: Mapped[int | None]


class NodeAbsence(Base):
    """A metric that a node cannot give, by its latest batch."""

    __tablename__ = "absences"

    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]


class Epoch(Base):
    """One start of an agent, and which of its batches have arrived: all up to the highest, less the missing."""

    __tablename__ = "epochs"

    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    epoch: Mapped[str] = mapped_column(primary_key=True)
    highest_sequence: Mapped[int]
    missing: Mapped[str]
    """JSON: ranges [first, last], in order."""


class SeriesRow(Base):
    """A time series of a node."""

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("node_id", "metric", "device", "labels"), Index(None, "metric"))

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"))
    metric: Mapped[str]
    device: Mapped[str]
    labels: Mapped[str]
    """JSON with sorted keys."""


class _WindowColumns:
    """What windows have, wherever they are kept.

    Series are never deleted and their ids come from our own look-up, so no foreign key is checked for every row.
    """

    series_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    start_unix_seconds: Mapped[float] = mapped_column(primary_key=True)
    duration_seconds: Mapped[float]
    count: Mapped[int]
    mean: Mapped[float | None]
    minimum: Mapped[float | None]
    maximum: Mapped[float | None]
    delta: Mapped[float | None]


class Window(_WindowColumns, Base):
    """One window of a series, kept for days. In the order of its key, which is the order of every query.

    PostgreSQL keeps each day (UTC) in a partition of its own, which is dropped when the day is forgotten
    (api/store/partitions.py).
    """

    __tablename__ = "windows"
    __table_args__ = {  # noqa: RUF012  SQLAlchemy's own form
        "sqlite_with_rowid": False,
        "postgresql_partition_by": "RANGE (start_unix_seconds)",
    }


class RunWindow(_WindowColumns, Base):
    """A window that was measured during a run: moved here when its day is forgotten, and kept as long as the run."""

    __tablename__ = "run_windows"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012  SQLAlchemy's own form


class Hour(Base):
    """An hour of a series, from its windows that begin in it. Kept for ever."""

    __tablename__ = "hours"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012  SQLAlchemy's own form

    series_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    start_unix_seconds: Mapped[float] = mapped_column(primary_key=True)
    observed_seconds: Mapped[float]
    """Sum of the windows' durations."""
    count: Mapped[int]
    mean: Mapped[float | None]
    """Weighted by the windows' counts."""
    minimum: Mapped[float | None]
    maximum: Mapped[float | None]
    delta: Mapped[float | None]
    integral: Mapped[float | None]
    """Sum of mean x duration: busy seconds of a busy ratio, joules of watts."""


class ClusterHour(Base):
    """An hour of a metric over all series of a cluster, from their hours. Kept for ever."""

    __tablename__ = "cluster_hours"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012  SQLAlchemy's own form

    cluster: Mapped[str] = mapped_column(primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    start_unix_seconds: Mapped[float] = mapped_column(primary_key=True)
    series: Mapped[int]
    """How many series had windows in that hour."""
    observed_seconds: Mapped[float]
    count: Mapped[int]
    mean: Mapped[float | None]
    minimum: Mapped[float | None]
    maximum: Mapped[float | None]
    delta: Mapped[float | None]
    integral: Mapped[float | None]


class PendingHour(Base):
    """An hour of a node that has windows which are not in its hourly roll-up yet."""

    __tablename__ = "pending_hours"

    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    start_unix_seconds: Mapped[float] = mapped_column(primary_key=True)
    touched_unix_seconds: Mapped[float]


class Horizon(Base):
    """A point in time that housekeeping has reached (api/store/horizons.py)."""

    __tablename__ = "horizons"

    name: Mapped[str] = mapped_column(primary_key=True)
    unix_seconds: Mapped[float]


class Run(Base):
    """A run and its lease: the client was heard of at `seen_unix_seconds`."""

    __tablename__ = "runs"
    __table_args__ = (Index(None, "state"), Index(None, "cluster", "spec_id"))

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run_id: Mapped[str] = mapped_column(unique=True)
    cluster: Mapped[str]
    spec_id: Mapped[str]
    spec: Mapped[str]
    devices: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str]
    lease_seconds: Mapped[float]
    seen_unix_seconds: Mapped[float]
    created_unix_seconds: Mapped[float]
    started_unix_seconds: Mapped[float | None]
    ended_unix_seconds: Mapped[float | None]


class RunNode(Base):
    """A node on which a run has devices."""

    __tablename__ = "run_nodes"

    run: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    node: Mapped[str] = mapped_column(primary_key=True)


class RunFacts(Base):
    """What a run did, as the workload told it, once."""

    __tablename__ = "facts"

    run: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    received_unix_seconds: Mapped[float]
    started_unix_seconds: Mapped[float]
    ended_unix_seconds: Mapped[float]
    """The allocation, by the clock of the workload: the windows in between belong to the run."""
    body: Mapped[str]


class EvaluationRow(Base):
    """An evaluation of a run. Never changed: a run that is scored again gets another one."""

    __tablename__ = "evaluations"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    created_unix_seconds: Mapped[float]
    inputs_hash: Mapped[str]
    score: Mapped[float | None]
    usd_per_million_tokens: Mapped[float | None]
    device_seconds_per_million_tokens: Mapped[float | None]
    body: Mapped[str]
    price_book: Mapped[str | None]
    """NAME@VERSION of the book that it was priced by; none where the price was given by hand or there is none."""
    price_row: Mapped[str | None]
    usd_per_device_hour: Mapped[float | None]


class PriceBookRow(Base):
    """A version of a price book. Never changed."""

    __tablename__ = "price_books"
    __table_args__ = (UniqueConstraint("name", "version"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str]
    version: Mapped[str]
    created_unix_seconds: Mapped[float]
    body: Mapped[str]


class ApiKeyRow(Base):
    """A key of the API. Of the secret only a salted hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    prefix: Mapped[str] = mapped_column(unique=True)
    """The part that is shown, and by which a key is found."""
    salt: Mapped[str]
    digest: Mapped[str]
    name: Mapped[str]
    scopes: Mapped[str]
    """JSON: names of scopes."""
    cluster: Mapped[str | None]
    """The only cluster that the key is for; none is all."""
    created_unix_seconds: Mapped[float]
    expires_unix_seconds: Mapped[float | None]
    revoked_unix_seconds: Mapped[float | None]


class AuditRow(Base):
    """What an administrator did. Only ever appended to."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    at_unix_seconds: Mapped[float]
    actor: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]
    detail: Mapped[str]
    request_id: Mapped[str]


class IdempotencyRow(Base):
    """An `Idempotency-Key` that a caller used, and what its request made."""

    __tablename__ = "idempotency_keys"

    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    made: Mapped[str]
    created_unix_seconds: Mapped[float] = mapped_column(index=True)


class ScrapeTarget(Base):
    """Where the agent of a node serves its metrics, as it said last."""

    __tablename__ = "scrape_targets"

    cluster: Mapped[str] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(primary_key=True)
    address: Mapped[str]
    """HOST:PORT."""
    seen_unix_seconds: Mapped[float]


class ClusterPriceRow(Base):
    """What a cluster's devices are priced by, from a day on. The latest row of a day counts."""

    __tablename__ = "cluster_prices"
    __table_args__ = (Index(None, "cluster", "effective_from"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    cluster: Mapped[str]
    effective_from: Mapped[str]
    """YYYY-MM-DD."""
    created_unix_seconds: Mapped[float]
    body: Mapped[str]
