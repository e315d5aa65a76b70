"""Redundant experts and their placement on devices: the idea of DeepSeek's expert parallelism load balancer (EPLB,
arXiv 2412.19437, section 3.4; github.com/deepseek-ai/EPLB), our own implementation.

There are more slots than experts. Experts that get most tokens are given to several slots, each of which serves an
even share, and slots are packed onto devices so that the busiest device has as little to do as can be managed.

global: replicate, then pack, over all devices.
hierarchical: first pack groups of experts onto nodes, then replicate and pack within each node. A token's experts
    are limited to a few groups, so that what it sends stays on as few nodes.

Packing takes the heaviest first and gives it to the lightest bin with room; replication gives each further slot to
the expert with the most load per replica. Both are greedy, so the result is compared with experts in plain order,
and the better of the two is taken: never worse than no balancing.

Shape suffixes: E experts, P physical slots, R most replicas of one expert, L tokens, K experts chosen per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenstone.errors import InvalidValue
from workloads.moe.router import Routing

Bins = list[list[int]]
_Pack = Callable[[Sequence[float], int], Bins]


@dataclass(frozen=True, slots=True)
class Placement:
    """Which expert each slot holds. Device d holds the slots from d · P / devices on."""

    logical_P: Tensor
    """The expert in each slot."""
    replicas_E: Tensor
    """Slots of each expert, at least 1."""
    slots_ER: Tensor
    """The slots of each expert; filled up with -1."""
    devices: int

    def slot_devices(self) -> Tensor:
        """The device of each slot, device_P."""
        slots = len(self.logical_P)
        return torch.arange(slots, device=self.logical_P.device) // (slots // self.devices)

    def device_load(self, load_E: Tensor) -> Tensor:
        """Load of each device, (devices,), when each expert's is shared evenly by its slots."""
        load_P = (load_E.double() / self.replicas_E)[self.logical_P]
        return load_P.view(self.devices, -1).sum(dim=1)

    def to(self, device: torch.device) -> Placement:
        """The same on another torch device."""
        return Placement(self.logical_P.to(device), self.replicas_E.to(device), self.slots_ER.to(device), self.devices)


def place(load_E: Tensor, slots: int, devices: int, *, nodes: int = 1, groups: int = 1) -> Placement:
    """Place `slots` replicas of the experts on `devices` for the load they had. `nodes` > 1 is hierarchical.

    Raises InvalidValue unless devices share the slots, nodes the devices and the groups, and groups the experts
    evenly, and there is a slot for every expert and a load to go by.
    """
    _require_possible(load_E, slots, devices, nodes, groups)
    load = load_E.tolist()
    candidates = [_place(load, slots, devices, nodes, groups, pack) for pack in (_in_order, _heaviest_first)]
    return min(candidates, key=lambda placement: float(placement.device_load(load_E).max()))


