"""Death and what comes after: real processes, killed in the middle, go on bit for bit and say what it cost."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tokenstone.errors import Conflict, InvalidFile, TokenstoneError, WorkloadFailed
from tokenstone.ledger import training_ledger
from tokenstone.run import TrainingLayout, TrainingSpec
from tokenstone.wire import TrainingFacts
from workloads import checkpoint as checkpoints
from workloads.device import Device
from workloads.presets import training_spec
from workloads.training.continuation import Saving
from workloads.training.distributed import RankTrainer
from workloads.training.journal import Journal
from workloads.training.loop import Options, train

EVERY = 5


@pytest.fixture(scope="module")
def spec(short_text: str) -> TrainingSpec:
    return training_spec("cpu-tiny").model_copy(update={"data": short_text, "steps": 24})


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(spec, device, cache) -> TrainingFacts:
    return train(spec, device=device, options=Options(cache=cache))


class Listener:
    """Notes warnings; where `die_after` updates are done, ends as if killed."""

    def __init__(self, die_after: int | None = None) -> None:
        self.warnings: list[str] = []
        self.phases: list[str] = []
        self._die_after = die_after

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def progress(self, done: int, total: int, **figures: float) -> None:
        if done == self._die_after:
            raise KeyboardInterrupt

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def columns_of(facts: TrainingFacts) -> tuple[list[float], list[float], list[list[int]]]:
    assert facts.steps is not None
    return facts.steps.loss, facts.steps.gradient_norm, facts.expert_load


def assert_same_work(facts: TrainingFacts, expected: TrainingFacts) -> None:
    assert columns_of(facts) == columns_of(expected)  # bit for bit
    for name in ("tokens", "loss_first", "loss_last", "max_violation", "recomputed_flops"):
        assert getattr(facts, name) == getattr(expected, name), name


def assert_balanced_with_recovery(facts: TrainingFacts, lost: int) -> None:
    """`lost`: steps of rank 0; another rank can have been one behind or ahead of it when death came."""
    ledger = training_ledger(facts, 0.0, None)
    assert ledger.balanced
    assert ledger.seconds["recovery"] > 0
    for device in facts.devices:
        kinds = [phase.kind for phase in device.phases]
        # Each lost step, and the restart.
        assert abs(kinds.count("recovery") - (lost + 1)) <= (len(facts.devices) > 1)
        assert kinds.count("step") == 24
        assert kinds[0] == "startup"
    assert (facts.restarts, facts.lost_steps) == (1, lost)


@contextmanager
def entry(folder: Path, *arguments: str, ranks: int = 1, restarts: int = 0) -> Iterator[subprocess.Popen[str]]:
    """The process entry, under torchrun if there are several ranks."""
    given = ["train", "--spec", folder / "spec.json", "--out", folder / "facts.json", "--threads", "1"]
    given += ["--checkpoint", folder / "model.pt", "--checkpoint-folder", folder / "run"]
    given += ["--checkpoint-every", EVERY, "--cache", folder / "cache", *arguments]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "--max-restarts", restarts, "-m"]
    command = [sys.executable, "-P", "-m", *(torchrun if ranks > 1 else []), "workloads.main", *given]
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        assert event["event"] != "error", event
        if event["event"] == "progress" and event["done"] >= step:
            return
    pytest.fail(f"ended before step {step}: {process.stderr and process.stderr.read()}")


def rank_process(torchrun: int, rank: int) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            mine = f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == torchrun and mine:
            return int(folder.name)
    raise AssertionError(f"no rank {rank}")


def on_a_rank(wanted: TrainingSpec, device: Device, model: Path) -> TrainingFacts | None:
    return train(wanted, device=replace(device, id=f"host:{dist.get_rank()}"), checkpoint=model)


@pytest.mark.slow
def test_torchrun_restarts_a_killed_rank_and_nothing_is_lost_but_time(run_ranks, spec, device, tmp_path) -> None:
    wanted = spec.model_copy(update={"layout": TrainingLayout(experts=2)})
    (tmp_path / "spec.json").write_text(wanted.model_dump_json())
    with entry(tmp_path, ranks=2, restarts=1) as process:
        wait_for_step(process, 12)
        os.kill(rank_process(process.pid, 1), signal.SIGKILL)
        said, errors = process.communicate(timeout=90)
        assert process.returncode == 0, said + errors
    facts = TrainingFacts.model_validate_json((tmp_path / "facts.json").read_bytes())
    expected = run_ranks(2, on_a_rank, wanted, device, tmp_path / "expected.pt")[0]
    assert_same_work(facts, expected)
    assert 0 < facts.lost_steps <= EVERY + 2  # what was in the making when the death came was not saved
    assert_balanced_with_recovery(facts, facts.lost_steps)
    mine, others = (checkpoints.load(tmp_path / name).model.state_dict() for name in ("model.pt", "expected.pt"))
    for name, tensor in mine.items():
        assert torch.equal(tensor, others[name]), name


def test_a_job_that_was_killed_is_resumed_by_hand(spec, device, tmp_path, undisturbed, options) -> None:
    """A forked process, killed for real: nothing of it is left but what it had written."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tells_its_steps, args=(sender, spec, device, options()))
    process.start()
    sender.close()
    while receiver.recv() < 12:
        pass
    process.kill()
    process.join()
    facts = train(spec, device=device, options=options(resume=True))
    assert_same_work(facts, undisturbed)
    assert_balanced_with_recovery(facts, facts.lost_steps)
    # Between the jobs nobody held the device.
    assert facts.allocated_seconds < 60


