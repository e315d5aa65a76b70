"""The router against a plain reading of the paper, and what balancing does."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenstone.model import CPU_TINY, ModelShape
from workloads.moe.config import MoeConfig
from workloads.moe.router import Router, max_violation


def shape(**experts: float) -> ModelShape:
    assert CPU_TINY.experts is not None
    return CPU_TINY.model_copy(update={"experts": CPU_TINY.experts.model_copy(update=experts)})


def router(seed: int, **experts: float) -> Router:
    torch.manual_seed(seed)
    built = Router(MoeConfig.of(shape(**experts)))
    torch.nn.init.normal_(built.weight_ED, std=0.1)
    return built


def naive(x: list[float], router: Router) -> dict[int, float]:
    """Weight by expert of one token, in plain Python from the formulas of arXiv 2412.19437, section 2.1.2."""
    e = router.shape
    weight, bias = router.weight_ED.tolist(), router.bias_E.tolist()
    affinity = [1 / (1 + math.exp(-sum(a * b for a, b in zip(x, row, strict=True)))) for row in weight]
    choice = [a + b for a, b in zip(affinity, bias, strict=True)]
    size = e.routed // e.groups
    groups = [list(range(g * size, (g + 1) * size)) for g in range(e.groups)]
    groups.sort(key=lambda members: -sum(sorted((choice[i] for i in members), reverse=True)[:2]))
    allowed = [i for members in groups[: e.active_groups] for i in members]
    chosen = sorted(allowed, key=lambda i: -choice[i])[: e.active]
    total = sum(affinity[i] for i in chosen)
    return {i: affinity[i] / total * e.route_scale for i in chosen}


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    groups=st.sampled_from([(1, 1), (4, 1), (4, 2), (8, 3), (16, 4)]),
    active=st.integers(1, 2),
)
def test_routing_is_what_the_paper_says(seed: int, groups: tuple[int, int], active: int) -> None:
    built = router(seed, groups=groups[0], active_groups=groups[1], active=active, route_scale=2.5)
    built.bias_E += torch.randn(16) * 0.1
    x = torch.randn(5, CPU_TINY.dim)
    routing = built(x)
    for token in range(5):
        got = dict(zip(routing.experts_LK[token].tolist(), routing.weights_LK[token].tolist(), strict=True))
        assert got == pytest.approx(naive(x[token].tolist(), built), rel=1e-4)


def test_bias_changes_the_choice_and_never_the_weight() -> None:
    built = router(1)
    x = torch.randn(200, CPU_TINY.dim)
    before = built(x)
    built.bias_E[3] += 10.0
    after = built(x)
    assert (after.experts_LK == 3).any(dim=1).all()
    assert not (before.experts_LK == 3).any(dim=1).all()
    affinity = torch.nn.functional.linear(x, built.weight_ED).sigmoid().gather(1, after.experts_LK)
    torch.testing.assert_close(after.weights_LK, affinity / affinity.sum(dim=1, keepdim=True))


def test_bias_of_all_alike_changes_nothing() -> None:
    built = router(2)
    x = torch.randn(50, CPU_TINY.dim)
    before = built(x)
    built.bias_E += 0.5
    torch.testing.assert_close(built(x).weights_LK, before.weights_LK)


def test_gradient_reaches_the_gate_and_not_the_bias() -> None:
    built = router(3)
    (built(torch.randn(20, CPU_TINY.dim)).weights_LK[:, 0]).sum().backward()
    assert built.weight_ED.grad is not None
    assert built.weight_ED.grad.abs().sum() > 0
    assert not built.bias_E.requires_grad


def test_load_counts_every_choice_once_until_it_is_taken() -> None:
    built = router(4)
    x = torch.randn(30, CPU_TINY.dim)
    first, second = built(x), built(x[:10])
    torch.testing.assert_close(built.take_load(), first.load_E + second.load_E)
    assert first.load_E.sum() == 60
    assert built.take_load().sum() == 0


def skewed_tokens(step: int) -> Tensor:
    """Tokens that have much in common, so that a few experts like most of them best."""
    common = torch.randn(1, CPU_TINY.dim, generator=torch.Generator().manual_seed(0))
    return common + torch.randn(512, CPU_TINY.dim, generator=torch.Generator().manual_seed(step))


def violation_after(rate: float, steps: int) -> tuple[float, float]:
    built = router(5)
    seen = []
    for step in range(steps):
        built(skewed_tokens(step))
        load = built.take_load()
        seen.append(max_violation(load))
        built.update_bias(load, rate)
    return seen[0], seen[-1]


def test_balancing_spreads_skewed_tokens_and_without_it_they_stay_skewed() -> None:
    first, last = violation_after(1e-2, 100)
    assert last < first / 3
    first, last = violation_after(0.0, 100)
    assert last > first / 1.5


@pytest.mark.parametrize(("load", "violation"), [([5, 5, 5, 5], 0.0), ([20, 0, 0, 0], 3.0), ([6, 4, 5, 5], 0.2)])
def test_max_violation(load: list[int], violation: float) -> None:
    assert max_violation(torch.tensor(load)) == pytest.approx(violation)
