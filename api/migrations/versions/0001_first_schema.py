"""First schema: nodes, series and windows; runs, facts and evaluations; price books."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "nodes",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seen_unix_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
        sa.UniqueConstraint("cluster", "name", name="uq_nodes_cluster_name"),
    )
    op.create_table(
        "price_books",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("created_unix_seconds", sa.Double(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_price_books"),
        sa.UniqueConstraint("name", "version", name="uq_price_books_name_version"),
    )
    op.create_table(
        "runs",
        sa.Column("id", ID, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("spec_id", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("devices", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("lease_seconds", sa.Double(), nullable=False),
        sa.Column("seen_unix_seconds", sa.Double(), nullable=False),
        sa.Column("created_unix_seconds", sa.Double(), nullable=False),
        sa.Column("started_unix_seconds", sa.Double(), nullable=True),
        sa.Column("ended_unix_seconds", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("run_id", name="uq_runs_run_id"),
    )
    op.create_index("ix_runs_cluster_spec_id", "runs", ["cluster", "spec_id"])
    op.create_index("ix_runs_state", "runs", ["state"])
    op.create_table(
        "absences",
        sa.Column("node_id", ID, nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_absences_node_id"),
        sa.PrimaryKeyConstraint("node_id", "metric", "device", name="pk_absences"),
    )
    op.create_table(
        "devices",
        sa.Column("node_id", ID, nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_devices_node_id"),
        sa.PrimaryKeyConstraint("node_id", "device", name="pk_devices"),
    )
    op.create_table(
        "epochs",
        sa.Column("node_id", ID, nullable=False),
        sa.Column("epoch", sa.Text(), nullable=False),
        sa.Column("highest_sequence", sa.BigInteger(), nullable=False),
        sa.Column("missing", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_epochs_node_id"),
        sa.PrimaryKeyConstraint("node_id", "epoch", name="pk_epochs"),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", ID, nullable=False),
        sa.Column("run", ID, nullable=False),
        sa.Column("created_unix_seconds", sa.Double(), nullable=False),
        sa.Column("inputs_hash", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("usd_per_million_tokens", sa.Double(), nullable=True),
        sa.Column("device_seconds_per_million_tokens", sa.Double(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_evaluations_run"),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
    )
    op.create_index("ix_evaluations_run", "evaluations", ["run"])
    op.create_table(
        "facts",
        sa.Column("run", ID, nullable=False),
        sa.Column("received_unix_seconds", sa.Double(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_facts_run"),
        sa.PrimaryKeyConstraint("run", name="pk_facts"),
    )
    op.create_table(
        "run_nodes",
        sa.Column("run", ID, nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_run_nodes_run"),
        sa.PrimaryKeyConstraint("run", "node", name="pk_run_nodes"),
    )
    op.create_table(
        "series",
        sa.Column("id", ID, nullable=False),
        sa.Column("node_id", ID, nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_series_node_id"),
        sa.PrimaryKeyConstraint("id", name="pk_series"),
        sa.UniqueConstraint("node_id", "metric", "device", "labels", name="uq_series_node_id_metric_device_labels"),
    )
    op.create_table(
        "windows",
        sa.Column("series_id", ID, nullable=False),
        sa.Column("start_unix_seconds", sa.Double(), nullable=False),
        sa.Column("duration_seconds", sa.Double(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("mean", sa.Double(), nullable=True),
        sa.Column("minimum", sa.Double(), nullable=True),
        sa.Column("maximum", sa.Double(), nullable=True),
        sa.Column("delta", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_windows_series_id"),
        sa.PrimaryKeyConstraint("series_id", "start_unix_seconds", name="pk_windows"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("windows")
    op.drop_table("series")
    op.drop_table("run_nodes")
    op.drop_table("facts")
    op.drop_index("ix_evaluations_run", "evaluations")
    op.drop_table("evaluations")
    op.drop_table("epochs")
    op.drop_table("devices")
    op.drop_table("absences")
    op.drop_index("ix_runs_state", "runs")
    op.drop_index("ix_runs_cluster_spec_id", "runs")
    op.drop_table("runs")
    op.drop_table("price_books")
    op.drop_table("nodes")
