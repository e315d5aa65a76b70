"""`tokenstone key`: API keys, straight in the database of the service, which may be running meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonFlag, print_json, stdout

if TYPE_CHECKING:
    from api.store.engine import Session
    from tokenstone.wire import KeyView

app = typer.Typer(help="Create, list and revoke API keys of the service.", no_args_is_help=True)

ACTOR = "command line"
Data = Annotated[Path | None, typer.Option("--data", help="Data folder of the service. [default: ./tokenstone-data]")]
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="SQLAlchemy URL; with a password, give it as TOKENSTONE_DATABASE. [default: SQLite in the data folder]",
    ),
]


@app.command("create")
def create(
    name: Annotated[str, typer.Option("--name", help="Whose key it is, for the list.")],
    scope: Annotated[list[str], typer.Option("--scope", help="ingest, read or admin; may be given several times.")],
    cluster: Annotated[str | None, typer.Option("--cluster", help="The only cluster it is for. [default: all]")] = None,
    days: Annotated[float | None, typer.Option("--days", min=0, help="Days until it expires. [default: never]")] = None,
    data: Data = None,
    database: Database = None,
    json: JsonFlag = False,
) -> None:
    """Create a key and print it, this once: only its hash is kept."""
    import time  # noqa: PLC0415

    from pydantic import ValidationError  # noqa: PLC0415

    from tokenstone.errors import InvalidValue  # noqa: PLC0415
    from tokenstone.wire import KeyCreate  # noqa: PLC0415

    now = time.time()
    try:
        wanted = KeyCreate.model_validate(
            {"name": name, "scopes": scope, "cluster": cluster,
             "expires_unix_seconds": None if days is None else now + days * 86_400}
        )  # fmt: skip
    except ValidationError as error:
        found = error.errors()[0]
        place = f"--{str(found['loc'][0]).removesuffix('s')}" if found["loc"] else "key"
        raise InvalidValue(found["msg"].removeprefix("Value error, "), where=place) from None
    with _writing(data, database) as session:
        from api.store.audit import add_audit  # noqa: PLC0415
        from api.store.keys import create_key  # noqa: PLC0415

        key = create_key(session, wanted, now=now)
        detail = wanted.model_dump_json(exclude_none=True)
        add_audit(session, actor=ACTOR, action="key created", target=key.prefix, detail=detail, now=now)
    if json:
        return print_json(key.model_dump(mode="json"))
    typer.echo(key.key)
    return typer.echo(f"{key.prefix} is told this once. Clients take it from TOKENSTONE_API_KEY, or a file that "
                      "TOKENSTONE_API_KEY_FILE names.", err=True)  # fmt: skip


@app.command("list")
def list_keys(data: Data = None, database: Database = None, json: JsonFlag = False) -> None:
    """List all keys, revoked ones too, by prefix. The keys themselves are kept nowhere."""
    with _writing(data, database) as session:
        from api.store.keys import page_of_keys  # noqa: PLC0415

        keys, cursor = [], None
        while True:
            page = page_of_keys(session, cursor=cursor, limit=500)
            keys += page.items
            if (cursor := page.next_cursor) is None:
                break
    if json:
        return print_json([key.model_dump(mode="json") for key in keys])
    return _print(keys)


@app.command("revoke")
def revoke(
    prefix: Annotated[str, typer.Argument(help="The key's prefix, tsk_...")],
    data: Data = None,
    database: Database = None,
    json: JsonFlag = False,
) -> None:
    """Revoke a key for good. The service refuses it from the next request on."""
    import time  # noqa: PLC0415

    now = time.time()
    with _writing(data, database) as session:
        from api.store.audit import add_audit  # noqa: PLC0415
        from api.store.keys import revoke_key  # noqa: PLC0415

        key, was_in_force = revoke_key(session, prefix, now=now)
        if was_in_force:
            add_audit(session, actor=ACTOR, action="key revoked", target=prefix, now=now)
    if json:
        return print_json(key.model_dump(mode="json"))
    return typer.echo(f"{prefix} is revoked" if was_in_force else f"{prefix} was revoked before")


@contextmanager
def _writing(data: Path | None, database: str | None) -> Iterator[Session]:
    from cli.extras import needs  # noqa: PLC0415

    with needs("service"):
        from api.settings import load_settings  # noqa: PLC0415
        from api.store.engine import connect  # noqa: PLC0415

    # Those settings of the environment that concern the listening service do not matter here.
    settings = load_settings(data=data, database=database, workers=1)
    store = connect(settings.database_url)
    try:
        store.upgrade()  # the first key may be made before the service has ever run
        with store.writing() as session:
            yield session
    finally:
        store.close()


def _print(keys: list[KeyView]) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    from rich.table import Table  # noqa: PLC0415

    def day(seconds: float | None) -> str:
        return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("key", "name", "scopes", "cluster", "created", "expires", "revoked"):
        table.add_column(head, overflow="fold")
    for key in keys:
        times = (key.created_unix_seconds, key.expires_unix_seconds, key.revoked_unix_seconds)
        table.add_row(key.prefix, key.name, ", ".join(key.scopes), key.cluster or "all", *map(day, times))
    stdout().print(table)
