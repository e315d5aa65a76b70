"""Experts: the grouped multiplication against the loop, the layer against one token and expert at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenstone.model import CPU_TINY
from workloads.moe.config import MoeConfig
from workloads.moe.experts import (
    MixtureOfExperts,
    RoutedExperts,
    choose_multiply,
    grouped_multiply,
    looped_multiply,
)
from workloads.moe.router import Routing

CONFIG = MoeConfig.of(CPU_TINY)


def initialised(module: torch.nn.Module, seed: int = 0) -> None:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)


@settings(deadline=None, max_examples=25)
@given(load=st.lists(st.integers(0, 9), min_size=4, max_size=4), seed=st.integers(0, 1000))
def test_grouped_equals_loop_forward_and_backward(load: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(sum(load), 16)
    weights = torch.randn(4, 16, 8)
    upstream = torch.randn(sum(load), 8)
    results = []
    for multiply in (grouped_multiply, looped_multiply):
        leaf_x, leaf_w = x.clone().requires_grad_(), weights.clone().requires_grad_()
        y = multiply(leaf_x, leaf_w, torch.tensor(load))
        y.backward(upstream)
        results.append((y.detach(), leaf_x.grad, leaf_w.grad))
    for grouped, looped in zip(*results, strict=True):
        torch.testing.assert_close(grouped, looped, rtol=1e-4, atol=1e-5)


def one_by_one(experts: RoutedExperts, x: Tensor, routing: Routing) -> Tensor:
    rows = []
    for token in range(len(x)):
        y = torch.zeros(CPU_TINY.dim)
        for expert, weight in zip(routing.experts_LK[token].tolist(), routing.weights_LK[token], strict=True):
            gate, up = (x[token] @ experts.gate_up_EDF[expert]).chunk(2)
            y = y + weight * ((F.silu(gate) * up) @ experts.down_EFD[expert])
        rows.append(y)
    return torch.stack(rows)


def test_layer_is_the_weighted_sum_of_its_experts_and_the_shared_one() -> None:
    layer = MixtureOfExperts(CONFIG)
    initialised(layer)
    x = torch.randn(2, 9, CPU_TINY.dim)
    tokens = x.flatten(0, 1)
    assert layer.shared is not None
    expected = one_by_one(layer.routed, tokens, layer.router(tokens)) + layer.shared(tokens)
    torch.testing.assert_close(layer(x).flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


def test_order_of_tokens_does_not_matter() -> None:
    layer = MixtureOfExperts(CONFIG)
    initialised(layer, 1)
    x = torch.randn(1, 40, CPU_TINY.dim)
    order = torch.randperm(40)
    torch.testing.assert_close(layer(x)[:, order], layer(x[:, order]), rtol=1e-4, atol=1e-5)


def test_what_torch_cannot_group_is_looped() -> None:
    narrow, wide = torch.ones(1, 6), torch.ones(1, 16)
    assert choose_multiply(wide, torch.ones(2, 16, 8)) is grouped_multiply
    assert choose_multiply(narrow, torch.ones(2, 6, 8)) is looped_multiply
    assert choose_multiply(wide, torch.ones(2, 16, 6)) is looped_multiply
    assert choose_multiply(wide.double(), torch.ones(2, 16, 8).double()) is looped_multiply


def test_gradients_are_right_to_numerical_differences() -> None:
    assert CPU_TINY.experts is not None
    experts = CPU_TINY.experts.model_copy(update={"routed": 4, "dim": 3, "groups": 1, "active_groups": 1})
    layer = RoutedExperts(MoeConfig.of(CPU_TINY.model_copy(update={"dim": 5, "experts": experts}))).double()
    initialised(layer, 2)
    chosen = torch.tensor([[0, 3], [3, 1], [0, 1]])  # expert 2 has nobody
    routing = Routing(torch.rand(3, 2).double().requires_grad_(), chosen, torch.tensor([2, 2, 0, 2]))
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: layer(x, routing._replace(weights_LK=w)), (x, routing.weights_LK))
