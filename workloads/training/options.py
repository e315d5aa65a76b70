"""The techniques that a spec switches on, put into a finished model from outside. Each works with every layout."""

from __future__ import annotations

import torch

from tokenstone.run import TrainingSpec
from workloads.moe.balance import Balancing, set_balancing
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction
from workloads.moe.router import Router
from workloads.training.precision.convert import convert_to_fp8
from workloads.training.recompute import Recompute, apply_recompute, recomputing_block


def apply_options(
    model: MoeModel, spec: TrainingSpec, device: torch.device, prediction: MultiTokenPrediction | None = None
) -> dict[str, str]:
    """Balance, convert and wrap `model` and `prediction` as `spec` says; return what a report should name.

    Both are on `device`, or will be: FP8 moves them there to see how it multiplies.
    """
    provenance = {"balancing": f"bias {spec.bias_update_rate:g}, {spec.balancing}", "recompute": spec.recompute}
    _balance(model.routers(), spec, spec.sequence_length)
    if spec.linear_precision == "fp8":
        provenance |= convert_to_fp8(model.to(device)).provenance()
    apply_recompute(model.blocks, Recompute(spec.recompute))
    if prediction is not None:
        prediction.require_length(spec.sequence_length)
        for k, router in enumerate(prediction.routers(), start=1):
            _balance([router], spec, spec.sequence_length - 1 - k)
        if spec.linear_precision == "fp8":
            convert_to_fp8(prediction.to(device))
        for depth in prediction.depths:
            depth.block = recomputing_block(depth.get_submodule("block"), Recompute(spec.recompute))
    return provenance


def _balance(routers: list[Router], spec: TrainingSpec, tokens: int) -> None:
    """`tokens`: of a sequence, as the routers see it."""
    sequence_length = tokens if spec.balancing == "sequence" else None
    set_balancing(routers, Balancing(spec.balancing), alpha=spec.balance_alpha, sequence_length=sequence_length)
