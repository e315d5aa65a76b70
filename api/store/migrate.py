"""Brings the schema of a database up to date, in one transaction: an upgrade that is interrupted has not begun."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from tokenstone.errors import InvalidValue, StoreDamaged, UnknownName

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def upgrade(connection: Connection, where: str) -> tuple[str | None, str]:
    """Upgrade the database behind `connection`, whose transaction the caller commits.

    Returns the schema before, None where there was none, and the one now.

    Raises StoreDamaged for a database of another program or of a newer Tokenstone.
    """
    config = _config(connection)
    scripts = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection).get_current_revision()
    head = str(scripts.get_current_head())
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
    if present != head:
        command.upgrade(config, "head")
    return present, head


def downgrade(connection: Connection, revision: str, where: str) -> tuple[str | None, str]:
    """Take the schema back to `revision`. Returns as `upgrade`.

    Raises UnknownName, InvalidValue for one that is newer than the present, and StoreDamaged.
    """
    config = _config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()} | {"base"}
    present = MigrationContext.configure(connection).get_current_revision()
    if revision not in known:
        raise UnknownName("schema", revision, known, where="REVISION")
    if present not in known:
        raise StoreDamaged(
            f"the database has schema {present!r}, not one of ours", where=where, hint="upgrade Tokenstone"
        )
    if revision != "base" and revision > present:
        raise InvalidValue(
            f"schema {revision} is newer than {present}", where="REVISION", hint="use `tokenstone db upgrade`"
        )
    command.downgrade(config, revision)
    return present, revision


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
