"""`tokenstone submit`: what a training under torchrun, Slurm or Kubernetes has measured, into the service as a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.output import JsonFlag, print_json, stdout

if TYPE_CHECKING:
    from tokenstone.run import TrainingSpec
    from tokenstone.wire import RunCreate, TrainingFacts


def command(
    spec: Annotated[Path, typer.Argument(help="The spec that the launcher's processes were given.")],
    facts: Annotated[Path, typer.Argument(help="The facts that rank 0 wrote to --out.")],
    api: Annotated[
        str, typer.Option("--api", envvar="TOKENSTONE_API", help="URL of the service.")
    ] = "http://127.0.0.1:8470",
    cluster: Annotated[
        str, typer.Option("--cluster", envvar="TOKENSTONE_CLUSTER", help="The cluster that it ran on.")
    ] = "local",
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", help="Catalogue name, where the driver's name is not in the catalogue."),
    ] = None,
    probe: Annotated[
        Path | None,
        typer.Option(
            "--probe", help="What `tokenstone probe --json` printed there, where no catalogue knows the limit."
        ),
    ] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="[default: from the spec and the start]")] = None,
    price_per_device_hour: options.PricePerDeviceHour = None,
    json: JsonFlag = False,
) -> None:
    """Make a run of the service from a spec and its facts, and print what `tokenstone train` prints.

    The same again finds the run that is there. The API key comes from TOKENSTONE_API_KEY, or from the file that
    TOKENSTONE_API_KEY_FILE names.
    """
    from cli.documents import training_document  # noqa: PLC0415
    from cli.terminal import print_report  # noqa: PLC0415
    from cli.train_view import print_training  # noqa: PLC0415
    from cli.workload_files import read_facts, read_probe, read_spec  # noqa: PLC0415
    from tokenstone.client import Client  # noqa: PLC0415
    from tokenstone.run import RunState  # noqa: PLC0415
    from tokenstone.wire import PriceChoice, RunChange  # noqa: PLC0415

    wanted, done = read_spec(spec), read_facts(facts)
    if probe is not None:
        done = done.model_copy(update={"probe": read_probe(probe)})
    create = make_run(wanted, done, cluster=cluster, hardware=hardware, run_id=run_id)
    with Client(api) as client:
        if client.create_run(create).state is RunState.CREATED:
            client.change_run(create.run_id, RunChange(state=RunState.RUNNING))
        client.put_facts(create.run_id, done)
        client.score_run(create.run_id, PriceChoice(usd_per_device_hour=price_per_device_hour))
        report = client.report([create.run_id])
    page = f"{client.base_url}/v1/reports/html?run={create.run_id}"
    if json:
        return print_json(training_document(report, page))
    print_report(report, stdout())
    print_training(report.sections[0].evaluation, stdout())
    typer.echo(f"\nReport: {page}")
    return None


def make_run(
    spec: TrainingSpec, facts: TrainingFacts, *, cluster: str, hardware: str | None, run_id: str | None
) -> RunCreate:
    """The run that the facts tell of: a device for each rank, on the node where it was.

    Raises InvalidValue for facts that are not this spec's or do not tell their nodes, UnknownName for the hardware.
    """
    from pydantic import ValidationError  # noqa: PLC0415

    from tokenstone import hardware as catalogue  # noqa: PLC0415
    from tokenstone.errors import InvalidValue  # noqa: PLC0415
    from tokenstone.wire import RunCreate, RunDevice  # noqa: PLC0415

    if len(facts.ranks) != spec.layout.ranks:
        raise InvalidValue(
            f"facts of {len(facts.ranks)} ranks, and a spec for {spec.layout.ranks}", where="submit",
            hint="give the spec that the processes were started with",
        )  # fmt: skip
    if hardware is not None:
        catalogue.get(hardware)
    model = facts.provenance.get("device", "")
    known = hardware or catalogue.identify(model)
    named = run_id or f"train-{spec.spec_id[:12]}-{facts.started_unix_seconds:.0f}"
    try:
        devices = [
            RunDevice(id=rank.device, node=rank.node or "unknown", model=model, hardware=known) for rank in facts.ranks
        ]
        return RunCreate(run_id=named, cluster=cluster, spec=spec, devices=devices, lease_seconds=3600)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InvalidValue(problem["msg"], where=where, hint="see --help") from error