def add_replicas(load_E: Tensor, redundant: int, devices: int) -> Placement:
    """Leave experts in plain order on their devices, and place `redundant` more replicas beside them, evenly many each.

    For training, where an expert that moved would take its optimizer states along. Each further replica goes to the
    expert with the most load per replica, on the device with the least to do of those that have room and lack it.
    Raises InvalidValue as `place` does.
    """
    _require_possible(load_E, len(load_E) + redundant, devices, 1, 1)
    load, owned, room = load_E.tolist(), len(load_E) // devices, redundant // devices
    holders = [{expert // owned} for expert in range(len(load))]

    def work(device: int) -> float:
        return math.fsum(load[e] / len(holders[e]) for e in range(len(load)) if device in holders[e])

    def free(expert: int) -> list[int]:
        return [d for d in range(devices) if d not in holders[expert] and held(d) - owned < room]

    def held(device: int) -> int:
        return sum(device in of_expert for of_expert in holders)

    for _ in range(redundant):
        candidates = [e for e in range(len(load)) if free(e)]
        if not candidates:
            raise InvalidValue(
                f"{redundant} redundant experts beside {owned} a device", where="placement of experts",
                hint="give fewer: every device holds every expert before",
            )  # fmt: skip
        heaviest = max(candidates, key=lambda e: (load[e] / len(holders[e]), -e))
        holders[heaviest].add(min(free(heaviest), key=lambda d: (work(d), d)))
    own = [list(range(d * owned, (d + 1) * owned)) for d in range(devices)]
    copies = [[e for e in range(len(load)) if d in holders[e] and e not in own[d]] for d in range(devices)]
    return _placement([e for d in range(devices) for e in own[d] + copies[d]], len(load), devices)


def in_order(experts: int, slots: int, devices: int) -> Placement:
    """Experts in plain order, the first few twice where there are more slots: placement without a load."""
    return _placement(sorted(slot % experts for slot in range(slots)), experts, devices)


def expand(weights_EX: Tensor, placement: Placement) -> Tensor:
    """The experts' weights copied to their slots, weights_PX. The gradients of replicas add up."""
    return weights_EX.index_select(0, placement.logical_P)


def to_slots(routing: Routing, placement: Placement) -> Routing:
    """Send each choice of an expert to one of its slots, in turn. Weights stay; the load becomes that of slots."""
    chosen_P = routing.experts_LK.flatten()
    order_P = chosen_P.argsort(stable=True)
    sorted_P = chosen_P[order_P]
    first_E = routing.load_E.cumsum(0) - routing.load_E
    turn_P = torch.arange(len(chosen_P), device=chosen_P.device) - first_E[sorted_P]
    slot_P = torch.empty_like(chosen_P)
    slot_P[order_P] = placement.slots_ER[sorted_P, turn_P % placement.replicas_E[sorted_P]]
    load_P = torch.bincount(slot_P, minlength=len(placement.logical_P))
    return Routing(routing.weights_LK, slot_P.view_as(routing.experts_LK), load_P)


def replicate(load: Sequence[float], slots: int, devices: int) -> list[int]:
    """Replicas of each expert: one, and each further slot to the expert with the most load per replica.

    While others can be had, not to one that has a replica per device: the next would relieve none.
    """
    replicas = [1] * len(load)
    for _ in range(slots - len(load)):
        heaviest = max(range(len(load)), key=lambda e: (replicas[e] < devices, load[e] / replicas[e], -replicas[e]))
        replicas[heaviest] += 1
    return replicas


def _place(load: list[float], slots: int, devices: int, nodes: int, groups: int, pack: _Pack) -> Placement:
    size = len(load) // groups
    group_load = [sum(load[g * size : (g + 1) * size]) for g in range(groups)]
    logical: list[int] = []
    for groups_of_node in pack(group_load, nodes):
        experts = [e for g in groups_of_node for e in range(g * size, (g + 1) * size)]
        replicas = replicate([load[e] for e in experts], slots // nodes, devices // nodes)
        if pack is _in_order:
            replicas = torch.bincount(in_order(len(experts), slots // nodes, 1).logical_P).tolist()
        held = [e for e, count in zip(experts, replicas, strict=True) for _ in range(count)]
        share = [load[e] / count for e, count in zip(experts, replicas, strict=True) for _ in range(count)]
        logical += [held[i] for device in pack(share, devices // nodes) for i in device]
    return _placement(logical, len(load), devices)


def _heaviest_first(weights: Sequence[float], bins: int) -> Bins:
    """Equally many items in each bin: the heaviest left goes to the lightest bin with room."""
    room, total = len(weights) // bins, [0.0] * bins
    packed: Bins = [[] for _ in range(bins)]
    for item in sorted(range(len(weights)), key=lambda i: -weights[i]):
        lightest = min((b for b in range(bins) if len(packed[b]) < room), key=lambda b: total[b])
        packed[lightest].append(item)
        total[lightest] += weights[item]
    return packed


def _in_order(weights: Sequence[float], bins: int) -> Bins:
    room = len(weights) // bins
    return [list(range(b * room, (b + 1) * room)) for b in range(bins)]


def _placement(logical: list[int], experts: int, devices: int) -> Placement:
    slots_of: Bins = [[] for _ in range(experts)]
    for slot, expert in enumerate(logical):
        slots_of[expert].append(slot)
    most = max(len(slots) for slots in slots_of)
    return Placement(
        logical_P=torch.tensor(logical),
        replicas_E=torch.tensor([len(slots) for slots in slots_of]),
        slots_ER=torch.tensor([slots + [-1] * (most - len(slots)) for slots in slots_of]),
        devices=devices,
    )


def _require_possible(load_E: Tensor, slots: int, devices: int, nodes: int, groups: int) -> None:
    experts = len(load_E)
    problem = ""
    if min(slots, devices, nodes, groups) < 1:
        problem = "slots, devices, nodes and groups must be 1 or more"
    elif slots < experts:
        problem = f"{slots} slots do not hold {experts} experts"
    elif slots % devices or devices % nodes:
        problem = f"{slots} slots do not divide by {devices} devices, or these by {nodes} nodes"
    elif experts % groups or groups % nodes:
        problem = f"{experts} experts do not divide into {groups} groups, or these onto {nodes} nodes"
    elif not bool(torch.isfinite(load_E.double()).all()) or bool((load_E < 0).any()):
        problem = "a load below zero or not finite"
    if problem:
        raise InvalidValue(problem, where="placement of experts")
