"""`tokenstone serve`: the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonFlag


def command(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65_535, help="Port; 0 is any free one. [default: 8470]")
    ] = None,
    database: Annotated[
        str | None, typer.Option("--database", help="SQLAlchemy URL. [default: SQLite in the data folder]")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Data folder. [default: ./tokenstone-data]")] = None,
    authentication: Annotated[
        bool | None,
        typer.Option(
            "--authentication/--no-authentication",
            help="Whether requests need an API key. [default: as soon as the address is not a loopback one]",
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option("--tls-certificate", help="Certificate chain (PEM): speak HTTPS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its private key (PEM).")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; more than one needs PostgreSQL. [default: 1]")
    ] = None,
    lifeline: Annotated[bool, typer.Option("--lifeline", hidden=True)] = False,
    json: JsonFlag = False,
) -> None:
    """Take windows and facts in; answer with ledgers, scores, bills and reports."""
    from cli.extras import needs  # noqa: PLC0415

    with needs("service"):
        from api.main import serve  # noqa: PLC0415
        from api.settings import load_settings  # noqa: PLC0415

    from cli.processes import end_with_stdin  # noqa: PLC0415

    if lifeline:
        end_with_stdin()
    settings = load_settings(
        host=host, port=port, database=database, data=data, authentication=authentication,
        tls_certificate=tls_certificate, tls_key=tls_key, workers=workers,
    )  # fmt: skip

    def ready(url: str) -> None:
        if json:
            typer.echo(f'{{"url": "{url}"}}')
        else:
            typer.echo(f"Tokenstone is listening on {url} (API description: {url}/openapi.json)", err=True)

    serve(settings, on_ready=ready)
