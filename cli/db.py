"""`tokenstone db`: the service's database: upgrade, downgrade, backup, restore, prune."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import JsonFlag, print_json, print_pairs

if TYPE_CHECKING:
    from api.settings import Settings
    from api.store.engine import Store
    from cli.progress import Stage

app = typer.Typer(help="The service's database: upgrade, downgrade, backup, restore, prune.", no_args_is_help=True)

Database = Annotated[
    str | None, typer.Option("--database", help="SQLAlchemy URL. [default: SQLite in the data folder]")
]
Data = Annotated[Path | None, typer.Option("--data", help="Data folder. [default: ./tokenstone-data]")]
File = Annotated[Path, typer.Argument(help="File of the backup.")]


@app.command("upgrade")
def upgrade(database: Database = None, data: Data = None, json: JsonFlag = False) -> None:
    """Bring the schema up to date, or begin a new database. The service does it itself when it starts."""
    with _opened(database, data) as (store, _):
        store.hold()
        with _stage("upgrade", "bringing the schema up to date"):
            before, after = store.upgrade()
    _say({"database": store.where, "schema_before": before, "schema": after}, json)


@app.command("downgrade")
def downgrade(
    revision: Annotated[str, typer.Argument(help="Schema to go back to, such as 0001.")],
    database: Database = None,
    data: Data = None,
    json: JsonFlag = False,
) -> None:
    """Take the schema back for an older Tokenstone. What the older schema cannot hold is lost: back up first."""
    with _opened(database, data) as (store, _):
        store.hold()
        with _stage("downgrade", f"taking the schema back to {revision}"):
            before, after = store.downgrade(revision)
    _say({"database": store.where, "schema_before": before, "schema": after}, json)


@app.command("backup")
def backup(file: File, database: Database = None, data: Data = None, json: JsonFlag = False) -> None:
    """Write one moment of the database to a file, while the service runs. PostgreSQL: by pg_dump."""
    from api.store.backup import back_up  # noqa: PLC0415

    with _opened(database, data) as (store, _), _stage("backup", str(file)) as stage:
        size = back_up(store, file, _bytes_told(stage))
    _say({"database": store.where, "file": str(file), "bytes": size}, json)


@app.command("restore")
def restore(
    file: File,
    replace: Annotated[bool, typer.Option("--replace", help="Lose what the database holds now.")] = False,
    database: Database = None,
    data: Data = None,
    json: JsonFlag = False,
) -> None:
    """Put a backup in the place of the database. End the service first."""
    from api.store.backup import restore as restored  # noqa: PLC0415

    with _opened(database, data) as (store, _):
        with _stage("restore", str(file)) as stage:
            restored(store, file, _bytes_told(stage), replace=replace)
        before, after = store.upgrade()
    _say({"database": store.where, "file": str(file), "schema_before": before, "schema": after}, json)


@app.command("prune")
def prune(
    keep_days: Annotated[
        float | None, typer.Option("--keep-days", min=1, help="Days of windows to keep. [default: the service's]")
    ] = None,
    database: Database = None,
    data: Data = None,
    json: JsonFlag = False,
) -> None:
    """Roll up what is over and forget old windows now; the service does both by itself in the background."""
    from api.store.retention import prune as steps  # noqa: PLC0415
    from api.store.rollups import roll_up_step  # noqa: PLC0415

    done = {"node_hours_rolled_up": 0, "windows_kept_for_runs": 0, "windows_forgotten": 0, "partitions_dropped": 0}
    with _opened(database, data) as (store, settings), _stage("prune", "rolling up") as stage:
        now, days = time.time(), keep_days or settings.keep_windows_days
        while True:
            with store.writing() as session:
                count = roll_up_step(session, now=now)
            done["node_hours_rolled_up"] += count
            if not count:
                break
            stage.note(f"{done['node_hours_rolled_up']:,} node-hours rolled up")
        names = {"kept": "windows_kept_for_runs", "forgotten": "windows_forgotten", "partition": "partitions_dropped"}
        for step in steps(store, keep_days=days, now=now):
            done[names[step.kind]] += 1 if step.kind == "partition" else step.windows or 0
            stage.progress(step.done, step.total, f"{done['windows_forgotten']:,} windows forgotten")
    _say({"database": store.where, "keep_days": days, **done}, json)


@contextmanager
def _opened(database: str | None, data: Path | None) -> Iterator[tuple[Store, Settings]]:
    from cli.extras import needs  # noqa: PLC0415

    with needs("service"):
        from api.settings import load_settings  # noqa: PLC0415
        from api.store.engine import connect  # noqa: PLC0415

    settings = load_settings(database=database, data=data)
    store = connect(settings.database_url)
    try:
        yield store, settings
    finally:
        store.close()


@contextmanager
def _stage(name: str, note: str) -> Iterator[Stage]:
    from cli.progress import Stages  # noqa: PLC0415

    stages = Stages()
    with stages.shown(), stages.stage(name, note) as stage:
        yield stage


def _bytes_told(stage: Stage) -> Callable[[int, int | None], None]:
    def tell(done: int, total: int | None) -> None:
        text = f"{done / 1e6:,.0f} MB" + (f" of {total / 1e6:,.0f} MB" if total else "")
        if total:
            stage.progress(done, total, text)
        elif done:
            stage.note(text)

    return tell


def _say(result: dict[str, Any], json: bool) -> None:
    if json:
        print_json(result)
    else:
        print_pairs({name.replace("_", " "): str(value) for name, value in result.items()})