def _tells_its_steps(sender: Connection, wanted: TrainingSpec, device: Device, options: Options) -> None:
    torch.set_num_threads(1)
    train(wanted, device=device, progress=Teller(sender), options=options)


class Teller(Listener):
    """Tells each step to another process."""

    def __init__(self, sender: Connection) -> None:
        super().__init__()
        self._sender = sender

    def progress(self, done: int, total: int, **figures: float) -> None:
        self._sender.send(done)


# --- in this process, where each death is an exception


@pytest.fixture
def options(tmp_path, cache) -> Callable[..., Options]:
    """What says where to save and how to go on, in a folder of this test's."""
    return lambda every=EVERY, **saving: Options(saving=Saving(tmp_path / "run", every=every, **saving), cache=cache)


@pytest.fixture
def die_after(spec, device, options) -> Callable[[int], None]:
    def die(step: int) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(spec, device=device, progress=Listener(step), options=options())

    return die


def test_several_deaths_are_counted_and_the_last_checkpoint_is_used(
    spec, device, tmp_path, die_after, options, undisturbed
) -> None:
    die_after(12)  # 2 steps of warm-up before: 14 updates, of which 10 are saved
    with pytest.raises(KeyboardInterrupt):
        train(spec, device=device, progress=Listener(20), options=options(resume=True))
    facts = train(spec, device=device, options=options(resume=True))
    assert facts is not None
    assert_same_work(facts, undisturbed)
    assert facts.restarts == 2
    # The last checkpoint is written beside the training: the second death comes just after its step, done or not.
    assert facts.lost_steps in {4 + 2, 4 + 2 + EVERY}
    assert training_ledger(facts, 0.0, None).balanced
    assert facts.tokens == 24 * spec.tokens_per_step


def test_a_death_before_the_first_checkpoint_loses_everything_and_says_so(
    spec, device, tmp_path, die_after, options, undisturbed
) -> None:
    die_after(1)
    facts = train(spec, device=device, options=options(resume=True))
    assert facts is not None
    assert facts.lost_steps == 3  # warm-up as well
    assert_same_work(facts, undisturbed)


def test_a_line_that_death_cut_off_is_not_read(spec, device, tmp_path, die_after, options) -> None:
    die_after(12)
    journal = tmp_path / "run" / "journal-00000.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"phase": {"kind": "st')
    facts = train(spec, device=device, options=options(resume=True))
    assert facts is not None
    assert facts.lost_steps == 4
    assert Journal(journal).read().end_seconds > 0
    journal.write_text('{"phase": 3}\n')
    with pytest.raises(InvalidFile, match="line 1"):
        Journal(journal).read()


def test_without_its_journal_a_training_goes_on_and_counts_what_it_knows(
    spec, device, tmp_path, die_after, options, undisturbed
) -> None:
    die_after(12)
    (tmp_path / "run" / "journal-00000.jsonl").unlink()
    facts = train(spec, device=device, options=options(resume=True))
    assert facts is not None
    assert facts.tokens == 16 * spec.tokens_per_step  # of 26 updates, 10 are in the checkpoint alone
    assert facts.loss_last == columns_of(undisturbed)[0][-1]
    assert training_ledger(facts, 0.0, None).balanced


def test_another_training_is_neither_overwritten_nor_resumed(spec, device, tmp_path, die_after, options) -> None:
    die_after(6)
    with pytest.raises(Conflict, match="holds a training that has begun"):
        train(spec, device=device, options=options())
    other = spec.model_copy(update={"seed": 9})
    with pytest.raises(Conflict, match="belongs to training"):
        train(other, device=device, options=options(resume=True))


