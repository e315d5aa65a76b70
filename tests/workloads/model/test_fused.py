"""Operations with a backward pass of their own: values and gradients of the plain torch expression, in fp64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.moe import attention, causal, fused

Call = Callable[..., Tensor]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(ours: Call, plain: Call, *inputs: Tensor) -> None:
    """Outputs, and gradients for an upstream gradient that is not all ones."""
    results = []
    for function in (ours, plain):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = function(*leaves)
        upstream = numbers(*y.shape, seed=9) if y.ndim else torch.tensor(0.7, dtype=torch.float64)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, upstream)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_rms_norm() -> None:
    norm = fused.RMSNorm(16, eps=1e-6)
    norm.weight.data = numbers(16, seed=1)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight}, (x,))

    assert_same(ours, lambda x, w: F.rms_norm(x, (16,), w, 1e-6), numbers(2, 5, 16), numbers(16, seed=1))


def test_swiglu() -> None:
    def plain(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    assert_same(fused.swiglu, plain, numbers(7, 12))


def test_rows_are_spread_and_combined() -> None:
    experts_LK = torch.tensor([[2, 0], [1, 2], [2, 1], [0, 2]])
    order_P = experts_LK.flatten().argsort(stable=True)
    token_P, pairs_LK = order_P // 2, order_P.argsort().view(4, 2)
    assert_same(lambda x: fused.spread_rows(x, token_P, pairs_LK), lambda x: x[token_P], numbers(4, 6))
    assert_same(
        lambda y, weights: fused.combine_rows(y, weights, token_P, pairs_LK),
        lambda y, weights: (y[pairs_LK] * weights[..., None]).sum(1),
        numbers(8, 6), numbers(4, 2, seed=1),
    )  # fmt: skip


@pytest.mark.parametrize("tokens", [5, fused._CHUNK, 2 * fused._CHUNK + 3])
def test_linear_cross_entropy(tokens: int) -> None:
    targets_L = torch.randint(11, (tokens,), generator=torch.Generator().manual_seed(3))
    assert_same(
        lambda hidden, head: fused.linear_cross_entropy(hidden, head, targets_L),
        lambda hidden, head: F.cross_entropy(hidden @ head.T, targets_L),
        numbers(tokens, 6), numbers(11, 6, seed=1) * 3,
    )  # fmt: skip


def test_a_target_of_no_probability_costs_what_it_should() -> None:
    head = torch.tensor([[300.0], [0.0]])
    loss = fused.linear_cross_entropy(torch.ones(1, 1), head, torch.tensor([1]))
    assert float(loss) == 300.0


def test_rotation() -> None:
    rope = attention.rotary_angles(torch.arange(5)[None], 8, 10_000.0)
    rope = rope[0].double()[..., None, :], rope[1].double()[..., None, :]

    def plain(x: Tensor) -> Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * rope[0] - odd * rope[1], even * rope[1] + odd * rope[0]), -1).flatten(-2)

    assert_same(lambda x: attention.rotate(x, rope), plain, numbers(2, 5, 3, 8))


@pytest.mark.parametrize("tokens", [1, causal.BLOCK, causal.BLOCK + 9, 3 * causal.BLOCK])
def test_causal_attention(tokens: int) -> None:
    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)

    shapes = (2, 3, tokens, 12), (2, 3, tokens, 12), (2, 3, tokens, 8)
    inputs = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    assert_same(lambda q, k, v: causal.causal_attention(q, k, v, 0.3), plain, *inputs)


def test_long_sequences_go_to_torchs_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q, v = torch.randn(1, 1, 40, 8), torch.randn(1, 1, 40, 4)
    expected = causal.causal_attention(q, q, v, 0.3)
    monkeypatch.setattr(causal, "LONGEST", 39)
    torch.testing.assert_close(causal.causal_attention(q, q, v, 0.3), expected, rtol=1e-5, atol=1e-6)
