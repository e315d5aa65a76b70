"""Whole trainings, from spec to facts: every layout and switch against one rank with the same spec."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tokenstone.errors import InvalidValue, UsageError
from tokenstone.ledger import training_ledger
from tokenstone.model import CPU_TINY
from tokenstone.run import TrainingLayout, TrainingSpec
from tokenstone.wire import TrainingFacts
from workloads import checkpoint as checkpoints
from workloads.device import Device
from workloads.recorder import TorchRecorder
from workloads.training.distributed import RankTrainer
from workloads.training.loop import train
from workloads.training.parallel.exchange import AllToAll, Pass

SHAPE = CPU_TINY.model_copy(update={"layers": 4, "name": "four layers"})
SPEC = TrainingSpec(
    preset="test", model=SHAPE, dtype="fp32", sequence_length=32, batch_sequences=8, steps=3, warm_up_steps=1,
    learning_rate=3e-3, bias_update_rate=1e-2,
)  # fmt: skip
LAYOUTS = {
    "experts": TrainingLayout(experts=2),
    "replicas": TrainingLayout(replicas=2),
    "fsdp": TrainingLayout(replicas=2, data_parallel="fsdp"),
    "fsdp with experts": TrainingLayout(experts=2, data_parallel="fsdp"),
    "pipeline": TrainingLayout(pipeline=2, micro_batches=4),
    "zero bubble": TrainingLayout(pipeline=2, micro_batches=4, schedule="ZBVZeroBubble"),
    "dualpipev": TrainingLayout(pipeline=2, experts=2, micro_batches=4, schedule="DualPipeV"),
}


def spec(text: str, **changes) -> TrainingSpec:
    return SPEC.model_copy(update={"data": text, **changes})


def on_a_rank(wanted: TrainingSpec, device: Device, checkpoint: Path | None = None) -> TrainingFacts | None:
    mine = replace(device, id=f"host:{dist.get_rank()}")
    return train(wanted, device=mine, checkpoint=checkpoint)


@pytest.fixture(scope="module")
def alone(device, short_text, tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "model.pt"
    return train(spec(short_text), device=device, checkpoint=path), checkpoints.load(path).model


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_trains_the_same_model_and_accounts_for_every_second(
    run_ranks, device, short_text, alone, tmp_path, name
):
    facts_alone, model_alone = alone
    layout = LAYOUTS[name]
    path = tmp_path / "model.pt"
    facts, *others = run_ranks(layout.ranks, on_a_rank, spec(short_text, layout=layout), device, path)
    assert others == [None] * (layout.ranks - 1)  # the first rank speaks for all
    assert facts.loss_first == pytest.approx(facts_alone.loss_first, rel=1e-6)
    assert facts.loss_last == pytest.approx(facts_alone.loss_last, rel=1e-5)
    assert facts.max_violation == pytest.approx(facts_alone.max_violation, rel=0.05)  # near ties may fall otherwise
    assert facts.tokens == facts_alone.tokens
    assert [phases.device for phases in facts.devices] == [f"host:{rank}" for rank in range(layout.ranks)]
    ledger = training_ledger(facts, 0.0, None)
    assert ledger.balanced
    assert ledger.seconds["exposed_communication"] > 0
    assert (ledger.seconds["pipeline_bubble"] > 0) == (layout.pipeline > 1)
    trained = dict(checkpoints.load(path).model.named_parameters())
    for parameter, expected in model_alone.named_parameters():  # Adam makes much of rounding where gradients are small
        assert (trained[parameter] - expected).norm() < 0.05 * expected.norm(), parameter


def test_redundant_experts_train_the_same_model(run_ranks, device, short_text, alone):
    wanted = spec(short_text, layout=LAYOUTS["experts"], redundant_experts=4, redundant_experts_interval=1)
    facts = run_ranks(2, on_a_rank, wanted, device)[0]
    assert facts.loss_last == pytest.approx(alone[0].loss_last, rel=1e-5)
    totals = {total.name: total for total in facts.communication}
    expert_bytes = 4 * 3 * SHAPE.dim * SHAPE.experts.dim
    assert totals["borrow"].sent_bytes == totals["give_back"].sent_bytes == 3 * 4 * 4 * expert_bytes  # steps, layers


@pytest.mark.parametrize("name", ["experts", "pipeline", "dualpipev"])
def test_multi_token_prediction_trains_along_in_every_layout(run_ranks, device, short_text, alone, name):
    one = train(spec(short_text, prediction_depths=1), device=device)
    wanted = spec(short_text, prediction_depths=1, layout=LAYOUTS[name])
    facts = run_ranks(wanted.layout.ranks, on_a_rank, wanted, device)[0]
    assert facts.loss_last == pytest.approx(one.loss_last, rel=1e-5)
    assert facts.loss_last != pytest.approx(alone[0].loss_last, rel=1e-5)


def _backward_has_its_own_thread(wanted: TrainingSpec, device: Device) -> bool:
    """Whether a step of this rank runs forward and backward exchanges in different threads."""
    trainer = RankTrainer(wanted, device, TorchRecorder(device))
    threads: dict[Pass, set[int]] = {Pass.FORWARD: set(), Pass.BACKWARD: set()}
    send = AllToAll.transfer

    def noted(self, rows, sent_R, received_R, direction, name):
        threads[direction].add(threading.get_ident())
        return send(self, rows, sent_R, received_R, direction, name)

    AllToAll.transfer = noted  # this process is a fork of the test's own
    ids = torch.randint(SHAPE.vocabulary, (wanted.batch_sequences, wanted.sequence_length))
    trainer.step(0, ids, ids)
    trainer.close()
    return bool(threads[Pass.BACKWARD] - threads[Pass.FORWARD])


@pytest.mark.parametrize("overlap", [True, False])
def test_the_switch_decides_whether_dualpipev_overlaps(run_ranks, device, short_text, overlap):
    layout = LAYOUTS["dualpipev"].model_copy(update={"overlap": overlap})
    assert run_ranks(4, _backward_has_its_own_thread, spec(short_text, layout=layout), device) == [overlap] * 4


def test_bytes_by_collective_are_what_the_layout_sends(run_ranks, device, short_text, alone):
    def dispatched(**changes) -> tuple[int, int]:
        facts = run_ranks(2, on_a_rank, spec(short_text, layout=LAYOUTS["experts"], **changes), device)[0]
        totals = {total.name: total for total in facts.communication}
        return totals["dispatch"].count, totals["dispatch"].sent_bytes

    count, plain = dispatched()
    assert count == 2 * 3 * 4 * 2  # ranks, counted steps, layers, both passes
    # Rows that leave: of 256 tokens x 2 experts, somewhere about half; 128 fp32 values each, in both passes.
    assert plain == pytest.approx(3 * 4 * 2 * 256 * 2 / 2 * 128 * 4, rel=0.5)
    _, coded = dispatched(dispatch_precision="fp8")
    assert coded == pytest.approx(plain * (128 + 4) / (128 * 4), rel=0.1)
    assert alone[0].communication == []


def test_fp8_changes_the_numbers_a_little_and_says_how_it_multiplied(run_ranks, device, short_text, alone):
    changed = spec(
        short_text,
        layout=LAYOUTS["experts"],
        linear_precision="fp8",
        dispatch_precision="fp8",
        combine_precision="bf16",
    )
    facts = run_ranks(2, on_a_rank, changed, device)[0]
    assert facts.loss_last != alone[0].loss_last
    assert facts.loss_last == pytest.approx(alone[0].loss_last, rel=0.03)
    assert facts.provenance["precision"].startswith("fp8: ")
    assert "dispatch fp8, combine bf16" in facts.provenance["layout"]


def test_a_simulated_slow_link_shows_as_exposed_communication(run_ranks, device, short_text):
    def exposed(latency: float) -> float:
        slowed = spec(short_text, layout=LAYOUTS["experts"], simulated_latency_seconds=latency)
        return training_ledger(run_ranks(2, on_a_rank, slowed, device)[0], 0.0, None).seconds["exposed_communication"]

    # 2 ranks, 3 counted steps, 4 layers, and in each: counts, dispatch, combine, and the two backward.
    assert exposed(0.02) > 2 * 3 * 4 * 5 * 0.02


def test_recomputation_repeats_work_and_changes_nothing_else(device, short_text, alone):
    facts = train(spec(short_text, recompute="blocks"), device=device)
    assert facts.recomputed_flops > 0
    assert alone[0].recomputed_flops == 0
    assert facts.loss_last == pytest.approx(alone[0].loss_last, rel=1e-5)
    assert facts.max_violation == pytest.approx(alone[0].max_violation)


def test_forced_balance_is_perfect_and_multi_token_prediction_trains_along(device, short_text, alone):
    assert train(spec(short_text, balancing="forced"), device=device).max_violation == 0
    predicting = train(spec(short_text, prediction_depths=1), device=device)
    assert predicting.loss_first == pytest.approx(alone[0].loss_first, rel=1e-6)  # the plain loss is reported
    assert predicting.loss_last != alone[0].loss_last


def test_a_layout_of_several_ranks_cannot_run_alone(device, short_text):
    with pytest.raises(UsageError, match="torchrun"):
        train(spec(short_text, layout=LAYOUTS["experts"]), device=device)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layout": TrainingLayout(experts=2), "batch_sequences": 3}, "3 sequences do not divide"),
        ({"layout": TrainingLayout(pipeline=2, schedule="DualPipeV", micro_batches=2)}, "at least 4 micro-batches"),
        ({"layout": TrainingLayout(experts=2), "prediction_depths": 8, "sequence_length": 9}, "leave no target"),
        ({"layout": TrainingLayout(experts=4)}, "but 2 were started"),
    ],
)
def test_impossible_layouts_are_refused_on_every_rank(run_ranks, device, short_text, changes, says):
    errors = run_ranks(2, on_a_rank, spec(short_text, **changes), device, return_errors=True)
    assert all(isinstance(error, InvalidValue) and says in str(error) for error in errors), errors