def test_a_full_disk_costs_checkpoints_but_neither_the_training_nor_the_old_one(
    spec, device, tmp_path, die_after, options, undisturbed
) -> None:
    die_after(6)
    listener, before = Listener(), resource.getrlimit(resource.RLIMIT_FSIZE)
    room = (tmp_path / "run" / "journal-00000.jsonl").stat().st_size + 200_000  # enough for lines, not for weights
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        facts = train(spec, device=device, progress=listener, options=options(resume=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert facts is not None
    assert_same_work(facts, undisturbed)
    assert facts.failed_checkpoints == 4  # of 10, 15, 20 and 25 updates; the one of 5 was written before
    assert len(listener.warnings) == 4
    assert "the training goes on without it" in listener.warnings[0]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "journal-00000.jsonl",
        "latest",
        "step-00000005",
    ]


def test_weights_that_are_no_numbers_are_never_saved_and_torchrun_need_not_try_again(
    spec, device, tmp_path, die_after, options
) -> None:
    diverging = spec.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(WorkloadFailed, match="became nan at step 2"):
        train(diverging, device=device, options=options(every=1))
    assert (tmp_path / "run" / "latest").read_text() == "step-00000001"
    listener = Listener()
    with pytest.raises(TokenstoneError, match="became nan at step 2"):
        train(diverging, device=device, progress=listener, options=options(every=1, restart=1))
    assert listener.phases == []  # at once


def _stops_at_step(wanted: TrainingSpec, device: Device, stop_at: int) -> str:
    """Rank 1 hangs at one step; what rank 0 says of it."""
    store = dist.distributed_c10d._get_default_store()
    step = RankTrainer.step

    def stuck(self, number, *batch):
        if number == stop_at and dist.get_rank() == 1:
            store.wait(["rank 0 is done"])
            os._exit(0)
        return step(self, number, *batch)

    RankTrainer.step = stuck  # this process is a fork of the test's own
    try:
        train(wanted, device=device, options=Options(deadline_seconds=1.0))
    except WorkloadFailed as error:
        return str(error)
    finally:
        store.set("rank 0 is done", "")
    return ""


@pytest.mark.parametrize(
    "layout",
    [
        TrainingLayout(experts=2),
        TrainingLayout(replicas=2),
        TrainingLayout(pipeline=2, micro_batches=4),
    ],
    ids=["experts", "replicas", "pipeline"],
)
def test_a_rank_that_hangs_is_given_up_at_the_deadline(run_ranks, spec, device, layout) -> None:
    wanted = spec.model_copy(update={"layout": layout})
    said, _ = run_ranks(2, _stops_at_step, wanted, device, 3, return_errors=True, deadline=1.0)
    assert "was not completed" in said
    assert "another rank has ended or hangs" in said


@pytest.mark.parametrize(
    ("layout", "redundant"),
    [
        (TrainingLayout(pipeline=2, micro_batches=4), 0),
        (TrainingLayout(replicas=2, data_parallel="fsdp"), 0),
        (TrainingLayout(experts=2, data_parallel="fsdp"), 0),
        (TrainingLayout(experts=2), 2),
    ],
    ids=["pipeline", "fsdp", "fsdp with experts", "redundant experts"],
)
def test_ranks_that_were_restarted_do_not_meet_the_dead(run_ranks, spec, device, tmp_path, layout, redundant) -> None:
    wanted = spec.model_copy(update={"layout": layout, "redundant_experts": redundant, "steps": 9})
    first = run_ranks(2, _dies, wanted, device, tmp_path / "run", return_errors=True)
    assert all(isinstance(error, KeyboardInterrupt) for error in first), first
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    # torchrun counts restarts on each node for itself: one rank that knows is enough.
    facts, _ = run_ranks(2, _goes_on, wanted, device, tmp_path / "copy")
    assert facts.restarts == 1
    # The checkpoint of 5 updates was being written while the ranks died after 8.
    assert facts.lost_steps == (3 if (tmp_path / "run" / "latest").exists() else 8)
    expected = run_ranks(2, on_a_rank, wanted, device, tmp_path / "expected.pt")[0]
    if redundant:  # copies are placed anew, so that sums are rounded otherwise
        assert facts.steps.loss == pytest.approx(expected.steps.loss, rel=1e-4)
        assert facts.tokens == expected.tokens
    else:
        assert_same_work(facts, expected)


def _dies(wanted: TrainingSpec, device: Device, folder: Path) -> None:
    mine = replace(device, id=f"host:{dist.get_rank()}")
    train(wanted, device=mine, progress=Listener(6), options=Options(saving=Saving(folder, every=EVERY)))


def _goes_on(wanted: TrainingSpec, device: Device, folder: Path) -> TrainingFacts | None:
    saving = Saving(folder, every=EVERY, restart=dist.get_rank())
    return train(wanted, device=replace(device, id=f"host:{dist.get_rank()}"), options=Options(saving=saving))


def test_the_time_between_death_and_restart_is_recovery(spec, device, tmp_path, die_after, options) -> None:
    die_after(12)
    past = Journal(tmp_path / "run" / "journal-00000.jsonl").read()
    facts = train(spec, device=device, options=options(restart=1))
    assert facts is not None
    assert math.isclose(facts.allocated_seconds, facts.devices[0].phases[-1].start_seconds, abs_tol=60)
    restart = next(p for p in facts.devices[0].phases if p.kind == "recovery" and p.start_seconds >= past.end_seconds)
    assert restart.start_seconds == pytest.approx(past.end_seconds)  # no second between them is left out
    assert training_ledger(facts, 0.0, None).seconds["idle"] < 0.5
