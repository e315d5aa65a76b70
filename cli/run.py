"""`tokenstone run -- COMMAND`: any program as a run on this node, with telemetry and cost, no code touched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options

Tokens = Annotated[float | None, typer.Option("--tokens", help="Tokens that the command works off.")]
TokensFrom = Annotated[
    str | None,
    typer.Option("--tokens-from", help="Pattern with one group: the last number it finds in the output is the tokens."),
]
Flops = Annotated[float | None, typer.Option("--flops-per-token", help="Its work, for a score against the peak.")]


def command(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after --.", show_default=False)],
    name: Annotated[str | None, typer.Option("--name", help="Name of the job. [default: the program's]")] = None,
    tokens: Tokens = None,
    tokens_from: TokensFrom = None,
    flops_per_token: Flops = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Data type of the peak.")] = "bf16",
    result: Annotated[
        Path | None,
        typer.Option("--result", help="Where the result is written. [default: run.json in the data folder]"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing of our own at the end.")] = False,
    api: Annotated[
        str | None,
        typer.Option("--api", envvar="TOKENSTONE_API", help="URL of the service. [default: one of its own]"),
    ] = None,
    data: options.Data = Path("tokenstone-data"),
    report: options.Report = None,
    price_per_device_hour: options.PricePerDeviceHour = None,
    price_book: options.PriceBookFile = None,
    price_row: options.PriceRow = None,
    hardware: options.Hardware = None,
    cluster: options.Cluster = "local",
) -> None:
    """Bracket any program as a run on this node: telemetry, energy, ledger and bill, no code touched.

    Its stdio, signals and exit code are its own; the result is a file, and a summary on stderr. Marks of
    tokenstone.record inside the program become part of the run.
    """
    from json import dumps  # noqa: PLC0415

    from cli.bracket import check_command, token_pattern  # noqa: PLC0415
    from cli.files import write_whole  # noqa: PLC0415
    from cli.guards import interrupted_by_signals, only_one  # noqa: PLC0415
    from cli.numbers import count, positive  # noqa: PLC0415
    from cli.output import stderr  # noqa: PLC0415
    from cli.run_site import measured  # noqa: PLC0415
    from cli.run_view import print_run  # noqa: PLC0415
    from cli.run_work import run_command  # noqa: PLC0415
    from cli.site import find_price, make_site  # noqa: PLC0415
    from tokenstone.errors import UsageError  # noqa: PLC0415
    from tokenstone.run import JobSpec  # noqa: PLC0415

    if tokens is not None and tokens_from is not None:
        raise UsageError("give either --tokens or --tokens-from")
    pattern = token_pattern(tokens_from) if tokens_from is not None else None
    told = count(tokens, "--tokens") if tokens is not None else None
    if flops_per_token is not None:
        positive(flops_per_token, "--flops-per-token")
    check_command(command)
    site = make_site(
        data=data, report_path=report, price_per_device_hour=price_per_device_hour, price_book=price_book,
        price_row=price_row, hardware=hardware, cluster=cluster, threads=None,
    )  # fmt: skip
    price = find_price(price_per_device_hour, price_book, price_row)
    spec = JobSpec(preset=(name or Path(command[0]).name)[:100], flops_per_token=flops_per_token, dtype=dtype)
    with only_one(site.data), interrupted_by_signals(), measured(site, api) as at:
        document = run_command(command, spec, site, at, tokens=told, pattern=pattern, price=price)
        write_whole((result or site.data / "run.json").absolute(), dumps(document, indent=2, allow_nan=False) + "\n")
    if not quiet:
        print_run(document, stderr())
    raise SystemExit(document["exit_code"])
