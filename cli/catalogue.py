"""`tokenstone hardware` and `tokenstone metrics`: the catalogue and the registry, to read or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonFlag, print_json, stdout

if TYPE_CHECKING:
    from tokenstone.hardware import Accelerator, Figure

SCALES = {
    "peak_flops_per_second": (1e12, "TFLOP/s", "peak"),
    "memory_bytes": (1e9, "GB", "memory"),
    "memory_bytes_per_second": (1e12, "TB/s", "memory bandwidth"),
    "scale_up_bytes_per_second": (1e9, "GB/s a direction", "scale-up links"),
    "network_bytes_per_second": (1e9, "GB/s a direction", "network"),
    "power_watts": (1, "W", "power"),
}
"""How each quantity is printed: scale, unit and title."""


def hardware_command(
    name: Annotated[str | None, typer.Argument(help="One accelerator; all when left out.")] = None,
    json: JsonFlag = False,
) -> None:
    """The hardware catalogue: published figures, each with dtype, source, date and whether it is verified."""
    from tokenstone import hardware  # noqa: PLC0415

    chosen = list(hardware.catalogue().values()) if name is None else [hardware.get(name)]
    if json:
        documents = [accelerator.model_dump(mode="json") for accelerator in chosen]
        return print_json(documents if name is None else documents[0])
    return _print_all(chosen) if name is None else _print_one(chosen[0])


def _text(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    scale, _, _ = SCALES[figure.quantity]
    return f"{figure.value / scale:,.6g}{'' if figure.verified else ' U'}"


def _print_all(accelerators: list[Accelerator]) -> None:
    from rich.table import Table  # noqa: PLC0415

    columns = ("peak_flops_per_second:bf16", "peak_flops_per_second:fp8", "memory_bytes", "memory_bytes_per_second",
               "scale_up_bytes_per_second", "network_bytes_per_second", "power_watts")  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ("name", "BF16 TFLOP/s", "FP8 TFLOP/s", "GB", "TB/s", "scale-up GB/s", "network GB/s", "W")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for accelerator in accelerators:
        cells = [_text(accelerator.figure(*_key(column))) for column in columns]  # type: ignore[arg-type]
        table.add_row(accelerator.name, *cells)
    stdout().print(table)
    typer.echo("Dense peaks, per device; bandwidth per direction, GB = 1e9. U: unverified. -: none published.")


def _key(column: str) -> tuple[str, str | None]:
    quantity, _, dtype = column.partition(":")
    return quantity, dtype or None


def _print_one(accelerator: Accelerator) -> None:
    typer.echo(f"{accelerator.title} ({accelerator.name})")
    if accelerator.aliases:
        typer.echo(f"driver's names: {', '.join(accelerator.aliases)}")
    for figure in accelerator.figures:
        scale, unit, title = SCALES[figure.quantity]
        kind = f" {figure.dtype}, {'dense' if figure.dense else 'sparse'}" if figure.dtype else ""
        remarks = "; ".join(filter(None, ("" if figure.verified else "unverified", figure.note)))
        typer.echo(f"  {title + kind:<24} {figure.value / scale:>9,.6g} {unit}{f' ({remarks})' if remarks else ''}")
        typer.echo(f"  {'':<24} {figure.source}, {figure.date}")
    for name, reason in accelerator.absent.items():
        typer.echo(f"  {name.replace('_', ' '):<24} absent: {reason}")


def metrics_command(json: JsonFlag = False) -> None:
    """The metric registry: every metric's name, kind, unit, resource and meaning."""
    from rich.table import Table  # noqa: PLC0415

    from tokenstone.metric import REGISTRY  # noqa: PLC0415

    if json:
        return print_json(
            [
                {"name": m.name, "kind": m.kind, "unit": m.unit, "resource": m.resource, "help": m.help,
                 "labels": list(m.labels)}
                for m in REGISTRY.values()
            ]
        )  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("name", "kind", "unit", "labels", "meaning"):
        table.add_column(head, overflow="fold")
    for metric in REGISTRY.values():
        table.add_row(metric.name, metric.kind, metric.unit, ", ".join(metric.labels), metric.help)
    return stdout().print(table)
