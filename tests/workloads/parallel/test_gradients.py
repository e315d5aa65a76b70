"""Every schedule and layout gives the loss and the gradients of a single process with all the data."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenstone.model import Experts, LatentAttention, ModelShape
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction
from workloads.training.parallel.communication import CommunicationLog
from workloads.training.parallel.data_parallel import reduce_gradients, take_load
from workloads.training.parallel.exchange import AllToAll
from workloads.training.parallel.expert_parallel import shard_experts
from workloads.training.parallel.layout import Layout, make_groups
from workloads.training.parallel.pipeline import Pipeline, PipelinePlan
from workloads.training.recompute import Recompute, apply_recompute

SHAPE = ModelShape(
    name="tests", layers=5, dim=32, vocabulary=64, ffn_dim=48,
    attention=LatentAttention(heads=2, query_rank=16, kv_rank=16, nope_dim=8, rope_dim=4, value_dim=8),
    experts=Experts(routed=8, shared=1, active=2, dim=16, groups=4, active_groups=2, dense_layers=1),
)  # fmt: skip
SEQUENCES, LENGTH = 8, 12
"""Of one data-parallel rank."""
TOLERANCE = 1e-6
"""Relative, of each parameter's gradient."""


def _batch(data_ranks: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(SHAPE.vocabulary, (data_ranks * SEQUENCES, LENGTH + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def _model(favour_first_expert: bool = False, layers: int = SHAPE.layers) -> MoeModel:
    model = MoeModel(SHAPE.model_copy(update={"layers": layers}), seed=3)
    if favour_first_expert:  # every token chooses experts 0 and 1, of the first rank
        for router in model.routers():
            router.bias_E[:2] = 100.0
    return model


Result = tuple[float | None, dict[str, Tensor], dict[int, Tensor]]
"""Loss, gradients by name, tokens that each expert had by layer."""


def _prediction(depths: int) -> MultiTokenPrediction | None:
    return MultiTokenPrediction(SHAPE, depths=depths, seed=4) if depths else None


@functools.cache
def _oracle(
    data_ranks: int, favour_first_expert: bool = False, layers: int = SHAPE.layers, depths: int = 0
) -> tuple[float, dict[str, Tensor], Tensor]:
    model = _model(favour_first_expert, layers)
    ids_BT, targets_BT = _batch(data_ranks)
    hidden_BTD = model.hidden(ids_BT)
    loss = F.cross_entropy(model.head(hidden_BTD).flatten(0, 1), targets_BT.flatten())
    gradients, load = {}, []
    if (prediction := _prediction(depths)) is not None:
        (loss + prediction.loss(hidden_BTD, ids_BT, model.embedding, model.head)).backward()
        gradients = {f"prediction.{name}": p.grad for name, p in prediction.named_parameters() if p.grad is not None}
        load = [router.take_load() for router in prediction.routers()]
    else:
        loss.backward()
    gradients |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients, torch.stack([*model.take_load(), *load])


def _expert_parallel(layout: Layout, favour_first_expert: bool) -> tuple[float, dict[str, Tensor], Tensor]:
    groups = make_groups(layout, deadline_seconds=30)
    log = CommunicationLog()
    model = _model(favour_first_expert)
    shard_experts(model, AllToAll(groups.experts_forward, groups.experts_backward, log), groups.experts_forward)
    ids_BT, targets_BT = (x.chunk(layout.data)[groups.data_rank] for x in _batch(layout.data))
    loss = F.cross_entropy(model(ids_BT).flatten(0, 1), targets_BT.flatten())
    loss.backward()
    reduce_gradients(model, groups, log)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients, take_load(model, groups, log)


def _assert_same(gradients: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        error = (gradient - expected[name]).norm() / expected[name].norm().clamp(min=1e-12)
        assert error <= TOLERANCE, f"{name}: relative error {error:.1e}"


def _join_experts(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One expert-parallel group's gradients as those of the whole model; what is replicated has to be equal."""
    whole = {}
    for name, gradient in parts[0].items():
        if ".routed." in name:
            whole[name] = torch.cat([part[name] for part in parts])
        else:
            assert all(torch.equal(part[name], gradient) for part in parts)
            whole[name] = gradient
    return whole


@pytest.mark.parametrize(
    "layout",
    [Layout(experts=2), Layout(experts=4), Layout(replicas=2, experts=2), Layout(replicas=2)],
    ids=["EP2", "EP4", "DP2xEP2", "DP2"],
)
@pytest.mark.parametrize("favour_first_expert", [False, True], ids=["", "ranks without tokens"])
def test_expert_parallel(run_ranks, layout: Layout, favour_first_expert: bool) -> None:  # type: ignore[no-untyped-def]
    results = run_ranks(layout.size, _expert_parallel, layout, favour_first_expert)
    loss, gradients, load = _oracle(layout.data, favour_first_expert)
    if favour_first_expert:
        assert int(load[:, 2:].sum()) == 0
    assert sum(result[0] for result in results) / layout.size == pytest.approx(loss, rel=1e-6)
    for begin in range(0, layout.size, layout.experts):
        parts = [result[1] for result in results[begin : begin + layout.experts]]
        _assert_same(_join_experts(parts), gradients)
    assert all(torch.equal(result[2], load) for result in results)


def _layers(layout: Layout) -> int:
    """Enough for two stages a rank, and not always the same number in each."""
    return max(SHAPE.layers, 2 * layout.pipeline)


def _pipeline(
    layout: Layout, plan: PipelinePlan, how: Recompute = Recompute.NONE, depths: int = 0
) -> tuple[Result, float]:
    groups = make_groups(layout, deadline_seconds=30)
    log = CommunicationLog()
    batch = [x.chunk(layout.data)[groups.data_rank] for x in _batch(layout.data)]
    model = _model(layers=_layers(layout))
    apply_recompute(model.blocks, how)
    with Pipeline(model, groups, torch.device("cpu"), plan, log, prediction=_prediction(depths)) as pipeline:
        for _ in range(2):  # the second step has to be like the first
            pipeline.stages.zero_grad()
            loss = pipeline.step(*batch)
        gradients = {
            name.replace("_checkpoint_wrapped_module.", ""): p.grad.clone()
            for stage in pipeline.stages
            for name, p in stage.named_parameters()
            if p.grad is not None
        }
        norm = pipeline.clip_gradients(1.0)
        names = [name.split(".") for name, _ in pipeline.stages.named_modules() if name.endswith("router")]
        layers = [int(name[2]) if name[1] == "blocks" else _layers(layout) + int(name[3]) for name in names]
        load = dict(zip(layers, take_load(pipeline.stages, groups, log), strict=True))
    return (None if loss is None else float(loss), gradients, load), float(norm)


@pytest.mark.parametrize("layout", [Layout(pipeline=2), Layout(pipeline=2, experts=2)], ids=["PP2", "PP2xEP2"])
@pytest.mark.parametrize(
    ("schedule", "micro_batches", "overlap"),
    [
        ("1F1B", 4, True),
        ("1F1B", 1, True),
        ("Interleaved1F1B", 4, True),
        ("ZBVZeroBubble", 4, True),
        ("ZBVZeroBubble", 2, True),
        ("DualPipeV", 8, False),
        ("DualPipeV", 8, True),
        ("DualPipeV", 4, True),
    ],
)
def test_pipeline(run_ranks, layout: Layout, schedule: str, micro_batches: int, overlap: bool) -> None:  # type: ignore[no-untyped-def]
    plan = PipelinePlan(schedule, micro_batches, SEQUENCES, LENGTH, overlap=overlap)
    _assert_like_one_process(run_ranks(layout.size, _pipeline, layout, plan), layout)


@pytest.mark.parametrize(("schedule", "micro_batches"), [("1F1B", 8), ("ZBVZeroBubble", 8), ("DualPipeV", 8)])
def test_pipeline_of_four(run_ranks, schedule: str, micro_batches: int) -> None:  # type: ignore[no-untyped-def]
    layout = Layout(pipeline=4)
    plan = PipelinePlan(schedule, micro_batches, SEQUENCES, LENGTH)
    _assert_like_one_process(run_ranks(layout.size, _pipeline, layout, plan), layout)


@pytest.mark.parametrize(("schedule", "micro_batches"), [("1F1B", 2), ("DualPipeV", 4)])
def test_pipeline_of_one(run_ranks, schedule: str, micro_batches: int) -> None:  # type: ignore[no-untyped-def]
    layout = Layout(replicas=2, experts=2)
    plan = PipelinePlan(schedule, micro_batches, SEQUENCES, LENGTH)
    _assert_like_one_process(run_ranks(layout.size, _pipeline, layout, plan), layout)


@pytest.mark.parametrize(("schedule", "micro_batches"), [("1F1B", 2), ("ZBVZeroBubble", 4), ("DualPipeV", 8)])
def test_pipeline_that_recomputes(run_ranks, schedule: str, micro_batches: int) -> None:  # type: ignore[no-untyped-def]
    layout = Layout(pipeline=2, experts=2)
    plan = PipelinePlan(schedule, micro_batches, SEQUENCES, LENGTH)
    _assert_like_one_process(run_ranks(layout.size, _pipeline, layout, plan, Recompute.BLOCKS), layout)


@pytest.mark.parametrize(
    ("layout", "schedule", "micro_batches", "depths"),
    [
        (Layout(experts=2), "1F1B", 1, 1),
        (Layout(pipeline=2), "1F1B", 4, 2),
        (Layout(pipeline=2), "Interleaved1F1B", 4, 1),
        (Layout(pipeline=2, experts=2), "1F1B", 2, 1),
        (Layout(pipeline=2, experts=2), "ZBVZeroBubble", 4, 1),
        (Layout(pipeline=2, experts=2), "DualPipeV", 8, 2),
        (Layout(pipeline=4), "1F1B", 8, 1),
        (Layout(pipeline=4), "DualPipeV", 8, 1),
    ],
)
def test_multi_token_prediction(run_ranks, layout: Layout, schedule: str, micro_batches: int, depths: int) -> None:  # type: ignore[no-untyped-def]
    plan = PipelinePlan(schedule, micro_batches, SEQUENCES, LENGTH)
    results = run_ranks(layout.size, _pipeline, layout, plan, Recompute.NONE, depths)
    _assert_like_one_process(results, layout, depths)
    held = [name for result, _ in results for name in result[1] if name.startswith("prediction.")]
    assert len(held) == layout.data * depths * 18  # on the rank of the last stage alone


def _assert_like_one_process(results: list[tuple[Result, float]], layout: Layout, depths: int = 0) -> None:
    loss, gradients, load = _oracle(layout.data, layers=_layers(layout), depths=depths)
    losses = [result[0] for result, _ in results if result[0] is not None]
    assert len(losses) == layout.data
    assert sum(losses) / len(losses) == pytest.approx(loss, rel=1e-6)
    whole: dict[str, Tensor] = {}
    for begin in range(0, layout.size, layout.data):
        whole |= _join_experts([result[1] for result, _ in results[begin : begin + layout.experts]])
    _assert_same(whole, gradients)
    counted = {layer: part for result, _ in results for layer, part in result[2].items()}
    assert sorted(counted) == list(range(1, _layers(layout) + depths))  # layer 0 is dense
    assert all(torch.equal(part, 2 * load[layer - 1]) for layer, part in counted.items())  # of two steps
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert all(value == pytest.approx(float(norm), rel=1e-5) for _, value in results)
