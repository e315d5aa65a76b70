"""`tokenstone bench`: the whole path on this machine, from samples to what a token costs."""

from __future__ import annotations

from pathlib import Path

import typer

from cli import options
from cli.output import JsonFlag, print_json, stdout


def command(
    preset: options.Preset = "cpu-small",
    data: options.Data = Path("tokenstone-data"),
    report: options.Report = None,
    price_per_device_hour: options.PricePerDeviceHour = None,
    price_book: options.PriceBookFile = None,
    price_row: options.PriceRow = None,
    hardware: options.Hardware = None,
    cluster: options.Cluster = "local",
    threads: options.Threads = None,
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
        return [
            session.run("train", training, probe),
            session.run("infer", inference, probe, checkpoint=site.checkpoint),
        ]

    result = run_session(site, "bench", work)
    if json:
        return print_json(bench_document(result, site.report_path))
    from cli.terminal import print_report  # noqa: PLC0415

    print_report(result, stdout())
    typer.echo(f"\nReport: {site.report_path}")
    return None
