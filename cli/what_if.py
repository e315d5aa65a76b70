"""`tokenstone what-if`: the bill of a run under another price, network, precision, schedule or hardware."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import PriceBookFile, PricePerDeviceHour, PriceRow
from cli.output import JsonFlag, print_json, stdout

if TYPE_CHECKING:
    from tokenstone.what_if import WhatIf


class Schedule(StrEnum):
    """tokenstone.what_if.PipelineSchedule, without importing it for --help."""

    ONE_F_ONE_B = "1F1B"
    INTERLEAVED = "Interleaved1F1B"
    ZERO_BUBBLE = "ZB1P"
    ZERO_BUBBLE_V = "ZBVZeroBubble"
    DUAL_PIPE = "DualPipe"
    DUAL_PIPE_V = "DualPipeV"


ScheduleOption = Annotated[
    Schedule | None, typer.Option("--schedule", case_sensitive=False, help="Another pipeline schedule.")
]
FromSchedule = Annotated[
    Schedule | None,
    typer.Option("--from-schedule", case_sensitive=False, help="The schedule it had, where the result does not tell."),
]


def command(
    source: Annotated[str, typer.Argument(metavar="RUN|RESULT.json", help="A run's id, or a result of --json.")],
    devices: Annotated[int | None, typer.Option("--devices", min=1, help="The same work on so many devices.")] = None,
    hardware: Annotated[str | None, typer.Option("--hardware", help="Other devices, by catalogue name.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="Another format for the FLOPs: fp8.")] = None,
    schedule: ScheduleOption = None,
    link_rate_factor: Annotated[
        float | None, typer.Option("--link-rate-factor", help="Links that carry so many times as much.")
    ] = None,
    price_per_device_hour: PricePerDeviceHour = None,
    price_book: PriceBookFile = None,
    price_row: PriceRow = None,
    part: Annotated[str | None, typer.Option("--part", help="training or inference, of a result of both.")] = None,
    from_schedule: FromSchedule = None,
    pipeline: Annotated[int | None, typer.Option("--pipeline", min=1, help="Stages that it had.")] = None,
    micro_batches: Annotated[int | None, typer.Option("--micro-batches", min=1, help="And micro-batches.")] = None,
    api: Annotated[
        str, typer.Option("--api", envvar="TOKENSTONE_API", help="URL of the service, for a run.")
    ] = "http://127.0.0.1:8470",
    json: JsonFlag = False,
) -> None:
    """What a run would have cost otherwise. One change or several; every assumption is printed."""
    from cli.numbers import positive  # noqa: PLC0415
    from cli.site import find_price  # noqa: PLC0415
    from cli.what_if_input import read_baseline  # noqa: PLC0415
    from tokenstone.what_if import Changes, what_if  # noqa: PLC0415

    if link_rate_factor is not None:
        positive(link_rate_factor, "--link-rate-factor", most=1e6)
    price = find_price(price_per_device_hour, price_book, price_row)
    base = read_baseline(source, api=api, part=part)
    told = {"schedule": from_schedule and from_schedule.value, "pipeline": pipeline, "micro_batches": micro_batches}
    base = base.model_copy(update={name: value for name, value in told.items() if value is not None})
    changes = Changes(
        devices=devices, hardware=hardware, precision=precision, schedule=schedule.value if schedule else None,
        link_rate_factor=link_rate_factor, price=price,
    )  # fmt: skip
    result = what_if(base, changes)
    if json:
        return print_json(result.model_dump(mode="json"))
    return _print(result)


def _print(result: WhatIf) -> None:
    from rich.table import Table  # noqa: PLC0415

    from tokenstone.score.bottleneck import TITLES  # noqa: PLC0415

    console = stdout()
    table = Table(box=None, pad_edge=False)
    for heading in ("device-seconds", "as it was", "what if", "change"):
        table.add_column(heading, justify="left" if heading == "device-seconds" else "right")
    before, after = result.before, result.after
    for name in dict.fromkeys((*before.seconds, *after.seconds)):
        old, new = before.seconds.get(name, 0.0), after.seconds.get(name, 0.0)
        if old or new:
            table.add_row(TITLES[name], f"{old:,.4g}", f"{new:,.4g}", _change(old, new))
    table.add_row(
        "all", f"{before.allocated_seconds:,.4g}", f"{after.allocated_seconds:,.4g}",
        _change(before.allocated_seconds, after.allocated_seconds), style="bold",
    )  # fmt: skip
    costs = [side.bill.usd_per_million_tokens if side.bill else None for side in (before, after)]
    if any(cost is not None for cost in costs):
        change = "" if result.cost_ratio is None else f"{result.cost_ratio - 1:+.1%}"
        table.add_row("$ per million tokens", *(_money(cost) for cost in costs), change, style="bold")
    console.print(table)
    console.print(f"Simulated, from {result.source}. It takes for granted that", style="dim")
    for assumption in result.assumptions:
        console.print(f"- {assumption}", style="dim")


def _change(old: float, new: float) -> str:
    return "" if old == new else f"{new / old - 1:+.1%}" if old else "new"


def _money(value: float | None) -> str:
    from tokenstone.score.bottleneck import money  # noqa: PLC0415

    return "no price" if value is None else money(value)
