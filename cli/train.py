"""`tokenstone train`: the reference training workload, with each technique switchable."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.output import JsonFlag, print_json, print_pairs, stdout


class Schedule(StrEnum):
    """Pipeline schedules (tokenstone.run.Schedule, without importing it for --help)."""

    ONE_F_ONE_B = "1F1B"
    INTERLEAVED = "Interleaved1F1B"
    ZBV = "ZBVZeroBubble"
    DUALPIPE_V = "DualPipeV"


class Balancing(StrEnum):
    """What balances the experts beside the bias."""

    NONE = "none"
    SEQUENCE = "sequence"
    AUXILIARY = "auxiliary"
    FORCED = "forced"


class Recompute(StrEnum):
    """How much of the forward pass is computed again."""

    NONE = "none"
    CHEAP = "cheap"
    BLOCKS = "blocks"


class Dtype(StrEnum):
    """What is computed in."""

    FP32 = "fp32"
    BF16 = "bf16"


class Linear(StrEnum):
    """Precision of the large matrix multiplications."""

    DTYPE = "dtype"
    FP8 = "fp8"


class Dispatch(StrEnum):
    """Precision of tokens on the way to their experts."""

    DTYPE = "dtype"
    BF16 = "bf16"
    FP8 = "fp8"


class Combine(StrEnum):
    """Precision of the experts' outputs on the way back."""

    DTYPE = "dtype"
    BF16 = "bf16"


class DataParallel(StrEnum):
    """How ranks with the same layers keep them equal."""

    DDP = "ddp"
    FSDP = "fsdp"


Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        envvar="TOKENSTONE_PRESET",
        help="cpu-tiny, cpu-small, gpu-1, gpu-1-80gb, gpu-8 or deepseek-v3.",
    ),
]


