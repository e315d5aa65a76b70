"""`tokenstone project`: what if a published training ran under another schedule."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cli.options import PricePerDeviceHour
from cli.output import JsonFlag, print_json, print_pairs


class Schedule(StrEnum):
    """tokenstone.project.PipelineSchedule, without importing it for --help."""

    DUAL_PIPE = "DualPipe"
    ZERO_BUBBLE = "ZB1P"
    ONE_F_ONE_B = "1F1B"


def command(
    model: Annotated[str, typer.Argument(help="A training whose segments were published: deepseek-v3.")],
    schedule: Annotated[Schedule, typer.Option("--schedule", help="Pipeline schedule.")] = Schedule.DUAL_PIPE,
    overlap: Annotated[
        bool, typer.Option("--overlap/--no-overlap", help="DualPipe: forward and backward at once, or in turn.")
    ] = True,
    devices: Annotated[int | None, typer.Option("--devices", min=1, help="Devices. [default: as published]")] = None,
    price_per_device_hour: PricePerDeviceHour = None,
    json: JsonFlag = False,
) -> None:
    """Build the step of a published training from its segments, as it was or under another schedule."""
    from tokenstone.cost import rental  # noqa: PLC0415
    from tokenstone.project import project  # noqa: PLC0415
    from tokenstone.score.bottleneck import money  # noqa: PLC0415

    price = None if price_per_device_hour is None else rental(price_per_device_hour).usd_per_device_hour
    result = project(model, schedule=schedule.value, overlap=overlap, devices=devices, usd_per_device_hour=price)
    if json:
        return print_json(result.model_dump(mode="json"))
    pairs = {
        "step": f"{result.step_seconds:.3f} s",
        **{f"  {name}": f"{seconds:.3f} s" for name, seconds in result.segments.items()},
        "tokens per day": f"{result.tokens_per_day / 1e9:,.2f} B on {result.devices:,} devices",
        "device-hours per 1T tokens": f"{result.device_hours_per_trillion_tokens / 1e3:,.0f}K",
    }
    if result.usd_per_million_tokens is not None:
        pairs["per million tokens"] = money(result.usd_per_million_tokens)
    pairs |= {"provenance": result.provenance, "source": result.source}
    print_pairs(pairs)
    for assumption in result.assumptions:
        typer.echo(f"assumed: {assumption}")
    return None
