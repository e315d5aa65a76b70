"""Redundant experts: placements hold what they must, are near the best there is, and do not change the model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tokenstone.errors import InvalidValue
from tokenstone.model import CPU_TINY
from workloads.moe.config import MoeConfig
from workloads.moe.experts import RoutedExperts
from workloads.moe.model import MoeModel
from workloads.moe.router import Routing
from workloads.training.eplb import Placement, expand, in_order, place, to_slots


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, int, int, int, int]:
    """(load_E, slots, devices, nodes, groups) that can be placed."""
    nodes = draw(st.integers(1, 3))
    devices = nodes * draw(st.integers(1, 3))
    groups = nodes * draw(st.integers(1, 3))
    experts = groups * draw(st.integers(1, 4))
    least = -(-experts // devices)
    slots = devices * draw(st.integers(least, least + 3))
    load = draw(st.lists(st.integers(0, 1000), min_size=experts, max_size=experts))
    return torch.tensor(load), slots, devices, nodes, groups


@settings(deadline=None, max_examples=200)
@given(case=cases())
def test_every_placement_is_whole_and_never_worse_than_plain_order(case: tuple[Tensor, int, int, int, int]) -> None:
    load_E, slots, devices, nodes, groups = case
    placement = place(load_E, slots, devices, nodes=nodes, groups=groups)
    assert len(placement.logical_P) == slots
    assert torch.equal(placement.replicas_E, torch.bincount(placement.logical_P, minlength=len(load_E)))
    assert placement.replicas_E.min() >= 1
    assert torch.bincount(placement.slot_devices(), minlength=devices).tolist() == [slots // devices] * devices
    for expert, slots_of in enumerate(placement.slots_ER.tolist()):
        held = [slot for slot in slots_of if slot >= 0]
        assert len(held) == placement.replicas_E[expert]
        assert (placement.logical_P[held] == expert).all()
    load = placement.device_load(load_E)
    assert float(load.sum()) == pytest.approx(float(load_E.sum()))
    if nodes == 1:
        assert load.max() <= in_order(len(load_E), slots, devices).device_load(load_E).max() + 1e-9


@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_hierarchical_placement_keeps_each_group_on_one_node(case: tuple[Tensor, int, int, int, int]) -> None:
    load_E, slots, devices, nodes, groups = case
    placement = place(load_E, slots, devices, nodes=nodes, groups=groups)
    node_P = placement.slot_devices() // (devices // nodes)
    group_P = placement.logical_P // (len(load_E) // groups)
    for group in range(groups):
        assert len(set(node_P[group_P == group].tolist())) == 1


def packings(shares: list[float], bins: int) -> Iterator[float]:
    """The busiest bin's load of each way to share out equally many items."""
    if bins == 1:
        yield sum(shares)
        return
    for others in itertools.combinations(range(1, len(shares)), len(shares) // bins - 1):
        mine = shares[0] + sum(shares[i] for i in others)
        left = [share for i, share in enumerate(shares) if i and i not in others]
        yield from (max(mine, rest) for rest in packings(left, bins - 1))


def optimum(load: tuple[int, ...], slots: int, devices: int) -> float:
    best = float("inf")
    for extra in itertools.combinations_with_replacement(range(len(load)), slots - len(load)):
        replicas = [1 + extra.count(expert) for expert in range(len(load))]
        shares = [load[e] / count for e, count in enumerate(replicas) for _ in range(count)]
        best = min(best, *packings(shares, devices))
    return best


@pytest.mark.parametrize(
    ("experts", "slots", "devices", "largest", "factor"),
    [
        (4, 4, 2, 9, 1.0),
        (4, 8, 2, 5, 1.0),
        (3, 4, 2, 9, 1.2),
        (5, 6, 3, 5, 1.25),
        (4, 6, 3, 7, 4 / 3),
        (5, 8, 4, 4, 1.5),
    ],
)
def test_the_busiest_device_is_near_the_optimum_of_every_small_case(
    experts: int, slots: int, devices: int, largest: int, factor: float
) -> None:
    for load in itertools.combinations_with_replacement(range(largest + 1), experts):
        busiest = place(torch.tensor(load), slots, devices).device_load(torch.tensor(load)).max()
        assert float(busiest) <= factor * optimum(load, slots, devices) + 1e-9, load


def test_replication_evens_out_what_no_order_of_experts_can() -> None:
    load_E = torch.tensor([700] + [100] * 7)
    assert in_order(8, 8, 4).device_load(load_E).max() == 800
    assert place(load_E, 8, 4).device_load(load_E).max() == 800
    assert place(load_E, 12, 4).device_load(load_E).max() <= 400  # the mean is 350


class PlacedExperts(nn.Module):
    """A layer's experts in slots."""

    def __init__(self, config: MoeConfig, experts: RoutedExperts, placement: Placement) -> None:
        super().__init__()
        self.experts, self.placement = experts, placement
        shape = config.experts.model_copy(update={"routed": len(placement.logical_P)})
        self.slots = RoutedExperts(dataclasses.replace(config, experts=shape))

    def forward(self, x_LD: Tensor, routing: Routing) -> Tensor:
        weights = {name: expand(weight, self.placement) for name, weight in self.experts.named_parameters()}
        y_LD: Tensor = torch.func.functional_call(self.slots, weights, (x_LD, to_slots(routing, self.placement)))
        return y_LD


def test_the_model_with_redundant_experts_computes_the_same() -> None:
    ids = torch.randint(CPU_TINY.vocabulary, (2, 32), generator=torch.Generator().manual_seed(0))
    plain, placed = MoeModel(CPU_TINY, seed=1), MoeModel(CPU_TINY, seed=1)
    expected = plain(ids)
    expected.square().mean().backward()
    experts = [block.ffn.routed for block in placed.blocks]
    for block, load_E in zip(placed.blocks, plain.take_load(), strict=True):
        placement = place(load_E, 24, 4, nodes=2, groups=4)
        assert placement.replicas_E.max() > 1
        block.ffn.routed = PlacedExperts(placed.config, block.ffn.routed, placement)
    logits = placed(ids)
    logits.square().mean().backward()
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    for block, layer_experts in zip(plain.blocks, experts, strict=True):
        torch.testing.assert_close(layer_experts.gate_up_EDF.grad, block.ffn.routed.gate_up_EDF.grad)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), tokens=st.integers(1, 40))
