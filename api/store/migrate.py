"""Brings the schema of a database up to date, in one transaction: an upgrade that is interrupted has not begun."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from tokenstone.errors import StoreDamaged

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def upgrade(connection: Connection, where: str) -> None:
    """Upgrade the database behind `connection`, whose transaction the caller commits.

    Raises StoreDamaged for a database of another program or of a newer Tokenstone.
    """
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection).get_current_revision()
    if present is None and inspect(connection).get_table_names():
        raise StoreDamaged(
            "the database holds tables of another program", where=where, hint="name another one with --database"
        )
    if present is not None and present not in {script.revision for script in scripts.walk_revisions()}:
        raise StoreDamaged(
            f"the database has schema {present!r}, which this Tokenstone does not know",
            where=where,
            hint="it was written by a newer version: upgrade Tokenstone, or name another database with --database",
        )
    if present != scripts.get_current_head():
        command.upgrade(config, "head")
