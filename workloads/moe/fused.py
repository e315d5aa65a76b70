"""Operations with a backward pass written by hand: the same numbers as from torch's parts, with less memory traffic.

What they compute is said in one line each; tests compare all of them with the plain torch expression. Between matrix
multiplications a CPU mostly moves memory, and autograd, which knows each part alone, moves the same rows several
times. They allocate what they return and never change what was saved, so that a pipeline may go back through them
twice (ZBVZeroBubble).

Shape suffixes: L tokens, D model, K experts chosen per token, P = L · K pairs of token and expert, W words.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x²) + epsilon) · weight over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it. Accelerators have a kernel for it; on the CPU torch composes it of six operations."""
        if x.device.type != "cpu":
            normed: Tensor = super().forward(x)
            return normed
        y: Tensor = _RmsNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return y


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = mean_square.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        y: Tensor = (x * inverse).mul_(weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        normed, scaled = x * inverse, gradients[0] * weight
        weight_gradient = torch.linalg.vecdot(normed.flatten(0, -2), gradients[0].flatten(0, -2), dim=0)
        shared = torch.linalg.vecdot(scaled, normed)[..., None].div_(x.shape[-1])
        return torch.addcmul(scaled, normed, shared, value=-1).mul_(inverse), weight_gradient, None


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of a projection that holds both side by side."""
    y: Tensor = _SwiGlu.apply(gate_up)  # type: ignore[no-untyped-call]
    return y


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        gate_gradient, up_gradient = result.chunk(2, dim=-1)
        sigmoid = gate.sigmoid()
        silu = sigmoid * gate
        torch.mul(gradients[0], silu, out=up_gradient)
        slope = torch.addcmul(silu, sigmoid, 1 - silu)  # of silu
        torch.mul(slope.mul_(up), gradients[0], out=gate_gradient)
        return result


def spread_rows(x_LD: Tensor, token_P: Tensor, pairs_LK: Tensor) -> Tensor:
    """x_PD: row token_P[p] of x_LD for each pair. `pairs_LK` says the same the other way: the pairs of each token."""
    x_PD: Tensor = _SpreadRows.apply(x_LD, token_P, pairs_LK)  # type: ignore[no-untyped-call]
    return x_PD


class _SpreadRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_LD: Tensor, token_P: Tensor, pairs_LK: Tensor) -> Tensor:
        ctx.save_for_backward(pairs_LK)
        return x_LD.index_select(0, token_P)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (pairs_LK,) = ctx.saved_tensors
        return F.embedding_bag(pairs_LK, gradients[0], mode="sum"), None, None  # fetches and adds in one pass


def combine_rows(y_PD: Tensor, weights_LK: Tensor, token_P: Tensor, pairs_LK: Tensor) -> Tensor:
    """y_LD: for each token the sum over its pairs of weight times row."""
    y_LD: Tensor = _CombineRows.apply(y_PD, weights_LK, token_P, pairs_LK)  # type: ignore[no-untyped-call]
    return y_LD


class _CombineRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_PD: Tensor, weights_LK: Tensor, token_P: Tensor, pairs_LK: Tensor) -> Tensor:
        ctx.save_for_backward(y_PD, weights_LK, token_P, pairs_LK)
        return F.embedding_bag(pairs_LK, y_PD, mode="sum", per_sample_weights=weights_LK.to(y_PD.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        y_PD, weights_LK, token_P, pairs_LK = ctx.saved_tensors
        gradient_PD = gradients[0].index_select(0, token_P)
        weights_gradient_P = torch.linalg.vecdot(gradient_PD, y_PD)
        weights_P = torch.empty_like(weights_gradient_P).scatter_(
            0, pairs_LK.flatten(), weights_LK.flatten().to(y_PD.dtype)
        )
        weights_gradient_LK = weights_gradient_P[pairs_LK].to(weights_LK.dtype)
        return gradient_PD.mul_(weights_P[:, None]), weights_gradient_LK, None, None


def linear_cross_entropy(hidden_LD: Tensor, head_WD: Tensor, targets_L: Tensor) -> Tensor:
    """Mean over tokens of -log softmax(hidden · headᵀ)[target], a scalar.

    Never holds the logits of all tokens: a chunk of them is turned into its gradient while it is in the cache.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden_LD, head_WD, targets_L)  # type: ignore[no-untyped-call]
    return loss


_CHUNK = 256


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_LD: Tensor, head_WD: Tensor, targets_L: Tensor) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        hidden_gradient, head_gradient = torch.empty_like(hidden_LD), torch.zeros_like(head_WD)
        loss, share = hidden_LD.new_zeros(()), 1.0 / len(targets_L)
        for begin in range(0, len(targets_L), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            hidden, target_L1 = hidden_LD[part], targets_L[part, None]
            logits_LW = hidden @ head_WD.t()
            largest_L, of_target_L = logits_LW.amax(dim=-1), logits_LW.gather(1, target_L1)[:, 0]
            probability_LW = torch.softmax(logits_LW, dim=-1, out=logits_LW)
            # log Σ exp from the likeliest word, whose probability is 1 / W at least; the target's may be zero by now.
            loss += (largest_L - probability_LW.amax(dim=-1).log_() - of_target_L).sum()
            if wanted:
                gradient_LW = probability_LW.mul_(share)
                gradient_LW.scatter_add_(1, target_L1, gradient_LW.new_full((), -share).expand_as(target_L1))
                torch.mm(gradient_LW, head_WD, out=hidden_gradient[part])
                head_gradient.addmm_(gradient_LW.t(), hidden)
        ctx.save_for_backward(hidden_gradient, head_gradient)
        return loss.mul_(share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_gradient, head_gradient = ctx.saved_tensors
        return hidden_gradient * gradients[0], head_gradient * gradients[0], None
