"""What `tokenstone train` is asked to do, checked before anything is started; train_demands weighs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tokenstone.errors import InvalidFile, InvalidValue
from tokenstone.run import TrainingLayout, TrainingSpec
from workloads.presets import training_spec


def make_spec(
    *,
    preset: str,
    nproc: int | None = None,
    pipeline: int | None = None,
    experts: int | None = None,
    schedule: str | None = None,
    micro_batches: int | None = None,
    overlap: bool = True,
    data_parallel: str | None = None,
    layers: int | None = None,
    text: Path | None = None,
    **switches: Any,
) -> TrainingSpec:
    """The preset's training with what was asked for changed; None leaves the preset's.

    Raises UnknownName, InvalidValue or InvalidFile.
    """
    base = training_spec(preset)
    layout = _layout(base.layout, nproc, pipeline, experts, schedule, micro_batches, overlap=overlap)
    layout = layout.model_copy(update={"data_parallel": data_parallel or base.layout.data_parallel})
    given = {name: value for name, value in switches.items() if value is not None}
    if layers is not None and layers != base.model.layers:
        given["model"] = base.model.model_dump() | {"layers": layers, "name": f"{base.model.name}, {layers} layers"}
    if text is not None:
        if not text.is_file():
            raise InvalidFile("no such file", where=str(text), hint="give a text file to --text")
        given["data"] = str(text.absolute())
    try:
        spec = TrainingSpec.model_validate(base.model_dump() | given | {"layout": layout.model_dump()})
    except ValidationError as error:
        problem = error.errors()[0]
        place = "--" + str(problem["loc"][0]).replace("_", "-") if problem["loc"] else "train"
        raise InvalidValue(problem["msg"], where=place) from error
    check_layout(spec)
    return spec


def _layout(
    base: TrainingLayout,
    nproc: int | None,
    pipeline: int | None,
    experts: int | None,
    schedule: str | None,
    micro_batches: int | None,
    *,
    overlap: bool,
) -> TrainingLayout:
    """The preset's layout; where the number of ranks is asked for, experts take all that the pipeline leaves."""
    ranks = nproc if nproc is not None else base.ranks
    stages = pipeline if pipeline is not None else (base.pipeline if nproc is None else 1)
    if ranks % stages:
        raise InvalidValue(f"{ranks} processes do not form {stages} pipeline ranks", where="--nproc")
    left = ranks // stages
    shards = experts if experts is not None else (base.experts if nproc is None and pipeline is None else left)
    if left % shards:
        raise InvalidValue(f"{left} ranks a stage do not divide by {shards}", where="--experts", hint="give a divisor")
    asked = [value is not None for value in (nproc, pipeline, experts, schedule)]
    default = base.micro_batches if not any(asked) else (2 * stages if stages > 1 else 1)
    if micro_batches is None and (schedule or base.schedule) == "DualPipeV":
        default = max(default, 2 * stages)
    return TrainingLayout.model_validate(
        {
            "pipeline": stages,
            "replicas": left // shards,
            "experts": shards,
            "schedule": schedule or base.schedule,
            "micro_batches": micro_batches or default,
            "overlap": overlap,
        }
    )


def check_layout(spec: TrainingSpec) -> None:
    """Raise InvalidValue for sizes that cannot work together. The workload checks the rest, and these once more."""
    layout, experts = spec.layout, spec.model.experts
    if experts is not None and experts.routed % layout.experts:
        raise InvalidValue(
            f"{experts.routed} experts do not divide among {layout.experts} ranks",
            where="--experts", hint=f"use a divisor of {experts.routed}",
        )  # fmt: skip
    data = layout.replicas * layout.experts
    if spec.batch_sequences % (data * layout.micro_batches):
        raise InvalidValue(
            f"{spec.batch_sequences} sequences a step do not divide into {layout.micro_batches} micro-batches "
            f"on {data} data-parallel ranks",
            where="--micro-batches", hint="use fewer micro-batches or ranks, or more --batch-sequences",
        )  # fmt: skip
    stages = layout.pipeline * (1 if layout.schedule == "1F1B" else 2)
    if layout.pipeline > 1 and spec.model.layers < stages:
        raise InvalidValue(
            f"{spec.model.layers} layers do not fill the {stages} stages of {layout.schedule}",
            where="--pipeline", hint="use fewer pipeline ranks, --schedule 1F1B, or more --layers",
        )  # fmt: skip
    if layout.schedule == "DualPipeV" and layout.micro_batches < 2 * layout.pipeline:
        raise InvalidValue(
            f"DualPipeV needs {2 * layout.pipeline} micro-batches or more, twice its pipeline ranks",
            where="--micro-batches", hint=f"give --micro-batches {2 * layout.pipeline}",
        )  # fmt: skip
    if layout.schedule == "Interleaved1F1B" and layout.micro_batches % layout.pipeline:
        raise InvalidValue(
            f"{layout.micro_batches} micro-batches do not divide into rounds of {layout.pipeline}",
            where="--micro-batches", hint=f"use a multiple of {layout.pipeline}, the pipeline ranks",
        )  # fmt: skip
    if layout.data_parallel == "fsdp" and (layout.pipeline > 1 or layout.micro_batches > 1):
        raise InvalidValue(
            f"fsdp with {layout.pipeline} pipeline ranks and {layout.micro_batches} micro-batches",
            where="--data-parallel", hint="use ddp, or one pipeline rank and one micro-batch",
        )  # fmt: skip
    if spec.redundant_experts and (layout.experts == 1 or spec.redundant_experts % layout.experts):
        raise InvalidValue(
            f"{spec.redundant_experts} redundant experts on {layout.experts} ranks that share the experts",
            where="--redundant-experts", hint="give a multiple of --experts, which is 2 or more",
        )  # fmt: skip
    if spec.balancing in {"sequence", "auxiliary"} and not spec.balance_alpha:
        raise InvalidValue(
            f"balancing by a {spec.balancing} loss of weight 0", where="--balance-alpha", hint="1e-4 and 1e-2 are usual"
        )
