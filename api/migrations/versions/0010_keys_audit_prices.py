"""Keys, audit log, idempotency keys, scrape targets, prices of clusters; what each score was priced by."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "api_keys",
        sa.Column("id", ID, nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=True),
        sa.Column("created_unix_seconds", sa.Double(), nullable=False),
        sa.Column("expires_unix_seconds", sa.Double(), nullable=True),
        sa.Column("revoked_unix_seconds", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("prefix", name="uq_api_keys_prefix"),
    )
    op.create_table(
        "audit",
        sa.Column("id", ID, nullable=False),
        sa.Column("at_unix_seconds", sa.Double(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("made", sa.Text(), nullable=False),
        sa.Column("created_unix_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("caller", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_unix_seconds", "idempotency_keys", ["created_unix_seconds"])
    op.create_table(
        "scrape_targets",
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("seen_unix_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("cluster", "node", name="pk_scrape_targets"),
    )
    op.create_table(
        "cluster_prices",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("effective_from", sa.Text(), nullable=False),
        sa.Column("created_unix_seconds", sa.Double(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cluster_prices"),
    )
    op.create_index("ix_cluster_prices_cluster_effective_from", "cluster_prices", ["cluster", "effective_from"])
    with op.batch_alter_table("evaluations") as evaluations:
        evaluations.add_column(sa.Column("price_book", sa.Text(), nullable=True))
        evaluations.add_column(sa.Column("price_row", sa.Text(), nullable=True))
        evaluations.add_column(sa.Column("usd_per_device_hour", sa.Double(), nullable=True))


def downgrade() -> None:
    """Take back."""
    with op.batch_alter_table("evaluations") as evaluations:
        evaluations.drop_column("usd_per_device_hour")
        evaluations.drop_column("price_row")
        evaluations.drop_column("price_book")
    op.drop_index("ix_cluster_prices_cluster_effective_from", "cluster_prices")
    op.drop_table("cluster_prices")
    op.drop_table("scrape_targets")
    op.drop_index("ix_idempotency_keys_created_unix_seconds", "idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_table("audit")
    op.drop_table("api_keys")