def test_replicas_take_turns(seed: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    experts_LK = torch.rand(tokens, 8, generator=generator).topk(2).indices
    load_E = torch.bincount(experts_LK.flatten(), minlength=8)
    placement = place(load_E, 12, 4)
    routed = to_slots(Routing(torch.rand(tokens, 2), experts_LK, load_E), placement)
    assert torch.equal(placement.logical_P[routed.experts_LK], experts_LK)
    assert torch.equal(routed.load_E, torch.bincount(routed.experts_LK.flatten(), minlength=12))
    for slots_of in placement.slots_ER.tolist():
        shares = [int(routed.load_E[slot]) for slot in slots_of if slot >= 0]
        assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    ("slots", "devices", "nodes", "groups", "said"),
    [
        (7, 1, 1, 1, "7 slots do not hold 8"), (9, 2, 1, 1, "do not divide by 2 devices"),
        (12, 4, 3, 3, "by 3 nodes"), (8, 2, 1, 3, "into 3 groups"), (8, 2, 2, 1, "onto 2 nodes"),
        (8, 0, 1, 1, "1 or more"),
    ],
)  # fmt: skip
def test_impossible_placements_are_refused(slots: int, devices: int, nodes: int, groups: int, said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        place(torch.ones(8), slots, devices, nodes=nodes, groups=groups)


@pytest.mark.parametrize("load", [[-1.0, 2.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_a_load_that_is_none_is_refused(load: list[float]) -> None:
    with pytest.raises(InvalidValue, match="load"):
        place(torch.tensor(load), 2, 2)
