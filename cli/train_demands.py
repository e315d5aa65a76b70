"""What a training takes, weighed from its shapes alone: parameters, memory, FLOPs and bytes. No weight is made."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenstone import hardware as catalogue
from tokenstone.errors import InvalidValue
from tokenstone.flops import AttentionCount, count_parameters, dtype_bytes, training_flops
from tokenstone.model import Experts, LatentAttention, ModelShape
from tokenstone.run import TrainingSpec

STATE_BYTES = 16
"""Of each parameter: weight, gradient and AdamW's two moments in fp32, whatever the products are computed in."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What a training takes, per step and per device; bytes by kind of traffic are those one rank sends."""

    ranks: int
    parameters_total: int
    parameters_active: int
    parameters_per_device: int
    memory_bytes_per_device: float
    """Of the fullest device: the state, and the activations."""
    state_bytes_per_device: float
    """Weights, gradients and both optimizer moments: exact."""
    activation_bytes_per_device: float
    """What the backward pass needs of the forward pass, by a count of the tensors that are kept: an estimate."""
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
            "ranks": f"{self.ranks:,}",
            "parameters": f"{self.parameters_total:,} in all, {self.parameters_active:,} active, "
            f"{self.parameters_per_device:,} a device at most",
            "memory": f"{self.memory_bytes_per_device / 1e9:,.3f} GB a device: "
            f"{self.state_bytes_per_device / 1e9:,.3f} of weights, gradients and optimizer, "
            f"about {self.activation_bytes_per_device / 1e9:,.3f} of activations",
            "work": f"{self.flops_per_step / 1e12:,.4g} TFLOP a step, {self.flops_per_token / 1e9:,.4g} GFLOP a token",
            "tokens": f"{self.tokens_per_step:,} a step",
            "experts' exchange": f"{self.expert_exchange_bytes_per_step / 1e6:,.3f} MB sent a rank and step",
            "pipeline": f"{self.pipeline_bytes_per_step / 1e6:,.3f} MB sent a rank and step",
            "gradients": f"{self.gradient_bytes_per_step / 1e6:,.3f} MB sent a rank and step",
            "convention": self.convention,
        }


