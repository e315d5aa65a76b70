"""FP8 multiplications of training, forward and backward (arXiv 2412.19437, section 3.3).

All three products of a linear layer take e4m3 operands and add up in fp32:

    forward           y  = x · Wᵀ    x in 1 x 128 tiles along its features, W in 128 x 128 blocks
    gradient of x     dx = dy · W    dy in 1 x 128 tiles along its features, the same blocks of W
    gradient of W     dW = dyᵀ · x   both in 1 x 128 tiles along the tokens, since tokens are summed over

What is kept for the backward pass is the quantised input and weight, a quarter of the memory of fp32. The weight
itself and its gradient stay fp32: the optimizer never sees FP8.

Shape suffixes: M tokens, I input and O output features, P pairs of token and expert sorted by expert, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from workloads.training.precision.blocks import COLUMN_TILE, SQUARE, TILE, Quantized, quantize
from workloads.training.precision.gemm import Engine, engine_for
from workloads.training.precision.statistics import Operand, Statistics


class Fp8Linear(nn.Module):
    """nn.Linear whose products are FP8; has the parameters of the layer that it replaces."""

    bias: nn.Parameter | None

    def __init__(self, replaced: nn.Linear, statistics: Statistics | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = replaced.in_features, replaced.out_features
        self.weight = replaced.weight
        self.register_parameter("bias", replaced.bias)
        self.statistics = statistics

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> y (..., O) in the dtype of x."""
        y_MO: Tensor = _Linear.apply(x.reshape(-1, self.in_features), self.weight, self.statistics)  # type: ignore[no-untyped-call]
        y = y_MO.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Fp8GroupedMultiply:
    """workloads.moe.experts.Multiply in FP8: (x_PI, weights_EIO, load_E) -> y_PO in the dtype of x."""

    def __init__(self, statistics: Statistics | None = None) -> None:
        self.statistics = statistics

    def __call__(self, x_PI: Tensor, weights_EIO: Tensor, load_E: Tensor) -> Tensor:
        """Expert e's rows, which follow those of e - 1, times its weights."""
        y_PO: Tensor = _Grouped.apply(x_PI, weights_EIO, load_E, self.statistics)  # type: ignore[no-untyped-call]
        return y_PO


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x_MI: Tensor, weight_OI: Tensor, statistics: Statistics | None) -> Tensor:
        x = _quantize("activation", x_MI, TILE, statistics)
        weight = _quantize("weight", weight_OI, SQUARE, statistics)
        ctx.save_for_backward(x.payload, x.scale, weight.payload, weight.scale)
        ctx.statistics, ctx.dtypes = statistics, (x_MI.dtype, weight_OI.dtype)
        return engine_for(x_MI.device).product(x, weight).to(x_MI.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        [dy_MO] = gradients
        x_dtype, weight_dtype = ctx.dtypes
        x, weight = _kept(ctx.saved_tensors)
        engine = engine_for(dy_MO.device)
        dx_MI = dweight_OI = None
        if ctx.needs_input_grad[0]:
            dy = _quantize("gradient", dy_MO, TILE, ctx.statistics)
            dx_MI = engine.product(dy, weight.transposed).to(x_dtype)
        if ctx.needs_input_grad[1]:
            dweight_OI = _sum_over_tokens(dy_MO, x.dequantize(), engine).to(weight_dtype)
        return dx_MI, dweight_OI, None


class _Grouped(Function):
    @staticmethod
    def forward(ctx: Any, x_PI: Tensor, weights_EIO: Tensor, load_E: Tensor, statistics: Statistics | None) -> Tensor:
        x = _quantize("activation", x_PI, TILE, statistics)
        weights = _quantize("weight", weights_EIO, SQUARE, statistics)
        ctx.save_for_backward(x.payload, x.scale, weights.payload, weights.scale, load_E)
        ctx.statistics, ctx.dtypes = statistics, (x_PI.dtype, weights_EIO.dtype)
        return engine_for(x_PI.device).grouped_product(x, weights.transposed, load_E).to(x_PI.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        [dy_PO] = gradients
        x_dtype, weights_dtype = ctx.dtypes
        *kept, load_E = ctx.saved_tensors
        x, weights = _kept(kept)
        engine = engine_for(dy_PO.device)
        dx_PI = dweights_EIO = None
        if ctx.needs_input_grad[0]:
            dy = _quantize("gradient", dy_PO, TILE, ctx.statistics)
            dx_PI = engine.grouped_product(dy, weights, load_E).to(x_dtype)
        if ctx.needs_input_grad[1]:
            sizes = load_E.tolist()
            # Expert by expert, so that no tile holds tokens of two experts.
            blocks = zip(x.dequantize().split(sizes), dy_PO.split(sizes), strict=True)
            dweights_EIO = torch.stack([_sum_over_tokens(x_MI, dy_MO, engine) for x_MI, dy_MO in blocks])
            dweights_EIO = dweights_EIO.to(weights_dtype)
        return dx_PI, dweights_EIO, None, None


def _quantize(operand: Operand, x: Tensor, block: tuple[int, int], statistics: Statistics | None) -> Quantized:
    quantized = quantize(x, block)
    if statistics is not None:
        statistics.count(operand, x, quantized)
    return quantized


def _kept(tensors: Sequence[Tensor]) -> tuple[Quantized, Quantized]:
    x_payload, x_scale, weight_payload, weight_scale = tensors
    return Quantized(x_payload, x_scale, TILE), Quantized(weight_payload, weight_scale, SQUARE)


def _sum_over_tokens(a_MN: Tensor, b_MK: Tensor, engine: Engine) -> Tensor:
    """aᵀ · b, (N, K), both quantised in tiles of 128 tokens."""
    return engine.product(quantize(a_MN, COLUMN_TILE).transposed, quantize(b_MK, COLUMN_TILE).transposed)
