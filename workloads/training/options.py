"""The techniques that a spec switches on, put into a finished model from outside. Each works with every layout."""

from __future__ import annotations

import torch

from tokenstone.errors import InvalidValue
from tokenstone.run import TrainingSpec
from workloads.moe.balance import Balancing, set_balancing
from workloads.moe.model import MoeModel
from workloads.training.precision.convert import convert_to_fp8
from workloads.training.recompute import Recompute, apply_recompute


def apply_options(model: MoeModel, spec: TrainingSpec, device: torch.device) -> dict[str, str]:
    """Balance, convert and wrap `model`, which is on `device`, as `spec` says; return what a report should name."""
    if spec.prediction_depths and spec.layout.ranks > 1:
        raise InvalidValue(
            "multi-token prediction runs on one rank only",
            where="prediction_depths",
            hint="set it to 0, or use one rank",
        )
    provenance = {"balancing": f"bias {spec.bias_update_rate:g}, {spec.balancing}", "recompute": spec.recompute}
    sequence_length = spec.sequence_length if spec.balancing == "sequence" else None
    set_balancing(model.routers(), Balancing(spec.balancing), alpha=spec.balance_alpha, sequence_length=sequence_length)
    if spec.linear_precision == "fp8":
        provenance |= convert_to_fp8(model.to(device)).provenance()
    apply_recompute(model.blocks, Recompute(spec.recompute))
    return provenance
