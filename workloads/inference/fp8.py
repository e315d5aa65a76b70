"""Weights in FP8: quantised once, in blocks of 128 x 128; activations in tiles of 1 x 128 as they come.

As in training (workloads.training.precision): projections and experts are FP8; embedding, output head, router and
norms are not, nor are the two halves of the latents' expansion that absorbed attention folds into queries and outputs.
Multiplied by the hardware where it has the units, else emulated exactly, which is slower than fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from workloads.inference.weights import Linear
from workloads.training.precision.blocks import SQUARE, TILE, quantize
from workloads.training.precision.gemm import engine_for


def linear(weight_OI: Tensor) -> Linear:
    """x (..., I) -> y (..., O) in the format of x."""
    weight, product = quantize(weight_OI, SQUARE), engine_for(weight_OI.device).product

    def multiply(x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        return product(quantize(flat, TILE), weight).to(x.dtype).view(*x.shape[:-1], -1)

    return multiply


def grouped(weights_EIO: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """(x_PI, load_E) -> y_PO: expert e's rows, which follow those of e - 1, times its weights."""
    weights, product = quantize(weights_EIO, SQUARE).transposed, engine_for(weights_EIO.device).grouped_product
    return lambda x_PI, load_E: product(quantize(x_PI, TILE), weights, load_E).to(x_PI.dtype)


def describe(device: torch.device) -> str:
    """For provenance: "fp8: scaled_mm", or "fp8: emulated"."""
    return engine_for(device).name
