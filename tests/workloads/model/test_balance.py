"""Balancing losses against a plain reading of their formulas, and what each way does to skewed tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenstone.errors import InvalidValue
from tokenstone.model import CPU_TINY
from workloads.moe.balance import Balancing, auxiliary_loss, sequence_loss, set_balancing
from workloads.moe.config import MoeConfig
from workloads.moe.router import Router, max_violation

TINY = MoeConfig.of(CPU_TINY)


def new_router(seed: int = 0) -> Router:
    torch.manual_seed(seed)
    router = Router(TINY)
    torch.nn.init.normal_(router.weight_ED, std=0.05)
    return router


def naive_sequence_loss(affinity: list[list[float]], active: int) -> float:
    """Equations 17 to 20 of arXiv 2412.19437 for one sequence, without alpha."""
    tokens, experts = len(affinity), len(affinity[0])
    total = 0.0
    for i in range(experts):
        wanted = [sorted(row, reverse=True)[:active] for row in affinity]
        f = experts / (active * tokens) * sum(row[i] in top for row, top in zip(affinity, wanted, strict=True))
        p = sum(row[i] / sum(row) for row in affinity) / tokens
        total += f * p
    return total


def naive_auxiliary_loss(affinity: list[list[float]], chosen: list[list[int]]) -> float:
    """Equation 4 of arXiv 2101.03961 with K choices a token, without alpha."""
    tokens, experts, active = len(affinity), len(affinity[0]), len(chosen[0])
    total = 0.0
    for i in range(experts):
        f = sum(i in row for row in chosen) / (tokens * active)
        p = sum(row[i] / sum(row) for row in affinity) / tokens
        total += experts * f * p
    return total


cases = given(
    seed=st.integers(0, 10_000), sequences=st.integers(1, 3), tokens=st.integers(1, 7), active=st.integers(1, 4)
)


@settings(deadline=None, max_examples=30)
@cases
def test_sequence_loss_is_the_paper_s(seed: int, sequences: int, tokens: int, active: int) -> None:
    affinity = torch.rand(sequences * tokens, 8, generator=torch.Generator().manual_seed(seed))
    expected = [naive_sequence_loss(rows.tolist(), active) for rows in affinity.split(tokens)]
    assert float(sequence_loss(affinity, active, tokens)) == pytest.approx(sum(expected) / sequences, rel=1e-5)


@settings(deadline=None, max_examples=30)
@cases
def test_auxiliary_loss_is_the_paper_s(seed: int, sequences: int, tokens: int, active: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    affinity = torch.rand(sequences * tokens, 8, generator=generator)
    chosen = torch.rand(sequences * tokens, 8, generator=generator).topk(active).indices
    expected = naive_auxiliary_loss(affinity.tolist(), chosen.tolist())
    assert float(auxiliary_loss(affinity, chosen)) == pytest.approx(expected, rel=1e-5)


def test_even_choices_cost_one_and_a_collapse_costs_more() -> None:
    even, collapsed = torch.eye(8).repeat(2, 1) + 1e-9, torch.eye(8)[:1].repeat(16, 1) + 1e-9
    for affinity, expected in ((even, 1.0), (collapsed, 8.0)):
        experts = affinity.argmax(dim=1, keepdim=True)
        assert float(auxiliary_loss(affinity, experts)) == pytest.approx(expected)
        assert float(sequence_loss(affinity, 1, 16)) == pytest.approx(expected)


def test_two_sequences_that_cancel_out_cost_something_only_sequence_by_sequence() -> None:
    affinity = torch.cat((torch.eye(2)[[0] * 8], torch.eye(2)[[1] * 8])) + 1e-9
    assert float(auxiliary_loss(affinity, affinity.argmax(dim=1, keepdim=True))) == pytest.approx(1.0)
    assert float(sequence_loss(affinity, 1, 8)) == pytest.approx(2.0)


@pytest.mark.parametrize("balancing", [Balancing.SEQUENCE, Balancing.AUXILIARY])
def test_backward_of_the_training_loss_adds_the_gradient_of_the_balancing_loss(balancing: Balancing) -> None:
    x, alpha = torch.randn(32, TINY.dim, generator=torch.Generator().manual_seed(2)), 0.5
    plain, balanced = new_router(), new_router()
    set_balancing([balanced], balancing, alpha=alpha, sequence_length=16)
    routing = plain(x)
    affinity = F.linear(x, plain.weight_ED).sigmoid()
    penalty = sequence_loss(affinity, 2, 16)
    if balancing is Balancing.AUXILIARY:
        penalty = auxiliary_loss(affinity, routing.experts_LK)
    (routing.weights_LK.square().sum() + alpha * penalty).backward()
    with_hook = balanced(x)
    torch.testing.assert_close(with_hook.weights_LK, routing.weights_LK)
    with_hook.weights_LK.square().sum().backward()
    assert balanced.weight_ED.grad is not None
    torch.testing.assert_close(balanced.weight_ED.grad, plain.weight_ED.grad)


def skewed_tokens(step: int) -> Tensor:
    common = torch.randn(1, TINY.dim, generator=torch.Generator().manual_seed(0))
    return common + torch.randn(512, TINY.dim, generator=torch.Generator().manual_seed(step))


def violation_after(balancing: Balancing, alpha: float = 0.0) -> float:
    """MaxVio after 60 steps that learn from the balancing loss alone."""
    router = new_router(5)
    set_balancing([router], balancing, alpha=alpha, sequence_length=128)
    optimizer = torch.optim.Adam(router.parameters(), lr=3e-3)
    routing = router(skewed_tokens(0))
    for step in range(60):
        optimizer.zero_grad()
        routing = router(skewed_tokens(step))
        (0.0 * routing.weights_LK).sum().backward()
        optimizer.step()
    return max_violation(routing.load_E)


@pytest.mark.parametrize("balancing", [Balancing.SEQUENCE, Balancing.AUXILIARY])
def test_each_loss_spreads_skewed_tokens(balancing: Balancing) -> None:
    assert violation_after(balancing, alpha=0.1) < violation_after(Balancing.NONE) / 3


def test_forced_balance_is_perfect_and_weighs_by_affinity() -> None:
    router, x = new_router(), skewed_tokens(1)
    set_balancing([router], Balancing.FORCED)
    routing = router(x)
    assert max_violation(routing.load_E) == 0.0
    affinity = F.linear(x, router.weight_ED).sigmoid().gather(1, routing.experts_LK)
    torch.testing.assert_close(routing.weights_LK, affinity / affinity.sum(dim=1, keepdim=True))


def test_none_takes_every_other_way_off() -> None:
    router, x = new_router(), skewed_tokens(1)
    before = router(x)
    for balancing in (Balancing.FORCED, Balancing.SEQUENCE, Balancing.AUXILIARY):
        set_balancing([router], balancing, alpha=0.1, sequence_length=512)
    set_balancing([router], Balancing.NONE)
    after = router(x)
    assert torch.equal(after.experts_LK, before.experts_LK)
    after.weights_LK.sum().backward(retain_graph=True)
    before_grad = torch.autograd.grad(before.weights_LK.sum(), router.weight_ED)[0]
    torch.testing.assert_close(router.weight_ED.grad, before_grad)


def test_a_loss_without_its_constants_is_refused() -> None:
    with pytest.raises(InvalidValue, match="alpha"):
        set_balancing([new_router()], Balancing.AUXILIARY)
    with pytest.raises(InvalidValue, match="sequence_length"):
        set_balancing([new_router()], Balancing.SEQUENCE, alpha=1e-4)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), nodes=st.sampled_from([2, 4, 8]), reached=st.integers(1, 4))
def test_with_one_group_per_node_no_token_goes_to_more_nodes_than_allowed(seed: int, nodes: int, reached: int) -> None:
    """Node-limited routing: experts of group g live on node g, so the groups' limit is that of the nodes."""
    reached = min(reached, nodes)
    experts = CPU_TINY.experts
    assert experts is not None
    limited = experts.model_copy(update={"groups": nodes, "active_groups": reached, "active": min(4, 16 // nodes)})
    torch.manual_seed(seed)
    router = Router(MoeConfig.of(CPU_TINY.model_copy(update={"experts": limited})))
    torch.nn.init.normal_(router.weight_ED, std=0.1)
    router.bias_E += torch.randn(16)
    node_LK = router(torch.randn(40, TINY.dim)).experts_LK // (16 // nodes)
    assert max(len(set(row.tolist())) for row in node_LK) <= reached
