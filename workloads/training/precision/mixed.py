"""BF16 over fp32 weights, put around the blocks of a finished model from outside.

Weights, their gradients, the optimizer and the residual stream between layers stay fp32; matrix multiplications, what
lies between them and the rows that travel to experts are bf16. Norms and the gate stay fp32, and so do the embedding
and the output head (as in DeepSeek-V3, arXiv 2412.19437, section 3.3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workloads.moe.experts import MixtureOfExperts, Multiply, RoutedExperts, choose_multiply
from workloads.moe.model import Block
from workloads.moe.router import Router
from workloads.training.precision.linear import Fp8GroupedMultiply, Fp8Linear

Forward = Callable[..., Any]


def compute_in(dtype: torch.dtype, device: torch.device, *modules: nn.Module | None) -> None:
    """Let every block of `modules` compute in `dtype`; fp32 changes nothing.

    Call it once, after `convert_to_fp8`, which it respects, and before experts are sharded.
    """
    if dtype is torch.float32:
        return
    for part in [part for module in modules if module is not None for part in module.modules()]:
        if isinstance(part, Block):
            _replace_forward(part, torch.autocast(device.type, dtype)(part.forward))
        elif isinstance(part, Router):
            _replace_forward(part, torch.autocast(device.type, enabled=False)(part.forward))
        elif isinstance(part, nn.RMSNorm):
            _replace_forward(part, _inside_in(torch.float32, part.forward))
        elif isinstance(part, MixtureOfExperts):
            _replace_forward(part, _with_input_in(dtype, part.forward))
        elif isinstance(part, Fp8Linear):  # says itself in which precision it multiplies
            plain = torch.autocast(device.type, enabled=False)(part.forward)
            _replace_forward(part, _with_input_in(dtype, plain))
        elif isinstance(part, RoutedExperts):
            part.multiply = _multiply_in(dtype, device, part.multiply)


def _replace_forward(module: nn.Module, forward: Forward) -> None:
    module.forward = forward


def _with_input_in(dtype: torch.dtype, forward: Forward) -> Forward:
    return lambda x: forward(x.to(dtype))


def _inside_in(dtype: torch.dtype, forward: Forward) -> Forward:
    return lambda x: forward(x.to(dtype)).to(x.dtype)


def _multiply_in(dtype: torch.dtype, device: torch.device, inner: Multiply | None) -> Multiply:
    def multiply(x_Pi: Tensor, weights_Eio: Tensor, load_E: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            x_Pi = x_Pi.to(dtype)
            if isinstance(inner, Fp8GroupedMultiply):
                return inner(x_Pi, weights_Eio, load_E)
            weights_Eio = weights_Eio.to(dtype)
            return (inner or choose_multiply(x_Pi, weights_Eio))(x_Pi, weights_Eio, load_E)

    return multiply
