"""What every training does between the gradients and the next step, on one rank or many."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tokenstone.run import TrainingSpec
from workloads.moe.router import Router

LARGEST_GRADIENT_NORM = 1.0
_BETAS = (0.9, 0.95)
_WEIGHT_DECAY = 0.1


def make_optimizer(parameters: Iterable[nn.Parameter], spec: TrainingSpec) -> torch.optim.Optimizer:
    """AdamW with DeepSeek-V3's constants (arXiv 2412.19437, section 4.2)."""
    # One kernel updates a group, and none takes FSDP's tensors together with others (experts without replicas).
    kinds: dict[bool, list[nn.Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault(isinstance(parameter, DTensor), []).append(parameter)
    groups = [{"params": alike} for alike in kinds.values()]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, spec: TrainingSpec, step: int) -> None:
    """Rise in a straight line over the warm-up steps, then stay."""
    for group in optimizer.param_groups:
        group["lr"] = spec.learning_rate * min(1.0, (step + 1) / (spec.warm_up_steps + 1))


def update_biases(routers: Iterable[Router], load: Tensor, rate: float) -> None:
    """Move each router's bias by its load, (expert layers, E). Once a step, before the optimizer."""
    for router, load_E in zip(routers, load, strict=True):
        router.update_bias(load_E, rate)


def expert_layers(module: nn.Module) -> list[int]:
    """The layer of each router in `module`, in the order of its modules; prediction depths come behind the trunk."""
    names = [name for name, part in module.named_modules() if isinstance(part, Router)]
    layers: list[int] = []
    for name in names:
        found = re.search(r"blocks\.(\d+)\.", name)
        layers.append(_BEHIND_ALL_LAYERS + len(layers) if found is None else int(found[1]))
    return layers


_BEHIND_ALL_LAYERS = 10**6
