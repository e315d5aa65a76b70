"""Retention: hourly roll-ups, windows of runs, horizons; windows without a foreign key, partitioned by day."""

import json
from datetime import date
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DAY = 86_400
CHUNK = 500


def upgrade() -> None:
    """Apply."""
    _replace_windows(partitioned=op.get_bind().dialect.name == "postgresql")
    op.create_table("run_windows", *_window_columns("run_windows"), sqlite_with_rowid=False)
    op.create_table(
        "hours",
        sa.Column("series_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("start_unix_seconds", sa.Double(), nullable=False),
        *_statistics(),
        sa.PrimaryKeyConstraint("series_id", "start_unix_seconds", name="pk_hours"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "cluster_hours",
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("start_unix_seconds", sa.Double(), nullable=False),
        sa.Column("series", sa.BigInteger(), nullable=False),
        *_statistics(),
        sa.PrimaryKeyConstraint("cluster", "metric", "start_unix_seconds", name="pk_cluster_hours"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pending_hours",
        sa.Column("node_id", ID, nullable=False),
        sa.Column("start_unix_seconds", sa.Double(), nullable=False),
        sa.Column("touched_unix_seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_pending_hours_node_id"),
        sa.PrimaryKeyConstraint("node_id", "start_unix_seconds", name="pk_pending_hours"),
    )
    op.create_table(
        "horizons",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("unix_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_horizons"),
    )
    op.create_index("ix_series_metric", "series", ["metric"])
    _mark_all_hours()
    _tell_when_runs_were()


def downgrade() -> None:
    """Take back. The hourly roll-ups are lost; windows that were moved to runs come back."""
    op.execute(
        "INSERT INTO windows SELECT * FROM run_windows WHERE true"
        " ON CONFLICT (series_id, start_unix_seconds) DO NOTHING"
    )
    with op.batch_alter_table("facts") as batch:
        batch.drop_column("ended_unix_seconds")
        batch.drop_column("started_unix_seconds")
    op.drop_index("ix_series_metric", "series")
    for table in ("horizons", "pending_hours", "cluster_hours", "hours", "run_windows"):
        op.drop_table(table)
    _replace_windows(sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_windows_series_id"))


def _window_columns(table: str) -> list[sa.schema.SchemaItem]:
    return [
        sa.Column("series_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("start_unix_seconds", sa.Double(), nullable=False),
        sa.Column("duration_seconds", sa.Double(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("mean", sa.Double(), nullable=True),
        sa.Column("minimum", sa.Double(), nullable=True),
        sa.Column("maximum", sa.Double(), nullable=True),
        sa.Column("delta", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("series_id", "start_unix_seconds", name=f"pk_{table}"),
    ]


def _statistics() -> list[sa.Column[Any]]:
    return [
        sa.Column("observed_seconds", sa.Double(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("mean", sa.Double(), nullable=True),
        sa.Column("minimum", sa.Double(), nullable=True),
        sa.Column("maximum", sa.Double(), nullable=True),
        sa.Column("delta", sa.Double(), nullable=True),
        sa.Column("integral", sa.Double(), nullable=True),
    ]


def _replace_windows(*constraints: sa.Constraint, partitioned: bool = False) -> None:
    """Make the table of windows anew, with what is in it."""
    connection = op.get_bind()
    op.rename_table("windows", "windows_before")
    if connection.dialect.name == "postgresql":  # where the name of a key is that of an index, of which there is one
        op.execute("ALTER INDEX pk_windows RENAME TO pk_windows_before")
    by_day: dict[str, Any] = {"postgresql_partition_by": "RANGE (start_unix_seconds)"} if partitioned else {}
    op.create_table("windows", *_window_columns("windows"), *constraints, sqlite_with_rowid=False, **by_day)
    if partitioned:
        op.execute("CREATE TABLE windows_default PARTITION OF windows DEFAULT")
        days = connection.execute(
            sa.text(f"SELECT DISTINCT floor(start_unix_seconds / {DAY}) FROM windows_before ORDER BY 1")  # noqa: S608  a constant
        )
        for number in days.scalars().all():
            name = date.fromordinal(date(1970, 1, 1).toordinal() + int(number)).strftime("%Y%m%d")
            bounds = f"FROM ({number * DAY:.0f}) TO ({(number + 1) * DAY:.0f})"
            op.execute(f"CREATE TABLE windows_{name} PARTITION OF windows FOR VALUES {bounds}")
    op.execute("INSERT INTO windows SELECT * FROM windows_before")
    op.drop_table("windows_before")


def _mark_all_hours() -> None:
    """Every hour that has windows waits for its roll-up."""
    # A cast to integer cuts off in SQLite, which may lack floor(), and rounds in PostgreSQL.
    postgresql = op.get_bind().dialect.name == "postgresql"
    number = "floor(w.start_unix_seconds / 3600)" if postgresql else "CAST(w.start_unix_seconds / 3600 AS INTEGER)"
    op.execute(
        f"INSERT INTO pending_hours SELECT DISTINCT s.node_id, {number} * 3600, 0"  # noqa: S608  constants
        " FROM windows w JOIN series s ON s.id = w.series_id"
    )


def _tell_when_runs_were() -> None:
    """Facts get columns for when they began and ended, out of their bodies."""
    with op.batch_alter_table("facts") as batch:
        batch.add_column(sa.Column("started_unix_seconds", sa.Double(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("ended_unix_seconds", sa.Double(), nullable=False, server_default="0"))
    connection = op.get_bind()
    facts = sa.table("facts", sa.column("run"), sa.column("body"),
                     sa.column("started_unix_seconds"), sa.column("ended_unix_seconds"))  # fmt: skip
    last = -1
    while rows := connection.execute(
        sa.select(facts.c.run, facts.c.body).where(facts.c.run > last).order_by(facts.c.run).limit(CHUNK)
    ).all():
        for run, body in rows:
            told = json.loads(body)
            started = told["started_unix_seconds"]
            connection.execute(
                sa.update(facts)
                .where(facts.c.run == run)
                .values(started_unix_seconds=started, ended_unix_seconds=started + told["allocated_seconds"])
            )
            last = run
    with op.batch_alter_table("facts") as batch:
        batch.alter_column("started_unix_seconds", server_default=None)
        batch.alter_column("ended_unix_seconds", server_default=None)
