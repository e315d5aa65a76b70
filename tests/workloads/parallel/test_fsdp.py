"""FSDP: the gradients of one process, with each rank holding a part of the weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from tokenstone.errors import InvalidValue
from tokenstone.model import CPU_TINY
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction
from workloads.training.parallel.communication import CommunicationLog
from workloads.training.parallel.fsdp import local, whole
from workloads.training.parallel.layout import Layout, make_groups
from workloads.training.parallel.pipeline import Pipeline, PipelinePlan

SHAPE = CPU_TINY.model_copy(update={"layers": 3})
SEQUENCES, LENGTH = 2, 16


def _batch(data_ranks: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(SHAPE.vocabulary, (data_ranks * SEQUENCES, LENGTH + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def _train(layout: Layout, depths: int) -> tuple[float, dict[str, Tensor], float, int]:
    """Loss, whole gradients, norm, and how many numbers this rank holds."""
    groups = make_groups(layout, deadline_seconds=30)
    plan = PipelinePlan("1F1B", 1, SEQUENCES, LENGTH, fsdp=True)
    batch = [x.chunk(layout.data)[groups.data_rank] for x in _batch(layout.data)]
    prediction = MultiTokenPrediction(SHAPE, depths=depths, seed=4) if depths else None
    model = MoeModel(SHAPE, seed=3)
    with Pipeline(model, groups, torch.device("cpu"), plan, CommunicationLog(), prediction=prediction) as pipeline:
        for _ in range(2):  # the second step has to be like the first
            pipeline.stages.zero_grad()
            loss = pipeline.step(*batch)
        parameters = {name: p for stage in pipeline.stages for name, p in stage.named_parameters()}
        gradients = {name: whole(p.grad).clone() for name, p in parameters.items() if p.grad is not None}
        norm = pipeline.clip_gradients(1e-3)
    assert loss is not None
    assert isinstance(parameters["head.weight"], DTensor)
    return float(loss), gradients, float(norm), sum(local(p).numel() for p in parameters.values())


@pytest.mark.parametrize(
    ("layout", "depths"),
    [(Layout(replicas=2), 0), (Layout(experts=2), 1), (Layout(experts=4), 0), (Layout(replicas=2, experts=2), 1)],
)
def test_gradients_are_those_of_one_process(run_ranks, layout: Layout, depths: int) -> None:  # type: ignore[no-untyped-def]
    results = run_ranks(layout.size, _train, layout, depths)
    model = MoeModel(SHAPE, seed=3)
    ids_BT, targets_BT = _batch(layout.data)
    hidden_BTD = model.hidden(ids_BT)
    loss = F.cross_entropy(model.head(hidden_BTD).flatten(0, 1), targets_BT.flatten())
    expected = dict(model.named_parameters())
    total = loss
    if depths:
        prediction = MultiTokenPrediction(SHAPE, depths=depths, seed=4)
        expected |= {f"prediction.{name}": p for name, p in prediction.named_parameters()}
        total = loss + prediction.loss(hidden_BTD, ids_BT, model.embedding, model.head)
    total.backward()
    loss = loss.detach()
    assert sum(result[0] for result in results) / layout.size == pytest.approx(float(loss), rel=1e-6)
    for name, parameter in expected.items():
        parts = [gradients[name] for _, gradients, _, _ in results[: layout.experts]]
        found = torch.cat(parts) if ".routed." in name else parts[0]
        assert parameter.grad is not None
        error = (found - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-12)
        assert error <= 2e-6, f"{name}: relative error {error:.1e}"
    norm = torch.stack([p.grad.norm() for p in expected.values() if p.grad is not None]).norm()
    assert all(result[2] == pytest.approx(float(norm), rel=1e-5) for result in results)
    held = sum(p.numel() for p in expected.values())
    assert all(result[3] < 1.05 * held / layout.data for result in results)  # ddp would hold all but the experts


def _refused(plan: PipelinePlan) -> None:
    groups = make_groups(Layout(pipeline=2), deadline_seconds=30)
    Pipeline(MoeModel(SHAPE), groups, torch.device("cpu"), plan, CommunicationLog()).close()


def test_pipelines_are_refused(run_ranks) -> None:  # type: ignore[no-untyped-def]
    plan = PipelinePlan("1F1B", 2, SEQUENCES, LENGTH, fsdp=True)
    errors = run_ranks(2, _refused, plan, return_errors=True)
    assert all(isinstance(error, InvalidValue) and "fsdp with 2 pipeline ranks" in error.what for error in errors)
