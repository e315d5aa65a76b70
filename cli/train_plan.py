"""What `tokenstone train` is asked to do, checked and weighed before anything is started."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tokenstone import hardware as catalogue
from tokenstone.errors import InvalidFile, InvalidValue
from tokenstone.flops import AttentionCount, dtype_bytes, training_flops
from tokenstone.run import TrainingLayout, TrainingSpec
from workloads.presets import training_spec


def make_spec(
    *,
    preset: str,
    nproc: int,
    pipeline: int,
    experts: int | None,
    schedule: str,
    micro_batches: int | None,
    overlap: bool,
    data_parallel: str = "ddp",
    steps: int | None,
    seed: int | None,
    bias_update_rate: float | None,
    text: Path | None,
    **switches: Any,
) -> TrainingSpec:
    """The preset's training with what was asked for changed. Raises UnknownName, InvalidValue or InvalidFile."""
    base = training_spec(preset)
    if nproc % pipeline:
        raise InvalidValue(f"{nproc} processes do not form {pipeline} pipeline ranks", where="--nproc")
    shards = experts if experts is not None else nproc // pipeline
    if (nproc // pipeline) % shards:
        raise InvalidValue(
            f"{nproc // pipeline} ranks a stage do not divide by {shards}", where="--experts", hint="give a divisor"
        )
    layout = TrainingLayout.model_validate(
        {
            "pipeline": pipeline,
            "replicas": nproc // pipeline // shards,
            "experts": shards,
            "schedule": schedule,
            "micro_batches": micro_batches or (2 * pipeline if pipeline > 1 else 1),
            "overlap": overlap,
            "data_parallel": data_parallel,
        }
    )
    given: dict[str, Any] = {"layout": layout, **switches}
    given |= {
        name: value
        for name, value in (("steps", steps), ("seed", seed), ("bias_update_rate", bias_update_rate))
        if value is not None
    }
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
            where="--micro-batches", hint="use fewer micro-batches or ranks",
        )  # fmt: skip
    stages = layout.pipeline * (1 if layout.schedule == "1F1B" else 2)
    if layout.pipeline > 1 and spec.model.layers < stages:
        raise InvalidValue(
            f"{spec.model.layers} layers do not fill the {stages} stages of {layout.schedule}",
            where="--pipeline", hint="use fewer pipeline ranks, --schedule 1F1B, or a deeper model",
        )  # fmt: skip
    if layout.schedule == "DualPipeV" and layout.micro_batches < 2 * layout.pipeline:
        raise InvalidValue(
            f"DualPipeV needs {2 * layout.pipeline} micro-batches or more, twice its pipeline ranks",
            where="--micro-batches", hint=f"give --micro-batches {2 * layout.pipeline}",
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


@dataclass(frozen=True, slots=True)
class Demands:
    """What a training takes, per step and per device; bytes by kind of traffic are those one rank sends."""

    ranks: int
    parameters_total: int
    parameters_active: int
    parameters_per_device: int
    memory_bytes_per_device: float
    """Weights, gradients and both optimizer moments; activations are not counted."""
    flops_per_token: float
    flops_per_step: float
    tokens_per_step: int
    expert_exchange_bytes_per_step: float
    pipeline_bytes_per_step: float
    gradient_bytes_per_step: float
    convention: str

    def as_json(self) -> dict[str, Any]:
        """The document of `train --dry-run --json`."""
        return asdict(self)

    def as_text(self) -> dict[str, str]:
        """The same to read."""
        return {
            "ranks": f"{self.ranks}",
            "parameters": f"{self.parameters_total:,} in all, {self.parameters_active:,} active, "
            f"{self.parameters_per_device:,} a device at most",
            "memory": f"{self.memory_bytes_per_device / 1e9:,.3f} GB a device (weights, gradients and optimizer; "
            "activations come on top)",
            "work": f"{self.flops_per_step / 1e12:,.4g} TFLOP a step, {self.flops_per_token / 1e9:,.4g} GFLOP a token",
            "tokens": f"{self.tokens_per_step:,} a step",
            "experts' exchange": f"{self.expert_exchange_bytes_per_step / 1e6:,.3f} MB sent a rank and step",
            "pipeline": f"{self.pipeline_bytes_per_step / 1e6:,.3f} MB sent a rank and step",
            "gradients": f"{self.gradient_bytes_per_step / 1e6:,.3f} MB sent a rank and step",
            "convention": self.convention,
        }


def check_memory(needed: Demands, hardware: str | None) -> None:
    """Raise InvalidValue if weights, gradients and optimizer alone cannot fit: on a catalogue device, or here."""
    if hardware is not None:
        figure = catalogue.get(hardware).figure("memory_bytes")
        capacity, what = (figure.value if figure else None), f"a {hardware}"
        wanted = needed.memory_bytes_per_device
    else:
        capacity, what = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), "this host"
        wanted = needed.memory_bytes_per_device * needed.ranks
    if capacity is not None and wanted > capacity:
        raise InvalidValue(
            f"{wanted / 1e9:,.1f} GB of weights, gradients and optimizer do not fit in the {capacity / 1e9:,.1f} GB of "
            f"{what}",
            where="train", hint="use more ranks (--nproc, --experts, --pipeline) or a smaller preset",
        )  # fmt: skip


def demands(spec: TrainingSpec) -> Demands:
    """Weigh a training: parameters, memory, FLOPs, and bytes by link."""
    layout, model = spec.layout, spec.model
    size = dtype_bytes(spec.dtype)
    counted = training_flops(model, spec.sequence_length, AttentionCount.CAUSAL)
    parameters = counted.parameters
    data = layout.replicas * layout.experts
    shared = (
        parameters.attention + parameters.dense_ffn + parameters.shared_experts + parameters.router
    ) / layout.pipeline
    ends = parameters.embedding + parameters.output_head if layout.pipeline == 1 else parameters.embedding
    replicated = shared + ends
    sharded = parameters.routed_experts / layout.pipeline / layout.experts
    tokens = spec.tokens_per_step / data
    active = model.experts.active if model.experts is not None else 0
    rows = tokens * active * model.expert_layers / layout.pipeline * (layout.experts - 1) / layout.experts
    outward = {"fp8": model.dim + 4 * -(-model.dim // 128), "bf16": 2 * model.dim, "dtype": size * model.dim}
    homeward = {"bf16": 2 * model.dim, "dtype": size * model.dim}
    exchange = 2 * rows * (outward[spec.dispatch_precision] + homeward[spec.combine_precision])
    boundaries = 0 if layout.pipeline == 1 else (1 if layout.schedule == "1F1B" else 2)
    return Demands(
        ranks=layout.ranks,
        parameters_total=parameters.total,
        parameters_active=parameters.active,
        parameters_per_device=round(replicated + sharded),
        memory_bytes_per_device=(replicated + sharded) * 4 * size,
        flops_per_token=counted.flops_per_token,
        flops_per_step=counted.flops_per_token * spec.tokens_per_step,
        tokens_per_step=spec.tokens_per_step,
        expert_exchange_bytes_per_step=exchange,
        pipeline_bytes_per_step=2 * tokens * model.dim * size * boundaries,
        gradient_bytes_per_step=2 * size
        * (replicated * (data - 1) / data + sharded * (layout.replicas - 1) / layout.replicas),
        convention=counted.convention,
    )  # fmt: skip
