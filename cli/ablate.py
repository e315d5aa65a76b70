"""`tokenstone ablate`: what each training technique is worth on this machine, off against on."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.output import JsonFlag, print_json, stdout


def command(
    preset: Annotated[
        str,
        typer.Option("--preset", envvar="TOKENSTONE_PRESET", help="Reference training, such as cpu-tiny or cpu-small."),
    ] = "cpu-tiny",
    techniques: Annotated[
        str | None,
        typer.Option(
            "--techniques",
            help="Which, with commas: balancing, routing-limit, schedule, overlap, fp8, fp8-dispatch, recomputation."
            " [default: all]",
        ),
    ] = None,
    runs: Annotated[
        int, typer.Option("--runs", min=1, max=100, help="Runs a side; from 4 a difference can be shown.")
    ] = 4,
    steps: Annotated[int, typer.Option("--steps", min=1, max=1_000_000, help="Counted steps of each run.")] = 10,
    link_rate: Annotated[
        str | None,
        typer.Option(
            "--link-rate",
            help="Limit what ranks send each other, such as 200mbit: really, as root on Linux; else simulated.",
        ),
    ] = None,
    data: options.Data = Path("tokenstone-data"),
    price_per_device_hour: options.PricePerDeviceHour = None,
    price_book: options.PriceBookFile = None,
    price_row: options.PriceRow = None,
    hardware: options.Hardware = None,
    cluster: options.Cluster = "local",
    threads: options.Threads = None,
    json: JsonFlag = False,
) -> None:
    """Train the same model without and with each technique, and say what each is worth here.

    Runs take turns, off and on, each a run of the service; techniques that need it start two or four processes.
    """
    from cli.ablate_plan import base_spec, in_order, parse_rate, plan  # noqa: PLC0415
    from cli.extras import needs  # noqa: PLC0415
    from cli.launch import Launch  # noqa: PLC0415
    from cli.session import Session, conclude_session  # noqa: PLC0415
    from cli.site import make_site  # noqa: PLC0415
    from cli.slow_link import slow_loopback, why_not  # noqa: PLC0415
    from workloads.presets import training_spec  # noqa: PLC0415

    names = [] if techniques is None else [name.strip() for name in techniques.split(",")]
    rate = None if link_rate is None else parse_rate(link_rate)
    simulated = why_not() if rate is not None else None
    base = base_spec(training_spec(preset), steps, link_bits_per_second=rate, link_simulated=simulated is not None)
    planned = list(in_order(plan(base, names), runs))
    if simulated is not None:
        typer.echo(f"The link is simulated, in exchanges of tokens alone: limiting it {simulated}.", err=True)
    with needs("workloads"):
        import scipy  # type: ignore[import-untyped] # noqa: F401, PLC0415
        import tokenizers  # noqa: F401, PLC0415  light, unlike torch, and installed along with it
    site = make_site(
        data=data, report_path=None, price_per_device_hour=price_per_device_hour, price_book=price_book,
        price_row=price_row, hardware=hardware, cluster=cluster, threads=threads,
    )  # fmt: skip

    def work(session: Session) -> list[str]:
        specs = [run.technique.spec(run.side) for run in planned]
        probes = {
            ranks: session.probe(specs[0].dtype, ranks=ranks) for ranks in sorted({s.layout.ranks for s in specs})
        }
        with ExitStack() as stack:
            launcher = stack.enter_context(slow_loopback(rate)) if rate is not None and simulated is None else []
            return [
                session.run(
                    "train", spec, probes[spec.layout.ranks], title=run.title,
                    launch=Launch(prefix=tuple(launcher)) if spec.layout.ranks > 1 else Launch(),
                )
                for run, spec in zip(planned, specs, strict=True)
            ]  # fmt: skip

    evaluations = conclude_session(site, "ablate", work, Session.scores)
    from cli.ablate_result import summarise  # noqa: PLC0415
    from cli.ablate_view import document, print_table  # noqa: PLC0415

    ablation = summarise(planned, evaluations)
    if json:
        return print_json(document(ablation))
    return print_table(ablation, stdout())
