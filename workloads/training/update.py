"""What every training does between the gradients and the next step, on one rank or many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenstone.run import TrainingSpec
from tokenstone.wire import CollectiveTotal, DevicePhases
from workloads.moe.router import Router


class Gathered(NamedTuple):
    """What all ranks of a training did."""

    devices: list[DevicePhases]
    held_seconds: float
    """The longest wall time for which a device was held."""
    max_violation: float
    communication: list[CollectiveTotal]


LARGEST_GRADIENT_NORM = 1.0
_BETAS = (0.9, 0.95)
_WEIGHT_DECAY = 0.1


def make_optimizer(parameters: Iterable[nn.Parameter], spec: TrainingSpec) -> torch.optim.Optimizer:
    """AdamW with DeepSeek-V3's constants (arXiv 2412.19437, section 4.2)."""
    return torch.optim.AdamW(parameters, lr=spec.learning_rate, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, spec: TrainingSpec, step: int) -> None:
    """Rise in a straight line over the warm-up steps, then stay."""
    for group in optimizer.param_groups:
        group["lr"] = spec.learning_rate * min(1.0, (step + 1) / (spec.warm_up_steps + 1))


def update_biases(routers: Iterable[Router], load: Tensor, rate: float) -> None:
    """Move each router's bias by its load, (expert layers, E). Once a step, before the optimizer."""
    for router, load_E in zip(routers, load, strict=True):
        router.update_bias(load_E, rate)
