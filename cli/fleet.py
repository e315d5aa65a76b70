"""`tokenstone fleet`: how the device-hours of the fleet were spent, and the money that idle ones burnt."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonFlag, print_json, stdout

if TYPE_CHECKING:
    from tokenstone.fleet import Fleet, Spent


def command(
    api: Annotated[
        str, typer.Option("--api", envvar="TOKENSTONE_API", help="URL of the service.")
    ] = "http://127.0.0.1:8470",
    cluster: Annotated[str | None, typer.Option("--cluster", help="One cluster. [default: all]")] = None,
    start: Annotated[
        datetime | None,
        typer.Option("--start", formats=["%Y-%m-%d"], help="First day. [default: 6 days before]"),
    ] = None,
    end: Annotated[
        datetime | None, typer.Option("--end", formats=["%Y-%m-%d"], help="Last day, included. [default: today, UTC]")
    ] = None,
    price_per_device_hour: Annotated[
        float | None, typer.Option("--price-per-device-hour", help="Dollars, instead of the clusters' own prices.")
    ] = None,
    price_book: Annotated[
        str | None, typer.Option("--price-book", help="A stored price book instead, NAME or NAME@VERSION.")
    ] = None,
    price_row: Annotated[str | None, typer.Option("--price-row", help="Its row. [default: by hardware]")] = None,
    json: JsonFlag = False,
) -> None:
    """Allocated, busy, idle and unknown device-hours by cluster and day, in hours and in money.

    The API key comes from TOKENSTONE_API_KEY, or from the file that TOKENSTONE_API_KEY_FILE names.
    """
    from tokenstone.client import Client  # noqa: PLC0415

    with Client(api) as client:
        fleet = client.fleet(
            cluster=cluster,
            start=start.date() if start else None,
            end=end.date() if end else None,
            usd_per_device_hour=price_per_device_hour,
            price_book=price_book,
            price_row=price_row,
        )
    if json:
        return print_json(fleet.model_dump(mode="json"))
    return _print(fleet)


def _print(fleet: Fleet) -> None:
    from rich.table import Table  # noqa: PLC0415

    if not fleet.rows:
        typer.echo(f"No accelerator was seen from {fleet.start} to {fleet.end}.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = (
        "cluster",
        "day",
        "devices",
        "present h",
        "allocated h",
        "busy h",
        "idle h",
        "unknown h",
        "idle $",
        "unknown $",
    )
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < 2 else "right", overflow="fold")
    for row in fleet.rows:
        what = f"{row.devices} {row.hardware or row.model}"
        table.add_row(row.cluster, str(row.day), what, *_cells(row.hours, row.usd))
    for total in fleet.totals:
        table.add_row(total.cluster, "all days", "", *_cells(total.hours, total.usd), style="bold")
    stdout().print(table)
    typer.echo("Days in UTC. Unknown is not idle: the agent was silent, or the driver does not tell.")
    for reason in sorted({row.price_reason for row in fleet.rows if row.price_reason}):
        typer.echo(f"Without a price: {reason}")


def _cells(hours: Spent, usd: Spent | None) -> list[str]:
    cells = [f"{getattr(hours, name):,.1f}" for name in ("present", "allocated", "busy", "idle", "unknown")]
    return [*cells, *(("-", "-") if usd is None else (f"{usd.idle:,.2f}", f"{usd.unknown:,.2f}"))]