def demands(spec: TrainingSpec) -> Demands:
    """Weigh a training."""
    layout, model = spec.layout, spec.model
    counted = training_flops(model, spec.sequence_length, AttentionCount.CAUSAL)
    data = layout.replicas * layout.experts
    tokens = spec.tokens_per_step / data
    replicated, sharded, layers = max(
        (_held(spec, rank) for rank in range(layout.pipeline)), key=lambda held: held[0] + held[1]
    )
    size = dtype_bytes(spec.dtype)
    active = model.experts.active if model.experts is not None else 0
    rows = tokens * active * model.expert_layers / layout.pipeline * (layout.experts - 1) / layout.experts
    outward = {"fp8": model.dim + 4 * -(-model.dim // 128), "bf16": 2 * model.dim, "dtype": size * model.dim}
    homeward = {"bf16": 2 * model.dim, "dtype": size * model.dim}
    exchange = 2 * rows * (outward[spec.dispatch_precision] + homeward[spec.combine_precision])
    boundaries = 0 if layout.pipeline == 1 else (1 if layout.schedule == "1F1B" else 2)
    held = float(replicated + sharded)
    if layout.data_parallel == "fsdp":  # of the gathered weights, a block at a time is left out
        held = replicated / data + sharded / layout.replicas
    state = held * STATE_BYTES
    activations = _activation_bytes(spec, layers) * tokens / layout.micro_batches * _in_flight(spec)
    if spec.recompute != "none":  # one layer's at a time come back whole
        plain = spec.model_copy(update={"recompute": "none"})
        activations += max(_activation_bytes(plain, [layer]) for layer in layers) * tokens / layout.micro_batches
    return Demands(
        ranks=layout.ranks,
        parameters_total=counted.parameters.total,
        parameters_active=counted.parameters.active,
        parameters_per_device=replicated + sharded,
        memory_bytes_per_device=state + activations,
        state_bytes_per_device=state,
        activation_bytes_per_device=activations,
        flops_per_token=counted.flops_per_token,
        flops_per_step=counted.flops_per_token * spec.tokens_per_step,
        tokens_per_step=spec.tokens_per_step,
        expert_exchange_bytes_per_step=exchange,
        pipeline_bytes_per_step=2 * tokens * model.dim * 4 * boundaries,  # the residual stream is fp32
        gradient_bytes_per_step=2 * 4
        * (replicated * (data - 1) / data + sharded * (layout.replicas - 1) / layout.replicas),
        convention=counted.convention,
    )  # fmt: skip


def _held(spec: TrainingSpec, rank: int) -> tuple[int, int, list[int]]:
    """Parameters of pipeline rank `rank` that all its data-parallel ranks hold, those of its experts; its layers."""
    model, layout = spec.model, spec.layout
    count = layout.pipeline * (1 if layout.schedule == "1F1B" else 2)
    stages = [rank] if count == layout.pipeline else [rank, rank + layout.pipeline]
    if layout.schedule in {"ZBVZeroBubble", "DualPipeV"}:
        stages = [rank, count - 1 - rank]
    each, more = divmod(model.layers, count)  # the first stages have one more, as in parallel.stages
    layers = [layer for s in stages for layer in range(s * each + min(s, more), (s + 1) * each + min(s + 1, more))]
    table = model.vocabulary * model.dim
    replicated = table * ((0 in stages) + (count - 1 in stages))
    experts = [_layer_parameters(model, layer) for layer in layers]
    if count - 1 in stages and spec.prediction_depths:
        experts += [_layer_parameters(model, model.layers)] * spec.prediction_depths
        replicated += spec.prediction_depths * 2 * model.dim**2 + (0 if 0 in stages else table)
    replicated += sum(dense for dense, _ in experts)
    return replicated, sum(routed for _, routed in experts) // layout.experts, layers


def _layer_parameters(model: ModelShape, layer: int) -> tuple[int, int]:
    """Of one layer: all but the routed experts, and these."""
    whole = count_parameters(model)
    attention = model.attention.parameters(model.dim)
    if layer < model.dense_layers:
        return attention + whole.dense_ffn // model.dense_layers, 0
    experts = model.expert_layers
    return attention + (whole.shared_experts + whole.router) // experts, whole.routed_experts // experts


def _in_flight(spec: TrainingSpec) -> float:
    """Micro-batches whose activations a rank holds at most, each through all of its layers."""
    layout = spec.layout
    ranks = layout.pipeline
    most = {
        "1F1B": float(ranks),
        "Interleaved1F1B": (3 * ranks - 1) / 2,  # of two stages each
        "ZBVZeroBubble": float(ranks),
        "DualPipeV": ranks + 0.5,  # DeepSeek-V3, table 2: one stage more than the 2P of the pipeline
    }
    return min(float(layout.micro_batches), most[layout.schedule])


def _activation_bytes(spec: TrainingSpec, layers: list[int]) -> float:
    """Kept per token by all of `layers`."""
    model, size = spec.model, dtype_bytes(spec.dtype)
    residual = 4 * model.dim
    if spec.recompute == "blocks":
        return float(residual * len(layers))
    a, cheap = model.attention, spec.recompute == "cheap"
    assert isinstance(a, LatentAttention)  # noqa: S101  the workload has no other
    down = (a.query_rank or 0) + a.cached_values_per_token
    up = a.heads * (2 * a.query_key_dim + a.nope_dim + a.value_dim)
    attention = down + a.heads * a.value_dim + (0 if cheap else down + up + model.dim)
    total = 0.0
    for layer in layers:
        dense = layer < model.dense_layers
        ffn = _dense_values(model, cheap=cheap) if dense else _expert_values(model, model.experts, cheap=cheap)
        total += 2 * residual + size * (attention + ffn)
    return total


def _dense_values(model: ModelShape, *, cheap: bool) -> int:
    return 2 * model.ffn_dim + (0 if cheap else model.ffn_dim + model.dim)


def _expert_values(model: ModelShape, experts: Experts | None, *, cheap: bool) -> int:
    assert experts is not None  # noqa: S101  a layer that is not dense
    shared = experts.shared and (experts.shared_dim or experts.shared * experts.dim)
    kept = experts.active * (2 * experts.dim + model.dim) + 2 * shared
    return kept if cheap else kept + experts.active * (experts.dim + model.dim) + shared + model.dim


def too_large(needed: Demands, hardware: str | None) -> InvalidValue | None:
    """The error if the training cannot fit: on a catalogue device, on this node's accelerators, or in this host.

    On a host, which may swap, activations do not count. Raises UnknownName for the hardware.
    """
    if hardware is not None:
        figure = catalogue.get(hardware).figure("memory_bytes")
        capacity, what = (figure.value if figure else None), f"a {hardware}"
    else:
        capacity, what = _accelerator_memory()
    wanted, of = needed.memory_bytes_per_device, "weights, gradients, optimizer and activations"
    if capacity is None and hardware is None:
        capacity, what = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), "this host"
        wanted, of = needed.state_bytes_per_device * needed.ranks, "weights, gradients and optimizer"
    if capacity is None or wanted <= capacity:
        return None
    return InvalidValue(
        f"{wanted / 1e9:,.1f} GB of {of} do not fit in the {capacity / 1e9:,.1f} GB of {what}",
        where="train", hint="use more ranks (--nproc, --experts, --pipeline), --recompute blocks or a smaller preset",
    )  # fmt: skip


def _accelerator_memory() -> tuple[float | None, str]:
    """Bytes of the smallest accelerator that a driver reports here, and its name; None where none does."""
    try:
        from cli.doctor.finding import Node  # noqa: PLC0415  what follows takes a moment
        from cli.doctor.sources import read_sources  # noqa: PLC0415

        samples = read_sources(Node(root=Path("/"), data=Path()))
    except ImportError:  # without the agent's extra no driver is asked
        return None, ""
    found = [d for s in samples for d in s.devices if d.kind == "accelerator" and d.memory_bytes]
    smallest = min(found, key=lambda device: device.memory_bytes or 0, default=None)
    return (None, "") if smallest is None else (float(smallest.memory_bytes or 0), f"a {smallest.model}")
