"""Recomputation: the same losses and gradients from less memory, and exactly the FLOPs it says."""

from __future__ import annotations

import threading
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tokenstone.flops import AttentionCount, training_flops
from tokenstone.model import CPU_TINY, ModelShape
from workloads.moe.balance import Balancing, set_balancing
from workloads.moe.experts import RoutedExperts, looped_multiply
from workloads.moe.model import MoeModel
from workloads.training.recompute import Recompute, apply_recompute, recomputed_flops

SEQUENCE = 64
IDS = torch.randint(CPU_TINY.vocabulary, (2, SEQUENCE), generator=torch.Generator().manual_seed(0))
assert CPU_TINY.experts is not None
SHAPES = {
    "shared expert": CPU_TINY,
    "a dense layer": CPU_TINY.model_copy(update={"experts": CPU_TINY.experts.model_copy(update={"dense_layers": 1})}),
    "no shared expert": CPU_TINY.model_copy(update={"experts": CPU_TINY.experts.model_copy(update={"shared": 0})}),
}
AGAIN = [Recompute.CHEAP, Recompute.BLOCKS]


class Step(NamedTuple):
    loss: float
    gradients: list[Tensor]
    load: Tensor


def built(shape: ModelShape, how: Recompute) -> MoeModel:
    model = MoeModel(shape, seed=1)
    apply_recompute(model.blocks, how)
    return model


def step(model: MoeModel) -> Step:
    loss = F.cross_entropy(model(IDS).flatten(0, 1), IDS.roll(-1, dims=1).flatten())
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return Step(float(loss.detach()), gradients, model.take_load())


def matmul_flops(shape: ModelShape, how: Recompute) -> int:
    """Of a forward and backward pass, without attention, which torch does not count on every device."""
    model = built(shape, how)
    for module in model.modules():
        if isinstance(module, RoutedExperts):
            module.multiply = looped_multiply  # torch does not count grouped multiplications
    with FlopCounterMode(display=False) as counter:
        step(model)
    return sum(flops for operation, flops in counter.get_flop_counts()["Global"].items() if "mm" in str(operation))


def bytes_kept(how: Recompute) -> int:
    """What a forward pass leaves allocated for the backward pass."""
    model = built(CPU_TINY, how)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        logits = model(IDS)
    del logits
    return sum(event.self_cpu_memory_usage for event in profiled.key_averages())


@pytest.fixture(scope="module")
def plain() -> Step:
    return step(built(CPU_TINY, Recompute.NONE))


@pytest.mark.parametrize("how", AGAIN)
def test_losses_gradients_and_loads_are_those_without_it(how: Recompute, plain: Step) -> None:
    again = step(built(CPU_TINY, how))
    assert again.loss == pytest.approx(plain.loss, abs=1e-6)
    assert len(again.gradients) == len(plain.gradients)
    for mine, expected in zip(again.gradients, plain.gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(again.load, plain.load)
    assert again.load.sum(dim=1).tolist() == [IDS.numel() * 2] * 2


@pytest.mark.parametrize("how", AGAIN)
def test_a_balancing_loss_is_felt_once(how: Recompute) -> None:
    models = [built(CPU_TINY, Recompute.NONE), built(CPU_TINY, how)]
    for model in models:
        set_balancing(model.routers(), Balancing.SEQUENCE, alpha=1.0, sequence_length=SEQUENCE)
    for mine, expected in zip(*(step(model).gradients for model in models), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("how", AGAIN)
def test_a_backward_pass_in_two_halves_has_the_same_gradients(how: Recompute, plain: Step) -> None:
    """As in zero-bubble schedules: first the gradients of the inputs, later those of the weights."""
    model = built(CPU_TINY, how)
    hidden = model.hidden(IDS)
    loss = F.cross_entropy(model.head(hidden).flatten(0, 1), IDS.roll(-1, dims=1).flatten())
    torch.autograd.grad(loss, model.embedding.weight, retain_graph=True)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for mine, expected in zip(gradients, plain.gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(model.take_load(), plain.load)


def test_the_more_is_recomputed_the_less_is_kept() -> None:
    none, cheap, blocks = (bytes_kept(how) for how in Recompute)
    assert cheap < 0.7 * none
    assert blocks < 0.5 * cheap


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("how", AGAIN)
def test_it_adds_exactly_the_flops_it_says(shape: ModelShape, how: Recompute) -> None:
    added = matmul_flops(shape, how) - matmul_flops(shape, Recompute.NONE)
    tokens = IDS.numel()
    said = recomputed_flops(shape, SEQUENCE, tokens, how, AttentionCount.FULL)
    if how is Recompute.BLOCKS:
        # What the counter sees and the convention does not, and the other way round.
        assert shape.experts is not None
        router = 2 * shape.dim * shape.experts.routed * shape.expert_layers * tokens
        flash = training_flops(shape, SEQUENCE, AttentionCount.FULL).attention_flops_per_token / 3 * tokens
        said += router - flash
    assert added == pytest.approx(said, rel=1e-9)
    assert added > 0


def test_none_adds_nothing() -> None:
    model = built(CPU_TINY, Recompute.NONE)
    assert all(type(block).__name__ == "Block" for block in model.blocks)
    assert recomputed_flops(CPU_TINY, SEQUENCE, 128, Recompute.NONE, AttentionCount.CAUSAL) == 0.0


@pytest.mark.parametrize("how", AGAIN)
def test_weights_move_between_models_with_and_without_it(how: Recompute) -> None:
    wrapped, bare = built(CPU_TINY, how), MoeModel(CPU_TINY, seed=2)
    bare.load_state_dict(wrapped.state_dict())
    with torch.no_grad():
        assert torch.equal(bare(IDS), wrapped(IDS))
    wrapped.load_state_dict(MoeModel(CPU_TINY, seed=3).state_dict())
    with torch.no_grad():
        assert torch.equal(wrapped(IDS), MoeModel(CPU_TINY, seed=3)(IDS))


def test_a_forward_pass_beside_a_repeated_one_still_counts() -> None:
    """As in DualPipeV: one thread goes back through a micro-batch while another goes forward through the next."""
    model, other = built(CPU_TINY, Recompute.BLOCKS), MoeModel(CPU_TINY)
    logits = model(IDS)
    model.take_load()
    beside = threading.Thread(target=lambda: other(IDS))

    def meanwhile(*_: object) -> None:
        if not beside.ident:
            beside.start()
            beside.join()

    model.blocks[0].ffn_norm.register_forward_hook(meanwhile)  # runs in the repeated pass alone
    logits.square().mean().backward()
    assert beside.ident
    assert other.take_load().sum() == IDS.numel() * 2 * 2
    assert model.take_load().sum() == 0
