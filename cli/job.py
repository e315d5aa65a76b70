"""`tokenstone job`: what a launcher runs on many nodes, as a run of the service that is there already."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.output import JsonFlag, print_json, stdout


def command(
    launcher: Annotated[list[str], typer.Argument(metavar="-- COMMAND ...", help="Starts the workload's processes.")],
    spec: Annotated[Path, typer.Option("--spec", help="What the processes run: a file of `train --write-spec`.")],
    facts: Annotated[Path, typer.Option("--facts", help="File to which rank 0 writes its facts (its --out).")],
    api: Annotated[str, typer.Option("--api", envvar="TOKENSTONE_API", help="URL of the service.")],
    nodes: Annotated[
        str,
        typer.Option("--nodes", help="Nodes of the job, comma-separated, in rank order. [default: this one]"),
    ] = "",
    probe: Annotated[
        Path | None,
        typer.Option("--probe", help="Measured limits of one device: `tokenstone probe --json`. CPUs need it."),
    ] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="Name of the run. [default: drawn]")] = None,
    cluster: options.Cluster = "default",
    price_per_device_hour: options.PricePerDeviceHour = None,
    json: JsonFlag = False,
) -> None:
    """Run COMMAND (srun, torchrun, ...), tell the service of it, score it there and print the report.

    The service must know the nodes' accelerators from their agents. While it runs, they send windows of one second.
    Needs an API key with the scopes ingest and read. Ends with the exit code of COMMAND where that is not 0.
    """
    from cli.documents import training_document  # noqa: PLC0415
    from cli.job_run import JobRun, run_devices  # noqa: PLC0415
    from cli.workload_files import read_probe, read_spec  # noqa: PLC0415
    from tokenstone.client import Client  # noqa: PLC0415
    from tokenstone.cost import rental  # noqa: PLC0415
    from tokenstone.wire import PriceChoice, RunCreate  # noqa: PLC0415

    wanted, measured = read_spec(spec), None if probe is None else read_probe(probe)
    price = PriceChoice()
    if price_per_device_hour is not None:
        price = PriceChoice(usd_per_device_hour=rental(price_per_device_hour).usd_per_device_hour)
    names = [name.strip() for name in nodes.split(",") if name.strip()] or [socket.gethostname()]
    with Client(api) as client:
        devices = run_devices(client, cluster, names, wanted, measured)
        create = RunCreate(
            run_id=run_id or f"job-{os.environ.get('SLURM_JOB_ID') or os.urandom(4).hex()}-{os.urandom(3).hex()}",
            cluster=cluster, spec=wanted, devices=devices, lease_seconds=JobRun.LEASE_SECONDS,
        )  # fmt: skip
        code = JobRun(client, create).run(launcher, facts, measured)
        if code:
            raise typer.Exit(code)
        client.score_run(create.run_id, price)
        report = client.report([create.run_id])
    if json:
        return print_json(training_document(report, facts) | {"run_id": create.run_id})
    from cli.terminal import print_report  # noqa: PLC0415

    print_report(report, stdout())
    return typer.echo(f"\nRun {create.run_id} on {api}")
