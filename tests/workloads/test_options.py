"""A switch of the spec reaches the model, and off is really off."""

from __future__ import annotations

import pytest
import torch

from tokenstone.model import CPU_TINY
from tokenstone.run import TrainingSpec
from workloads.moe.model import MoeModel
from workloads.moe.router import Router
from workloads.training.options import apply_options

SPEC = TrainingSpec(
    preset="test", model=CPU_TINY, dtype="fp32", sequence_length=16, batch_sequences=2, steps=1, warm_up_steps=0,
    learning_rate=1e-3, bias_update_rate=0.0,
)  # fmt: skip


def model_with(**switches) -> tuple[MoeModel, dict[str, str]]:
    model = MoeModel(CPU_TINY, seed=0)
    return model, apply_options(model, SPEC.model_copy(update=switches), torch.device("cpu"))


def router_gradient(**switches) -> torch.Tensor:
    """What the first router's weights are told by two sequences."""
    model, _ = model_with(**switches)
    ids = torch.arange(32).view(2, 16)
    model(ids).logsumexp(-1).mean().backward()
    gradient = model.routers()[0].weight_ED.grad
    assert gradient is not None
    return gradient


@pytest.mark.parametrize(("recompute", "passes"), [("none", 1), ("cheap", 2), ("blocks", 2)])
def test_recomputation_runs_the_forward_pass_again(recompute, passes):
    model, provenance = model_with(recompute=recompute)
    calls = []
    for router in model.routers():
        router.register_forward_hook(lambda *_: calls.append(1))
    model(torch.arange(32).view(2, 16)).sum().backward()
    assert len(calls) == passes * len(model.routers())
    assert provenance["recompute"] == recompute


@pytest.mark.parametrize("balancing", ["sequence", "auxiliary"])
def test_a_balancing_loss_pulls_in_proportion_to_its_weight(balancing):
    plain = router_gradient()
    once, twice = (router_gradient(balancing=balancing, balance_alpha=alpha) - plain for alpha in (0.1, 0.2))
    assert once.norm() > 0
    torch.testing.assert_close(twice, 2 * once, rtol=1e-3, atol=1e-6)


def test_forced_balance_deals_tokens_out_and_none_leaves_the_router_alone():
    forced, _ = model_with(balancing="forced")
    forced(torch.zeros(2, 16, dtype=torch.int64))
    load = forced.take_load()
    assert load.max() == load.min()
    untouched, _ = model_with()
    untouched(torch.zeros(2, 16, dtype=torch.int64))
    assert untouched.take_load().max() > untouched.take_load().min()


def test_fp8_converts_the_experts_and_leaves_router_and_head():
    model, provenance = model_with(linear_precision="fp8")
    assert provenance["precision"].startswith("fp8: ")
    assert type(model.head) is torch.nn.Linear
    assert all(type(router) is Router for router in model.routers())
    plain, _ = model_with()
    ids = torch.arange(32).view(2, 16)
    assert not torch.equal(model(ids), plain(ids))
