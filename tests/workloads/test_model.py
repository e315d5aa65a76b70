"""The model: its size, its causality, and the absorbed decode against the full forward pass."""

from __future__ import annotations

import pytest
import torch

from tokenstone.errors import InvalidValue
from tokenstone.flops import count_parameters
from tokenstone.model import CPU_SMALL, CPU_TINY, DEEPSEEK_V3, LLAMA_3_1_8B, LatentAttention, ModelShape
from workloads.moe.attention import rotary_angles, rotate
from workloads.moe.config import MoeConfig
from workloads.moe.model import MoeModel

assert CPU_TINY.experts is not None
DENSE_FIRST = CPU_TINY.model_copy(
    update={
        "layers": 3,
        "attention": LatentAttention(heads=4, query_rank=None, kv_rank=32, nope_dim=16, rope_dim=8, value_dim=24),
        "experts": CPU_TINY.experts.model_copy(update={"dense_layers": 1, "shared": 2, "route_scale": 2.5}),
    }
)
"""Everything that the presets leave out: a dense layer, no query rank, values as wide as keys, shared experts."""


class Contiguous:
    """The plainest cache (workloads.moe.attention.Cache): sequence i of `length` tokens in slot i."""

    def __init__(self, model: MoeModel, *, slots: int, length: int) -> None:
        width = model.config.attention.cached_values_per_token
        self.latents = torch.zeros(model.config.layers, slots, length, width)
        self.visible_BTS: torch.Tensor | None = None

    def view(self, slots: list[int], cached: list[int], new: int) -> Contiguous:
        self.slots_B1, self.context = torch.tensor(slots)[:, None], max(cached) + new
        self.positions_BT = torch.tensor(cached)[:, None] + torch.arange(new)
        self.visible_BTS = torch.arange(self.context) <= self.positions_BT[..., None] if any(cached) else None
        return self

    def extend(self, layer: int, latents_BTM: torch.Tensor) -> torch.Tensor:
        self.latents[layer][self.slots_B1, self.positions_BT] = latents_BTM
        return self.latents[layer][self.slots_B1[:, 0], : self.context]


def model_and_tokens(shape: ModelShape) -> tuple[MoeModel, torch.Tensor]:
    model = MoeModel(shape, seed=1).eval()
    # Larger weights than at the start of training, so that attention and experts matter to the logits.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model, torch.randint(shape.vocabulary, (3, 21), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("shape", [CPU_TINY, CPU_SMALL, DENSE_FIRST], ids=["tiny", "small", "dense-first"])
def test_built_model_has_the_parameters_that_are_counted(shape: ModelShape) -> None:
    model = MoeModel(shape)
    gains = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert model.parameter_count() - gains == count_parameters(shape).total


@pytest.mark.parametrize("shape", [CPU_TINY, DENSE_FIRST], ids=["tiny", "dense-first"])
@pytest.mark.parametrize("chunks", [[1] * 21, [13] + [1] * 8, [5, 7, 9]], ids=["one", "prefill", "chunks"])
def test_absorbed_decode_gives_the_logits_of_the_full_forward(shape: ModelShape, chunks: list[int]) -> None:
    model, ids = model_and_tokens(shape)
    cache = Contiguous(model, slots=4, length=21)
    slots = [2, 0, 3]
    with torch.inference_mode():
        full = model(ids)
        done = 0
        for new in chunks:
            view = cache.view(slots, [done] * 3, new)
            logits = model.next_logits(ids[:, done : done + new], view)
            done += new
            torch.testing.assert_close(logits, full[:, done - 1], rtol=1e-4, atol=1e-4)


def test_sequences_of_different_lengths_decode_together() -> None:
    model, ids = model_and_tokens(CPU_TINY)
    cache = Contiguous(model, slots=3, length=21)
    lengths = [4, 11, 20]
    with torch.inference_mode():
        full = model(ids)
        for slot, length in enumerate(lengths):
            model.next_logits(ids[slot : slot + 1, :length], cache.view([slot], [0], length))
        last = torch.stack([ids[slot, length : length + 1] for slot, length in enumerate(lengths)])
        logits = model.next_logits(last, cache.view([0, 1, 2], lengths, 1))
    for slot, length in enumerate(lengths):
        torch.testing.assert_close(logits[slot], full[slot, length], rtol=1e-4, atol=1e-4)


def test_a_token_does_not_see_the_future() -> None:
    model, ids = model_and_tokens(DENSE_FIRST)
    changed = ids.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % CPU_TINY.vocabulary
    with torch.inference_mode():
        torch.testing.assert_close(model(ids)[:, :10], model(changed)[:, :10], rtol=1e-4, atol=1e-4)
        assert (model(ids)[:, 10:] - model(changed)[:, 10:]).abs().max() > 0.1


def test_a_token_sees_the_past_and_its_order() -> None:
    model, ids = model_and_tokens(CPU_TINY)
    swapped = ids.clone()
    swapped[:, [3, 8]] = swapped[:, [8, 3]]
    with torch.inference_mode():
        assert (model(ids)[:, 12:] - model(swapped)[:, 12:]).abs().max() > 1e-3


def test_rotation_makes_products_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 8).double().unbind(0)

    def product(q_position: int, k_position: int) -> torch.Tensor:
        turned = [
            rotate(x, rotary_angles(torch.tensor([[p]]), 8, 10_000.0)) for x, p in ((q, q_position), (k, k_position))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(7, 3), product(107, 103), rtol=1e-4, atol=1e-4)
    assert (product(7, 3) - product(7, 6)).abs() > 1e-3


def test_same_seed_same_weights() -> None:
    a, b, c = MoeModel(CPU_TINY, seed=3), MoeModel(CPU_TINY, seed=3), MoeModel(CPU_TINY, seed=4)
    assert torch.equal(a.head.weight, b.head.weight)
    assert not torch.equal(a.head.weight, c.head.weight)


@pytest.mark.parametrize(
    "shape",
    [LLAMA_3_1_8B, CPU_TINY.model_copy(update={"tied_embedding": True}), CPU_TINY.model_copy(update={"gated": False})],
    ids=["grouped-attention", "tied", "ungated"],
)
def test_other_families_are_refused(shape: ModelShape) -> None:
    with pytest.raises(InvalidValue, match=shape.name):
        MoeConfig.of(shape)


def test_the_full_model_is_of_this_family() -> None:
    assert MoeConfig.of(DEEPSEEK_V3).shared_dim == 2048
