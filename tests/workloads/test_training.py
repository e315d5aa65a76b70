"""Training: it learns, repeats itself, fails clearly, and its facts add up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from tokenstone.errors import InvalidValue, TokenstoneError, WorkloadFailed
from tokenstone.ledger import training_ledger
from tokenstone.model import LLAMA_3_1_8B
from tokenstone.run import TrainingSpec
from tokenstone.wire import TrainingFacts
from workloads.device import Device, select_device
from workloads.presets import training_spec
from workloads.training.loop import train

Spec = Callable[..., TrainingSpec]


@pytest.fixture(scope="module")
def spec(short_text: str) -> Spec:
    """cpu-tiny on a short text, with changes."""

    def changed(**changes: Any) -> TrainingSpec:
        return training_spec("cpu-tiny").model_copy(update={"data": short_text, **changes})

    return changed


@pytest.fixture(scope="module")
def facts(spec: Spec, device: Device) -> TrainingFacts:
    return train(spec(steps=40), device=device, started=time.monotonic() - 5.0)


def test_the_loss_goes_down_from_that_of_guessing(facts: TrainingFacts) -> None:
    assert facts.loss_first == pytest.approx(math.log(512), abs=0.2)
    assert facts.loss_last is not None
    assert facts.loss_last < 5.0


def test_same_seed_same_losses_and_another_seed_others(spec: Spec, device: Device) -> None:
    runs = [train(spec(seed=seed, steps=4), device=device) for seed in (1, 1, 2)]
    assert runs[0].loss_last == runs[1].loss_last
    assert runs[0].loss_last != runs[2].loss_last


def test_balancing_keeps_the_experts_even(spec: Spec, device: Device, facts: TrainingFacts) -> None:
    without = train(spec(steps=40, bias_update_rate=0.0), device=device)
    assert facts.max_violation is not None
    assert without.max_violation is not None
    assert facts.max_violation < without.max_violation / 1.5


def test_only_counted_steps_count(facts: TrainingFacts) -> None:
    assert facts.tokens == 40 * 4 * 64
    [device] = facts.devices
    assert [phase.kind for phase in device.phases] == ["startup"] + ["warm_up"] * 2 + ["step"] * 40
    assert sum(phase.steps for phase in device.phases if phase.kind == "step") == 40


class Listener:
    def __init__(self) -> None:
        self.phases: list[str] = []
        self.seen: list[tuple[int, int, set[str]]] = []

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def progress(self, done: int, total: int, **figures: float) -> None:
        self.seen.append((done, total, set(figures)))


def test_progress_is_that_of_the_counted_steps(spec: Spec, device: Device) -> None:
    listener = Listener()
    train(spec(steps=3), device=device, progress=listener)
    assert listener.phases == ["startup", "warm_up", "step"]
    assert listener.seen == [(step, 3, {"tokens_per_second", "loss"}) for step in (1, 2, 3)]


def test_every_second_is_accounted_for(facts: TrainingFacts) -> None:
    phases = facts.devices[0].phases
    position = 0.0
    for phase in phases:
        assert sum(phase.activity_seconds.values()) == pytest.approx(phase.duration_seconds, abs=1e-9)
        assert phase.start_seconds >= position
        position = phase.start_seconds + phase.duration_seconds
    assert position <= facts.allocated_seconds
    step = next(phase for phase in phases if phase.kind == "step")
    assert set(step.activity_seconds) == {"compute", "input_stall", "host_overhead"}
    assert training_ledger(facts, 1.0, None).balanced


def test_startup_counts_from_the_launch_of_the_process(facts: TrainingFacts) -> None:
    startup = facts.devices[0].phases[0]
    assert startup.start_seconds == 0.0
    assert startup.duration_seconds >= 5.0
    assert facts.started_unix_seconds == pytest.approx(time.time() - facts.allocated_seconds, abs=60)


def test_provenance_says_what_was_measured(facts: TrainingFacts) -> None:
    expected = {"torch", "python", "device", "threads", "dtype", "parameters", "data", "data_sha256"}
    assert expected <= set(facts.provenance)
    assert facts.provenance["threads"] == "1"


def test_a_loss_that_is_no_number_names_the_step(spec: Spec, device: Device) -> None:
    with pytest.raises(WorkloadFailed, match=r"(loss|gradients) became (nan|inf) at step [2-9]") as failure:
        train(spec(learning_rate=1e30), device=device)
    assert "1e+30" in failure.value.hint


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "fp16"}, {"dtype": "fp9"}, {"model": LLAMA_3_1_8B}, {"data": "/nowhere/text"}],
    ids=["other dtype", "unknown dtype", "other family", "no data"],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], spec: Spec, device: Device) -> None:
    with pytest.raises(TokenstoneError) as refusal:
        train(spec(**changes), device=device)
    assert refusal.value.exit_code == 2
    assert refusal.value.hint or refusal.value.where


def test_threads_are_checked() -> None:
    with pytest.raises(InvalidValue):
        select_device(threads=0)
