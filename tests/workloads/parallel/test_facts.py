"""What a training says of its steps: parts, waits, load, bubble, repeated work, against what is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tokenstone.errors import InvalidFile
from tokenstone.flops import AttentionCount
from tokenstone.model import CPU_TINY
from tokenstone.run import TrainingLayout, TrainingSpec
from tokenstone.training_detail import training_detail
from tokenstone.wire import TrainingFacts
from workloads import text as texts
from workloads.device import Device
from workloads.moe.model import Block
from workloads.moe.router import recomputing
from workloads.presets import training_spec
from workloads.recorder import TorchRecorder
from workloads.training.data import shared_text
from workloads.training.distributed import RankTrainer
from workloads.training.loop import Options, train
from workloads.training.parallel.communication import CommunicationLog, Span
from workloads.training.profile import Profiling
from workloads.training.recompute import Recompute, recomputed_flops
from workloads.training.tally import part_of

STEPS, LAYERS = 3, 4
SHAPE = CPU_TINY.model_copy(update={"layers": LAYERS, "name": "four layers"})


@pytest.fixture(scope="module")
def spec(short_text: str) -> TrainingSpec:
    changes = {"data": short_text, "model": SHAPE, "steps": STEPS, "warm_up_steps": 1, "batch_sequences": 8}
    return training_spec("cpu-tiny").model_copy(update=changes | {"sequence_length": 32})


def on_a_rank(wanted: TrainingSpec, device: Device, options: Options | None = None) -> TrainingFacts | None:
    return train(wanted, device=replace(device, id=f"host:{dist.get_rank()}"), options=options)


def test_one_rank_tells_its_parts_and_they_fill_the_step(spec, device) -> None:
    facts = train(spec, device=device)
    assert facts is not None
    steps = facts.steps
    assert steps is not None
    assert set(steps.part_seconds) == {"data", "forward", "backward", "optimizer"}
    for step in range(STEPS):
        assert sum(column[step] for column in steps.part_seconds.values()) <= steps.duration_seconds[step]
    assert all(norm > 0 for norm in steps.gradient_norm)
    assert [len(layer) for layer in facts.expert_load] == [16] * LAYERS
    tokens = STEPS * spec.tokens_per_step
    assert [sum(layer) for layer in facts.expert_load] == [tokens * SHAPE.experts.active] * LAYERS
    detail = training_detail(spec, facts)
    assert (detail.bubble_ratio, detail.expected_bubble_ratio) == (None, None)
    assert detail.max_violation_batch >= facts.max_violation > 0  # single batches are less even than all together
    assert detail.peak_memory_bytes > 50e6


@pytest.fixture(scope="module")
def loads_alone(spec, device) -> list[list[int]]:
    return train(spec, device=device).expert_load


@pytest.mark.parametrize(
    ("layout", "parts"),
    [
        (TrainingLayout(experts=2), {"dispatch", "combine", "gradient_reduction", "backward"}),
        (TrainingLayout(pipeline=2, micro_batches=4), {"pipeline_wait", "backward"}),
        (
            TrainingLayout(pipeline=2, micro_batches=4, schedule="ZBVZeroBubble"),
            {"pipeline_wait", "backward_input", "backward_weight"},
        ),
    ],
    ids=["experts", "1F1B", "zero bubble"],
)
def test_ranks_tell_parts_waits_and_the_load_of_all_layers(run_ranks, spec, device, loads_alone, layout, parts) -> None:
    wanted = spec.model_copy(update={"layout": layout})
    facts = run_ranks(layout.ranks, on_a_rank, wanted, device)[0]
    assert parts <= set(facts.steps.part_seconds)
    for mine, alone in zip(facts.expert_load, loads_alone, strict=True):
        assert sum(mine) == sum(alone)
        assert sum(abs(a - b) for a, b in zip(mine, alone, strict=True)) < 0.02 * sum(alone)  # near ties
    assert [rank.device for rank in facts.ranks] == ["host:0", "host:1"]
    assert sum(rank.wait_seconds for rank in facts.ranks) == pytest.approx(sum(c.seconds for c in facts.communication))
    detail = training_detail(wanted, facts)
    for collective in detail.collectives:
        if not collective.name.startswith("receive"):
            assert collective.algorithm_bytes_per_second > 0
    if layout.pipeline > 1:
        assert 0 < detail.bubble_ratio < 1
        assert all(0 < rank.busy_seconds <= facts.schedule_seconds for rank in facts.ranks)
    if layout.schedule == "1F1B" and layout.pipeline > 1:
        assert detail.expected_bubble_ratio == pytest.approx(1 / 5)


def _repeated(wanted: TrainingSpec, device: Device) -> tuple[float, int]:
    """The FLOPs that a rank tells of one step, and how many forward passes of a block it saw repeated."""
    seen: list[None] = []
    forward = Block.forward

    def noted(self, *inputs):
        seen.extend([None] * recomputing.get())
        return forward(self, *inputs)

    Block.forward = noted  # this process is a fork of the test's own
    recorder = TorchRecorder(device)
    trainer = RankTrainer(wanted, device, recorder)
    ids = torch.randint(SHAPE.vocabulary, (wanted.batch_sequences, wanted.sequence_length))
    record = trainer.recorded_step(recorder, 0, ids, ids)
    trainer.close()
    return record.recomputed_flops, len(seen)


@pytest.mark.parametrize("schedule", ["1F1B", "ZBVZeroBubble"])
def test_each_block_is_repeated_once_and_counted(run_ranks, spec, device, schedule) -> None:
    layout = TrainingLayout(pipeline=2, micro_batches=4, schedule=schedule)
    ranks = run_ranks(2, _repeated, spec.model_copy(update={"layout": layout, "recompute": "blocks"}), device)
    flops, blocks = map(sum, zip(*ranks, strict=True))
    once = recomputed_flops(SHAPE, 32, spec.tokens_per_step, Recompute.BLOCKS, AttentionCount.CAUSAL)
    assert blocks == LAYERS * layout.micro_batches  # once, however many parts a backward pass is split into
    assert flops == pytest.approx(once)


def test_fp8_tells_its_amax_and_what_became_zero(spec, device) -> None:
    facts = train(spec.model_copy(update={"linear_precision": "fp8"}), device=device)
    assert facts is not None
    assert {figures.operand for figures in facts.fp8} == {"activation", "weight", "gradient"}
    for figures in facts.fp8:
        assert figures.amax > 0
        assert figures.underflow_ratio is None or 0 <= figures.underflow_ratio < 0.5
    assert train(spec, device=device).fp8 == []


def test_profiled_steps_leave_a_trace_that_tools_can_read(spec, device, tmp_path) -> None:
    options = Options(profiling=Profiling(steps=1, folder=tmp_path / "profile"))
    facts = train(spec, device=device, options=options)
    assert facts is not None
    assert facts.provenance["profiled_steps"] == "1"
    [path] = (tmp_path / "profile").iterdir()
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert any("aten::" in str(name) for name in names)


# --- the text


def _shared(data: str, device: Device) -> tuple[str, int, str]:
    if dist.get_rank() == 1:
        texts.load_corpus = None  # type: ignore[assignment]  # this process is a fork: it has no text of its own
    try:
        prepared = shared_text(data, 512, device)
    except InvalidFile as error:
        return str(error), 0, ""
    return prepared.corpus.sha256, int(prepared.tokens_N.sum()), prepared.tokenizer.to_str()


def test_one_rank_reads_the_text_and_trains_the_tokenizer_for_all(run_ranks, device, short_text) -> None:
    first, second = run_ranks(2, _shared, short_text, device)
    assert first == second
    assert first[1] > 0
    first, second = run_ranks(2, _shared, "/nowhere/text", device)
    assert first == second
    assert "/nowhere/text" in first[0]


def test_tokenizer_and_tokens_are_kept_for_the_next_run(short_text, tmp_path, monkeypatch) -> None:
    fresh = texts.prepare_text(short_text, 512, tmp_path / "cache")
    monkeypatch.setattr(texts, "train_tokenizer", None)
    kept = texts.prepare_text(short_text, 512, tmp_path / "cache")
    assert kept.tokens_N.equal(fresh.tokens_N)
    assert kept.tokenizer.to_str() == fresh.tokenizer.to_str()
    monkeypatch.undo()
    [path] = (tmp_path / "cache").iterdir()
    path.write_bytes(b"damaged")
    assert texts.prepare_text(short_text, 512, tmp_path / "cache").tokens_N.equal(fresh.tokens_N)
    changed = tmp_path / "changed.txt"
    changed.write_text(Path(short_text).read_text() + "more")
    texts.prepare_text(str(changed), 512, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


# --- the clock of a device


class Queue:
    """A device that runs behind the host: an event has the time at which the device passes it, in milliseconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def event(self) -> Queue.Event:
        return Queue.Event(self)

    class Event:
        def __init__(self, queue: Queue) -> None:
            self.queue, self.at = queue, -1.0

        def record(self) -> None:
            self.at = self.queue.now

        def elapsed_time(self, end: Queue.Event) -> float:
            return end.at - self.at


def test_on_an_accelerator_spans_are_those_of_its_events(device) -> None:
    queue = Queue()
    recorder = TorchRecorder(device, event=queue.event)
    log = CommunicationLog.of(recorder)
    recorder.align()
    zero = recorder.elapsed_seconds()
    with log.computing("forward"):
        queue.now += 2000.0  # the host did not wait at all
        with log.waiting("dispatch", "exposed_communication"):
            queue.now += 500.0
    spans = {span.name: span for span in log.take()}
    assert spans["forward"].seconds == pytest.approx(0.0) or spans["forward"].seconds == pytest.approx(2.0)
    assert spans["dispatch"].seconds == pytest.approx(0.5)
    assert spans["dispatch"].start == pytest.approx(zero + 2.0, abs=0.05)


def test_what_has_no_part_of_its_own_is_not_lost() -> None:
    assert part_of(Span("update", "compute", 0, 1)) == "optimizer"
    assert part_of(Span("loss", "exposed_communication", 0, 1)) == "other_communication"
    assert part_of(Span("something", "compute", 0, 1)) == "other_work"