def command(
    preset: Preset = "cpu-small",
    nproc: Annotated[
        int | None,
        typer.Option("--nproc", min=1, max=1024, help="Processes on this node, one a device. [default: the preset's]"),
    ] = None,
    pipeline: Annotated[int | None, typer.Option("--pipeline", min=1, help="Pipeline ranks.")] = None,
    experts: Annotated[
        int | None, typer.Option("--experts", min=1, help="Ranks that share the experts. [default: all that are left]")
    ] = None,
    schedule: Annotated[Schedule | None, typer.Option("--schedule", help="Order of work in the pipeline.")] = None,
    micro_batches: Annotated[
        int | None,
        typer.Option("--micro-batches", min=1, help="Parts of a rank's batch. [default: twice the pipeline]"),
    ] = None,
    overlap: Annotated[bool, typer.Option("--overlap/--no-overlap", help="DualPipeV: forward beside backward.")] = True,
    dtype: Annotated[
        Dtype | None, typer.Option("--dtype", help="What is computed in; weights are fp32. [default: the preset's]")
    ] = None,
    linear: Annotated[Linear | None, typer.Option("--linear", help="Precision of large matrix products.")] = None,
    dispatch: Annotated[
        Dispatch | None, typer.Option("--dispatch", help="Precision of tokens on their way out.")
    ] = None,
    combine: Annotated[Combine | None, typer.Option("--combine", help="Precision of tokens on their way back.")] = None,
    recompute: Annotated[Recompute | None, typer.Option("--recompute", help="Activations computed again.")] = None,
    balancing: Annotated[Balancing | None, typer.Option("--balancing", help="Balancing beside the bias.")] = None,
    balance_alpha: Annotated[
        float | None, typer.Option("--balance-alpha", min=0, help="Weight of a balancing loss.")
    ] = None,
    bias_update_rate: Annotated[
        float | None, typer.Option("--bias-update-rate", min=0, help="Step of the balancing bias; 0 is off.")
    ] = None,
    prediction_depths: Annotated[
        int | None, typer.Option("--prediction-depths", min=0, max=8, help="Depths of multi-token prediction.")
    ] = None,
    data_parallel: Annotated[
        DataParallel | None,
        typer.Option(
            "--data-parallel", help="Average gradients (ddp), or shard weights (fsdp). [default: the preset's]"
        ),
    ] = None,
    redundant_experts: Annotated[
        int | None,
        typer.Option("--redundant-experts", min=0, help="Copies of heavy experts in each layer, over all ranks."),
    ] = None,
    redundant_experts_interval: Annotated[
        int | None,
        typer.Option("--redundant-experts-interval", min=1, help="Steps after which copies are placed anew."),
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(
            "--simulated-latency", min=0, max=10, help="Seconds added to each exchange: a slow link, simulated."
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option("--layers", min=1, help="Layers. [default: the preset's]")] = None,
    batch_sequences: Annotated[
        int | None, typer.Option("--batch-sequences", min=1, help="Sequences a step. [default: the preset's]")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Counted steps. [default: the preset's]")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="[default: the preset's]")] = None,
    text: Annotated[
        Path | None, typer.Option("--text", help="Text to train on. [default: Python's own sources]")
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option("--checkpoint-every", min=1, metavar="STEPS", help="Save the training so often.")
    ] = None,
    checkpoint_folder: Annotated[
        Path | None,
        typer.Option("--checkpoint-folder", help="Where it is saved. [default: checkpoints/SPEC in the data folder]"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    max_restarts: Annotated[
        int, typer.Option("--max-restarts", min=0, max=1000, help="Go on so often after a process has died.")
    ] = 0,
    collective_timeout: Annotated[
        float, typer.Option("--collective-timeout", min=1, help="Seconds after which a rank that hangs is given up.")
    ] = 300.0,
    profile_steps: Annotated[
        int, typer.Option("--profile-steps", min=0, help="Steps to trace with torch's profiler, into the data folder.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would take, and start nothing.")] = False,
    write_spec: Annotated[
        Path | None,
        typer.Option(
            "--write-spec", metavar="FILE", help="Write the spec for a launcher on many nodes; start nothing."
        ),
    ] = None,
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
    """Train the reference mixture-of-experts model on this node and account for every device-second.

    Starts the service and an agent in the background; torchrun starts the processes.
    """
    from cli.documents import training_document  # noqa: PLC0415
    from cli.extras import needs  # noqa: PLC0415
    from cli.launch import Launch, require_no_launcher  # noqa: PLC0415
    from cli.session import Session, run_session  # noqa: PLC0415
    from cli.site import make_site  # noqa: PLC0415
    from cli.train_demands import demands, too_large  # noqa: PLC0415
    from cli.train_plan import make_spec  # noqa: PLC0415

    spec = make_spec(
        preset=preset, nproc=nproc, pipeline=pipeline, experts=experts, schedule=schedule and schedule.value,
        micro_batches=micro_batches, overlap=overlap, dtype=dtype and dtype.value,
        linear_precision=linear and linear.value, dispatch_precision=dispatch and dispatch.value,
        combine_precision=combine and combine.value, recompute=recompute and recompute.value, balancing=balancing and balancing.value,
        balance_alpha=balance_alpha, bias_update_rate=bias_update_rate, prediction_depths=prediction_depths,
        data_parallel=data_parallel and data_parallel.value, redundant_experts=redundant_experts,
        redundant_experts_interval=redundant_experts_interval, simulated_latency_seconds=latency,
        layers=layers, batch_sequences=batch_sequences, steps=steps, seed=seed, text=text,
    )  # fmt: skip
    if write_spec is not None:
        from cli.files import write_whole  # noqa: PLC0415

        return write_whole(write_spec, spec.model_dump_json())
    needed = demands(spec)
    refusal = too_large(needed, hardware)
    if dry_run:
        if json:
            print_json(needed.as_json())
        else:
            print_pairs(needed.as_text())
    if refusal is not None:
        raise refusal
    if dry_run:
        return None
    require_no_launcher()
    with needs("workloads"):
        import tokenizers  # noqa: F401, PLC0415  light, unlike torch, and installed along with it
    site = make_site(
        data=data, report_path=report, price_per_device_hour=price_per_device_hour, price_book=price_book,
        price_row=price_row, hardware=hardware, cluster=cluster, threads=threads,
    )  # fmt: skip

    launch = Launch.of(
        spec, data=data, every=checkpoint_every, folder=checkpoint_folder, resume=resume, max_restarts=max_restarts,
        collective_timeout=collective_timeout, profile_steps=profile_steps,
    )  # fmt: skip

    def work(session: Session) -> list[str]:
        return [session.run("train", spec, session.probe(spec.dtype, ranks=spec.layout.ranks), launch=launch)]

    result = run_session(site, "train", work)
    if json:
        return print_json(training_document(result, site.report_path))
    from cli.terminal import print_report  # noqa: PLC0415
    from cli.train_view import print_training  # noqa: PLC0415

    print_report(result, stdout())
    print_training(result.sections[0].evaluation, stdout())
    typer.echo(f"\nReport: {site.report_path}")
    return None
