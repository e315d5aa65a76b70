"""`tokenstone deliver`: hand recorded jobs that wait on disk to the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonFlag, print_json


def command(
    api: Annotated[
        str, typer.Option("--api", envvar="TOKENSTONE_API", help="URL of the service.")
    ] = "http://127.0.0.1:8470",
    spool: Annotated[
        Path | None,
        typer.Option("--spool", envvar="TOKENSTONE_SPOOL", help="Folder of the jobs' records. [default: of this user]"),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Deliver what tokenstone.record could not: the service was away, or the job was killed.

    Jobs that still run are left alone. The API key comes from TOKENSTONE_API_KEY, or from the file that
    TOKENSTONE_API_KEY_FILE names.
    """
    from tokenstone.client import Client  # noqa: PLC0415
    from tokenstone.errors import NotWritable  # noqa: PLC0415
    from tokenstone.record.job import default_spool  # noqa: PLC0415
    from tokenstone.record.outbox import Outbox  # noqa: PLC0415

    folder = spool or default_spool()
    try:
        outbox = Outbox(folder)
        collected = outbox.collect(patience_seconds=0)
    except OSError as error:
        raise NotWritable(f"cannot be used: {error.strerror}", where=str(folder), hint="give --spool") from error
    waiting = len(outbox.waiting())
    with Client(api) as client:
        taken = outbox.deliver(client)
    refused = waiting - taken
    if json:
        print_json({"delivered": taken, "refused": refused, "of_killed_jobs": collected, "spool": str(folder)})
    else:
        also = f", {refused} refused and kept in {folder / 'refused'}" if refused else ""
        typer.echo(f"{taken} delivered{also}")
    if refused:
        raise typer.Exit(1)
