"""BF16 over fp32 weights: with every layout and switch, near fp32, and where it must not reach."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tokenstone.model import CPU_TINY
from tokenstone.run import TrainingLayout
from workloads.device import Device
from workloads.moe.router import Router
from workloads.presets import training_spec
from workloads.recorder import TorchRecorder
from workloads.training.distributed import RankTrainer
from workloads.training.local import LocalTrainer

SHAPE = CPU_TINY.model_copy(update={"layers": 4, "name": "four layers"})
SPEC = training_spec("cpu-tiny").model_copy(update={"model": SHAPE, "batch_sequences": 4, "sequence_length": 32})
IDS = torch.randint(512, (4, 33), generator=torch.Generator().manual_seed(0))


def losses(trainer, steps: int = 4) -> list[float]:
    return [float(trainer.step(step, IDS[:, :-1], IDS[:, 1:])[0]) for step in range(steps)]


@pytest.fixture(scope="module")
def in_fp32(device: Device) -> list[float]:
    return losses(LocalTrainer(SPEC, device))


@pytest.mark.parametrize(
    "changes",
    [{}, {"linear_precision": "fp8"}, {"recompute": "cheap"}, {"recompute": "blocks", "prediction_depths": 1}],
    ids=["bf16", "with fp8", "cheap recompute", "recompute and prediction"],
)
def test_the_loss_follows_that_of_fp32_and_weights_stay_fp32(changes, device: Device, in_fp32) -> None:
    reference = losses(LocalTrainer(SPEC.model_copy(update=changes), device)) if changes else in_fp32
    trainer = LocalTrainer(SPEC.model_copy(update={"dtype": "bf16", **changes}), device)
    rounded = losses(trainer)
    assert rounded != reference
    assert rounded == pytest.approx(reference, rel=0.01)
    assert rounded[-1] < rounded[0]
    assert {tensor.dtype for tensor in trainer.saved_module.state_dict().values()} == {torch.float32}


def test_matrices_multiply_in_bf16_and_the_gate_in_fp32(device: Device) -> None:
    trainer = LocalTrainer(SPEC.model_copy(update={"dtype": "bf16"}), device)
    seen: dict[str, set[torch.dtype]] = {"linear": set(), "gate": set()}
    for module in trainer.model.modules():
        if isinstance(module, Router):
            module.register_forward_hook(lambda _m, _x, routing: seen["gate"].add(routing.weights_LK.dtype))
    linear = trainer.model.blocks[0].attention.output
    linear.register_forward_hook(lambda _m, _x, y: seen["linear"].add(y.dtype))
    losses(trainer, 1)
    assert seen == {"linear": {torch.bfloat16}, "gate": {torch.float32}}
    hidden = torch.randn(8, SHAPE.dim)
    router = trainer.model.routers()[0]
    exact = (hidden.double() @ router.weight_ED.double().t()).sigmoid()
    chosen = exact.gather(1, router(hidden).experts_LK)
    torch.testing.assert_close(
        router(hidden).weights_LK.double(), chosen / chosen.sum(dim=1, keepdim=True), rtol=1e-5, atol=1e-6
    )


def on_a_rank(layout: TrainingLayout, device: Device, dispatch: str) -> list[float]:
    spec = SPEC.model_copy(update={"dtype": "bf16", "layout": layout, "dispatch_precision": dispatch})
    assert dist.get_world_size() == layout.ranks
    trainer = RankTrainer(spec, device, TorchRecorder(device))
    try:
        return losses(trainer)
    finally:
        trainer.close()


@pytest.mark.parametrize(
    ("layout", "dispatch"),
    [
        (TrainingLayout(experts=2), "dtype"),
        (TrainingLayout(experts=2), "fp8"),
        (TrainingLayout(pipeline=2, micro_batches=2, schedule="ZBVZeroBubble"), "dtype"),
        (TrainingLayout(pipeline=2, micro_batches=4, schedule="DualPipeV"), "dtype"),
    ],
    ids=["experts", "fp8 dispatch", "zero bubble", "dualpipev"],
)
def test_every_layout_runs_in_bf16(run_ranks, device: Device, in_fp32, layout, dispatch) -> None:
    for found in run_ranks(layout.ranks, on_a_rank, layout, device, dispatch):
        assert found == pytest.approx(in_fp32, rel=0.02)
