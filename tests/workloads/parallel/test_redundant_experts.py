"""Redundant experts: the same training as without, with the ranks more evenly loaded."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenstone.errors import InvalidValue
from tokenstone.model import CPU_TINY
from workloads.moe.model import MoeModel
from workloads.training.eplb import add_replicas
from workloads.training.parallel.communication import CommunicationLog
from workloads.training.parallel.layout import Layout, make_groups
from workloads.training.parallel.pipeline import Pipeline, PipelinePlan
from workloads.training.parallel.redundant_experts import ReplicatedExperts, place_by_load

SHAPE = CPU_TINY.model_copy(update={"layers": 4})
SEQUENCES, LENGTH = 4, 16


def _model() -> MoeModel:
    model = MoeModel(SHAPE, seed=3)
    for router in model.routers():  # the first rank's experts are wanted most
        router.bias_E[:3] = torch.tensor([0.5, 0.3, 0.2])
    return model


def _batch(data_ranks: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(SHAPE.vocabulary, (data_ranks * SEQUENCES, LENGTH + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def _train(layout: Layout, schedule: str, redundant: int) -> tuple[dict[str, Tensor], list[int], int]:
    """Gradients of the second step, placed by the load of the first; rows that our slots had, and copies held."""
    groups = make_groups(layout, deadline_seconds=30)
    plan = PipelinePlan(schedule, 4 if layout.pipeline > 1 else 1, SEQUENCES, LENGTH, redundant_experts=redundant)
    batch = [x.chunk(layout.data)[groups.data_rank] for x in _batch(layout.data)]
    rows: list[int] = []
    with Pipeline(_model(), groups, torch.device("cpu"), plan, CommunicationLog()) as pipeline:
        pipeline.step(*batch)
        load = torch.stack([m.load_E.clone() for m in pipeline.stages.modules() if hasattr(m, "load_E")])
        torch.distributed.all_reduce(load, group=groups.data)
        place_by_load(pipeline.stages, load)
        pipeline.stages.zero_grad()
        experts = [m for m in pipeline.stages.modules() if isinstance(m, ReplicatedExperts)]
        if experts:
            exchange, plan_rows = experts[0].exchange, experts[0].exchange.plan
            exchange.plan = lambda load_E, direction: _counted(plan_rows(load_E, direction), rows)  # type: ignore
        pipeline.step(*batch)
        gradients = {n: p.grad for stage in pipeline.stages for n, p in stage.named_parameters() if p.grad is not None}
    return gradients, rows, sum(int(m.placement.replicas_E.sum()) - SHAPE.experts.routed for m in experts)


def _counted(plan, rows: list[int]):  # type: ignore[no-untyped-def]
    rows.append(int(plan.load_e.sum()))
    return plan


@pytest.mark.parametrize(
    ("layout", "schedule", "redundant"),
    [
        (Layout(experts=2), "1F1B", 2),
        (Layout(experts=4), "1F1B", 8),
        (Layout(replicas=2, experts=2), "1F1B", 2),
        (Layout(pipeline=2, experts=2), "ZBVZeroBubble", 2),
        (Layout(pipeline=2, experts=2), "DualPipeV", 2),
    ],
)
def test_gradients_are_those_of_one_process(run_ranks, layout: Layout, schedule: str, redundant: int) -> None:  # type: ignore[no-untyped-def]
    results = run_ranks(layout.size, _train, layout, schedule, redundant)
    assert all(copies for _, _, copies in results)
    model = _model()
    ids_BT, targets_BT = _batch(layout.data)
    F.cross_entropy(model(ids_BT).flatten(0, 1), targets_BT.flatten()).backward()
    parts: dict[str, dict[int, Tensor]] = {}
    for rank, (gradients, _, _) in enumerate(results):
        for name, gradient in gradients.items():
            parts.setdefault(name, {})[rank % layout.experts] = gradient
    for name, parameter in model.named_parameters():
        found = torch.cat(list(parts[name].values())) if ".routed." in name else parts[name][0]
        assert parameter.grad is not None
        error = (found - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-12)
        assert error <= 2e-6, f"{name}: relative error {error:.1e}"


def test_copies_even_out_what_the_ranks_do(run_ranks) -> None:  # type: ignore[no-untyped-def]
    """Switched off, the first rank has nearly all rows; with copies of its experts the other takes a share."""

    def busiest(redundant: int) -> float:
        results = run_ranks(2, _train, Layout(experts=2), "1F1B", redundant)
        load = torch.tensor([rows for _, rows, _ in results], dtype=torch.float64)
        return float((load.max(dim=0).values / load.mean(dim=0)).mean())

    plain = _model()
    plain(_batch(2)[0])
    halves = plain.take_load().view(SHAPE.layers, 2, -1).sum(dim=2).double()
    unplaced = float((halves.max(dim=1).values / halves.mean(dim=1)).mean())
    assert unplaced > 1.4
    assert busiest(6) < 1.15


def _refused(layout: Layout, redundant: int) -> None:
    groups = make_groups(layout, deadline_seconds=30)
    plan = PipelinePlan("1F1B", 1, SEQUENCES, LENGTH, redundant_experts=redundant)
    Pipeline(_model(), groups, torch.device("cpu"), plan, CommunicationLog()).close()


@pytest.mark.parametrize(
    ("layout", "redundant", "says"),
    [
        (Layout(experts=2), 3, "do not divide"),
        (Layout(replicas=2), 2, "one rank holds all"),
        (Layout(experts=2), 40, "40 redundant experts beside"),
    ],
)
def test_impossible_numbers_are_refused(run_ranks, layout: Layout, redundant: int, says: str) -> None:  # type: ignore[no-untyped-def]
    errors = run_ranks(2, _refused, layout, redundant, return_errors=True)
    assert all(isinstance(error, InvalidValue) and says in error.what for error in errors), errors


@settings(deadline=None, max_examples=50)
@given(load=st.lists(st.integers(0, 100), min_size=8, max_size=8), each=st.integers(1, 6))
def test_copies_stand_beside_the_experts_of_each_device(load: list[int], each: int) -> None:
    """Six of the eight experts are elsewhere: as many copies fit on each of four devices."""
    load_E = torch.tensor(load)
    placement = add_replicas(load_E, 4 * each, 4)
    assert float(placement.device_load(load_E).sum()) == pytest.approx(sum(load))
    for device, slots in enumerate(placement.logical_P.view(4, -1).tolist()):
        assert slots[:2] == [2 * device, 2 * device + 1]
        assert len(set(slots)) == len(slots)


def test_copies_go_where_the_load_is() -> None:
    load_E = torch.tensor([90, 10, 10, 10, 10, 10, 10, 10])
    placement = add_replicas(load_E, 4, 4)
    assert placement.replicas_E.argmax() == 0
    assert placement.device_load(load_E).max() <= 50  # of 100 before, and 40 at best
