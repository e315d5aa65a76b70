"""Saving and resuming a training: bit for bit, and never worse off than before."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tokenstone.errors import Conflict, InvalidFile, InvalidValue, NotWritable
from tokenstone.run import TrainingSpec
from workloads.device import Device
from workloads.presets import training_spec
from workloads.training.checkpointing import Position, TrainingCheckpoints
from workloads.training.data import Batches
from workloads.training.local import LocalTrainer


@pytest.fixture(scope="module")
def spec() -> TrainingSpec:
    return training_spec("cpu-tiny")


class Training:
    """A few steps of the real trainer on random tokens, with a loss that also draws random numbers."""

    def __init__(self, spec: TrainingSpec, device: Device, checkpoints: TrainingCheckpoints, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.spec, self.device, self.checkpoints = spec, device, checkpoints
        self.trainer = LocalTrainer(spec, device)
        tokens = torch.randint(512, (5000,), generator=torch.Generator().manual_seed(1))
        self.batches = Batches(tokens, 2, 32, seed=0)
        self.at = Position(0, 0)
        self.losses: list[float] = []

    def run(self, steps: int) -> None:
        for _ in range(steps):
            inputs, targets = self.batches.at(self.at.data_step, self.device)
            changed = torch.where(torch.rand(inputs.shape) < 0.1, 0, inputs)
            self.losses.append(float(self.trainer.step(self.at.step, changed, targets)[0]))
            self.at = Position(self.at.step + 1, self.at.data_step + 1)

    def save(self) -> None:
        self.checkpoints.save(self.trainer.model, self.trainer.optimizer, self.at)

    def restore(self) -> Position | None:
        position = self.checkpoints.restore(self.trainer.model, self.trainer.optimizer)
        self.at = position or self.at
        return position

    def weights(self) -> list[torch.Tensor]:
        return [tensor.clone() for tensor in self.trainer.model.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def checkpoints(tmp_path: Path, spec: TrainingSpec) -> TrainingCheckpoints:
    return TrainingCheckpoints(tmp_path / "run", spec_id=spec.spec_id)


def test_six_steps_are_three_steps_a_restart_and_three_steps_bit_for_bit(
    spec: TrainingSpec, device: Device, checkpoints: TrainingCheckpoints
) -> None:
    straight = Training(spec, device, checkpoints)
    straight.run(6)
    before = Training(spec, device, checkpoints)
    before.run(3)
    before.save()
    before.checkpoints.wait()
    after = Training(spec.model_copy(update={"seed": 9}), device, checkpoints, seed=9)
    assert not same(after.weights(), before.weights())
    assert after.restore() == Position(3, 3)
    after.run(3)
    assert before.losses + after.losses == straight.losses
    assert same(after.weights(), straight.weights())
    assert any(router.bias_E.any() for router in after.trainer.model.routers())
    moments = [training.trainer.optimizer.state_dict()["state"] for training in (after, straight)]
    for mine, expected in zip(moments[0].values(), moments[1].values(), strict=True):
        assert torch.equal(mine["exp_avg_sq"], expected["exp_avg_sq"])
        assert mine["step"] == expected["step"] == 6


def test_training_goes_on_while_the_state_of_then_is_written(
    spec: TrainingSpec, device: Device, checkpoints: TrainingCheckpoints
) -> None:
    training = Training(spec, device, checkpoints)
    training.run(1)
    then = training.weights()
    training.save()
    training.run(2)
    checkpoints.wait()
    restored = Training(spec, device, checkpoints)
    assert restored.restore() == Position(1, 1)
    assert same(restored.weights(), then)


def test_the_last_ones_stay_and_the_latest_is_resumed(spec: TrainingSpec, device: Device, tmp_path: Path) -> None:
    training = Training(spec, device, TrainingCheckpoints(tmp_path, spec_id=spec.spec_id, keep=2))
    for _ in range(4):
        training.run(1)
        training.save()
    training.checkpoints.wait()
    assert names(tmp_path) == ["latest", "step-00000003", "step-00000004"]
    training.save()  # the same step again
    training.checkpoints.wait()
    assert names(tmp_path) == ["latest", "step-00000003", "step-00000004"]
    (tmp_path / "latest").write_text("step-00000003")  # going back is a matter of one line
    assert training.restore() == Position(3, 3)
    training.run(1)
    training.save()
    training.checkpoints.wait()
    assert (tmp_path / "latest").read_text() == "step-00000004"
    assert training.restore() == Position(4, 4)


def test_before_the_first_update_there_is_nothing_to_save(
    spec: TrainingSpec, device: Device, checkpoints: TrainingCheckpoints
) -> None:
    training = Training(spec, device, checkpoints)
    with pytest.raises(InvalidValue, match="first update"):
        training.save()
    training.run(1)
    training.save()
    checkpoints.wait()


def test_what_a_killed_run_has_begun_is_removed_and_not_resumed(
    spec: TrainingSpec, device: Device, checkpoints: TrainingCheckpoints
) -> None:
    assert Training(spec, device, checkpoints).restore() is None
    training = Training(spec, device, checkpoints)
    training.run(1)
    training.save()
    checkpoints.wait()
    begun = checkpoints.folder / ".step-00000002"
    begun.mkdir()
    (begun / "__0_0.distcp").write_bytes(b"half")
    again = TrainingCheckpoints(checkpoints.folder, spec_id=spec.spec_id)
    assert names(checkpoints.folder) == ["latest", "step-00000001"]
    assert Training(spec, device, again).restore() == Position(1, 1)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk with so much room: writing fails in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_clear_error_and_leaves_the_old_checkpoint(
    spec: TrainingSpec, device: Device, checkpoints: TrainingCheckpoints
) -> None:
    training = Training(spec, device, checkpoints)
    training.run(1)
    training.save()
    checkpoints.wait()
    then = training.weights()
    training.run(1)
    with files_of_at_most(500_000):
        training.save()
        with pytest.raises(NotWritable, match=r"cannot save.*(too large|writing)"):
            checkpoints.wait()
    assert names(checkpoints.folder) == ["latest", "step-00000001"]
    assert training.restore() == Position(1, 1)
    assert same(training.weights(), then)
    training.run(1)
    training.save()  # and goes on once there is room
    checkpoints.wait()
    assert (checkpoints.folder / "latest").read_text() == "step-00000002"


def test_a_folder_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotWritable, match="file"):
        TrainingCheckpoints(tmp_path / "file" / "run", spec_id="x")
    with pytest.raises(InvalidValue, match="keep"):
        TrainingCheckpoints(tmp_path, spec_id="x", keep=0)


def test_another_training_s_and_a_damaged_checkpoint_are_refused(
    spec: TrainingSpec, device: Device, checkpoints: TrainingCheckpoints
) -> None:
    training = Training(spec, device, checkpoints)
    training.run(1)
    training.save()
    checkpoints.wait()
    folder = checkpoints.folder
    training.checkpoints = TrainingCheckpoints(folder, spec_id="other")
    with pytest.raises(Conflict, match="other"):
        training.restore()
    training.checkpoints = TrainingCheckpoints(folder, spec_id=spec.spec_id, shard_of=lambda _: "stage1")
    with pytest.raises(InvalidFile, match="stage1"):
        training.restore()
    training.checkpoints = checkpoints
    (folder / "step-00000001" / "__0_0.distcp").unlink()
    with pytest.raises(InvalidFile, match="cannot be restored"):
        training.restore()
    (folder / "step-00000001" / "training.json").write_text("[]")
    with pytest.raises(InvalidFile, match="not a checkpoint"):
        training.restore()


TWO_RANKS = """
import os, resource, sys
from pathlib import Path
import torch, torch.distributed as dist
from tokenstone.errors import NotWritable
from workloads.training.checkpointing import Position, TrainingCheckpoints

rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)

def new(seed):
    torch.manual_seed(seed)
    model = torch.nn.Linear(300, 300)
    return model, torch.optim.AdamW(model.parameters())

def step(model, optimizer):
    model(torch.rand(2, 300)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()

checkpoints = TrainingCheckpoints(folder / "run", spec_id="x", shard_of=lambda _: f"experts{rank}")
model, optimizer = new(rank)  # each rank has weights and random numbers of its own
step(model, optimizer)
checkpoints.save(model, optimizer, Position(1, 1))
dist.all_reduce(torch.ones(1))  # training goes on beside it
step(model, optimizer)
checkpoints.wait()

resumed, its_optimizer = new(100 + rank)
assert checkpoints.restore(resumed, its_optimizer) == Position(1, 1)
step(resumed, its_optimizer)
assert torch.equal(resumed.weight, model.weight), "not resumed bit for bit"

if rank == 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
checkpoints.save(model, optimizer, Position(2, 2))
try:
    checkpoints.wait()
except NotWritable:
    print("refused on rank", rank)
dist.barrier()
assert (folder / "run" / "latest").read_text() == "step-00000001"
assert checkpoints.restore(resumed, its_optimizer) == Position(1, 1)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_with_weights_of_their_own_resume_and_fail_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO_RANKS, str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command, env={**os.environ, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank in range(2)
    ]
    try:
        for rank, process in enumerate(ranks):
            said, _ = process.communicate(timeout=90)
            assert process.returncode == 0, said
            assert f"refused on rank {rank}" in said
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
