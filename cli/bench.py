"""`tokenstone bench`: the whole path on this machine, from samples to what a token costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonFlag, print_json, stdout


def command(
    preset: Annotated[
        str, typer.Option("--preset", envvar="TOKENSTONE_PRESET", help="Reference workload: cpu-tiny or cpu-small.")
    ] = "cpu-small",
    data: Annotated[
        Path, typer.Option("--data", envvar="TOKENSTONE_DATA", help="Folder for the store, the logs and the report.")
    ] = Path("tokenstone-data"),
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            envvar="TOKENSTONE_REPORT",
            help="Where the report is written. [default: report.html in the data folder]",
        ),
    ] = None,
    price_per_device_hour: Annotated[
        float | None,
        typer.Option(
            "--price-per-device-hour",
            envvar="TOKENSTONE_PRICE_PER_DEVICE_HOUR",
            help="Dollars; without a price the bill is in device-seconds.",
        ),
    ] = None,
    price_book: Annotated[
        Path | None,
        typer.Option(
            "--price-book", envvar="TOKENSTONE_PRICE_BOOK", help="Price book (TOML). [default: the published points]"
        ),
    ] = None,
    price_row: Annotated[
        str | None, typer.Option("--price-row", envvar="TOKENSTONE_PRICE_ROW", help="Row of the price book.")
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware",
            envvar="TOKENSTONE_HARDWARE",
            help="Catalogue name, where the driver's name is not in the catalogue.",
        ),
    ] = None,
    cluster: Annotated[
        str, typer.Option("--cluster", envvar="TOKENSTONE_CLUSTER", help="Name of this cluster in the report.")
    ] = "local",
    threads: Annotated[
        int | None,
        typer.Option("--threads", envvar="TOKENSTONE_THREADS", min=1, help="CPU threads. [default: every core]"),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Probe, train, serve, sample, score: what does a token cost on this machine?

    Starts the service and an agent in the background, runs the reference workload, and prints and writes the report.
    """
    from cli.documents import bench_document  # noqa: PLC0415
    from cli.extras import needs  # noqa: PLC0415
    from cli.session import Session, run_session  # noqa: PLC0415
    from cli.site import make_site  # noqa: PLC0415
    from workloads.presets import inference_spec, training_spec  # noqa: PLC0415

    with needs("workloads"):
        import tokenizers  # noqa: F401, PLC0415  light, unlike torch, and installed along with it
    training, inference = training_spec(preset), inference_spec(preset)
    site = make_site(
        data=data,
        report_path=report,
        price_per_device_hour=price_per_device_hour,
        price_book=price_book,
        price_row=price_row,
        hardware=hardware,
        cluster=cluster,
        threads=threads,
    )

    def work(session: Session) -> list[str]:
        probe = session.probe(training.dtype)
        return [session.run("train", training, probe), session.run("infer", inference, probe)]

    result = run_session(site, "bench", work)
    if json:
        return print_json(bench_document(result, site.report_path))
    from cli.terminal import print_report  # noqa: PLC0415

    print_report(result, stdout())
    typer.echo(f"\nReport: {site.report_path}")
    return None
