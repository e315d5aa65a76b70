"""Marks of a job: what they add up to, what is no mark, and what is left on disk."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.ledger import training_ledger
from tokenstone.record import Job, Recorder
from tokenstone.record.outbox import Outbox
from tokenstone.record.parts import Finished, RankPart, facts_of, lives
from tokenstone.wire import TrainingFacts


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "TOKENSTONE_API", "TOKENSTONE_RUN_ID", "TOKENSTONE_RUN_FOLDER",
                 "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def job(tmp_path):
    with Job("test", spool=tmp_path) as started:
        yield started


def part(job: Job) -> RankPart:
    return job._part(False)


def test_steps_phases_and_tokens_become_facts(job):
    @job.step(tokens=3)
    def train():
        pass

    for _ in job.batches(range(2)):
        train()
    with job.phase("checkpoint"):
        pass
    with job.step(tokens=4), job.activity("exposed_communication"):
        pass
    job.count(10)
    job.loss(7.0)
    job.loss(5.0)
    found = part(job)
    assert found.tokens == 2 * 3 + 4 + 10
    assert [phase.kind for phase in found.phases] == ["startup"] + ["step", "step"] * 2 + ["step", "checkpoint", "step"]
    assert [phase.steps for phase in found.phases] == [0, 0, 1, 0, 1, 0, 0, 1]
    assert found.phases[1].activity_seconds.keys() >= {"input_stall"}
    assert found.phases[2].activity_seconds.keys() == {"compute"}
    assert (found.loss_first, found.loss_last) == (7.0, 5.0)
    assert training_ledger(facts_of([found]), 0.0, None).balanced


def test_what_is_noted_can_always_be_written(job):
    job.loss(float("nan"))
    job.loss(3)
    job.note(torch="2.13", text="a\0b" * 1000)
    with pytest.raises(InvalidValue, match="notes"):
        job.note(**{f"n{number}": "x" for number in range(50)})
    assert job.flush()
    assert (part(job).loss_first, part(job).loss_last) == (3.0, 3.0)
    kept = part(job)
    assert RankPart.model_validate_json(kept.model_dump_json()) == kept


def test_a_step_that_raises_spent_its_time_and_trained_nothing(job):
    with pytest.raises(ZeroDivisionError), job.step(tokens=5):
        raise ZeroDivisionError
    assert part(job).tokens == 0
    assert len(part(job).phases) == 2


@pytest.mark.parametrize("tokens", [-1, 1.5, "7", None])
def test_tokens_are_whole_and_not_negative(job, tokens):
    with pytest.raises(InvalidValue, match="tokens"), job.step(tokens=tokens):
        raise AssertionError("never begun")
    with pytest.raises(InvalidValue, match="tokens"):
        job.count(tokens)


def test_misuse_is_told_and_leaves_the_record_whole(job):
    with job.step(), pytest.raises(InvalidValue, match="begins inside 'step'"), job.step():
        raise AssertionError
    with pytest.raises(InvalidValue, match="outside a phase"), job.activity("input_stall"):
        raise AssertionError
    with pytest.raises(InvalidValue, match="no phase is called 'stepp'"), job.phase("stepp"):
        raise AssertionError
    with job.step(), pytest.raises(InvalidValue, match="no activity is called"), job.activity("dreaming"):
        raise AssertionError
    with pytest.raises(InvalidValue, match="no phase is open"):
        job.end()
    assert training_ledger(facts_of([part(job)]), 0.0, None).balanced


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        ({"rank": 2, "world_size": 2}, {}, "rank 2 of 2"),
        ({}, {"RANK": "x"}, "RANK"),
        ({}, {"WORLD_SIZE": "4"}, "run_id"),
        ({"flops_per_token": -1.0}, {}, "flops_per_token"),
        ({"run_id": "a/b"}, {}, "run_id"),
        ({"device": " "}, {}, "id"),
    ],
)
def test_a_job_that_cannot_be_is_refused_at_once(tmp_path, monkeypatch, arguments, environment, says):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidValue, match=says):
        Job("test", spool=tmp_path, **arguments)


def test_hardware_is_one_of_the_catalogue_and_never_guessed(tmp_path):
    with pytest.raises(UnknownName):
        Job("test", spool=tmp_path, hardware="h9000")
    assert part(Job("test", device_model="NVIDIA H100 80GB HBM3")).device.hardware == "h100-sxm"
    assert part(Job("test", device_model="NVIDIA H100 of mine")).device.hardware is None


marks = st.lists(
    st.tuples(st.sampled_from(["step", "step", "step", "checkpoint", "recovery"]), st.floats(0, 5), st.floats(0, 5),
              st.sampled_from([None, "input_stall", "exposed_communication"])),
    max_size=60,
)  # fmt: skip


@given(marks, st.integers(1, 5))
def test_however_many_phases_are_joined_the_ledger_is_the_same(told, most):
    def ledger(most_phases) -> dict[str, float]:
        now = 0.0
        recorder = Recorder("d", clock=lambda: now, started=0.0, most_phases=most_phases)
        for kind, before, length, activity in told:
            now += before
            with recorder.phase(kind, steps=1):
                if activity:
                    with recorder.activity(activity):
                        now += length / 2
                now += length / 2
        facts = TrainingFacts(started_unix_seconds=0, allocated_seconds=now + 1, tokens=1, devices=[recorder.finish()])
        assert sum(phase.steps for phase in facts.devices[0].phases) == len(told)
        if most_phases and len({kind for kind, *_ in told}) < 2:
            assert len(facts.devices[0].phases) <= 2 * most_phases
        return training_ledger(facts, 0.0, None).seconds

    assert ledger(most) == pytest.approx(ledger(None), abs=1e-9)


def test_nothing_of_the_loop_breaks_where_nothing_can_be_written(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with Job("test", spool=blocked) as job:
        with job.step(tokens=1):
            pass
        assert job.flush() is False
    assert "nothing of this job can be kept" in caplog.text


def test_without_a_service_the_run_waits_on_disk(tmp_path):
    def interrupted():
        with Job("test", spool=tmp_path, run_id="mine", cluster="lab") as job:
            with job.step(tokens=8):
                pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    [path] = Outbox(tmp_path).waiting()
    finished = Finished.model_validate_json(path.read_bytes())
    assert (finished.create.run_id, finished.create.cluster, finished.facts.tokens) == ("mine", "lab", 8)
    assert finished.facts.provenance["ended_by"] == "KeyboardInterrupt"
    assert not list((tmp_path / "live").iterdir())


def test_a_service_that_never_answers_holds_up_neither_the_loop_nor_its_end(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        job = Job("test", spool=tmp_path, run_id="mine", api=f"http://127.0.0.1:{silent.getsockname()[1]}").start()
        silent.accept()[0].close()  # the sender has asked, and gets no answer
        with job.step(tokens=1):
            pass
        began = time.monotonic()
        job.close(timeout=0.5)
        assert time.monotonic() - began < 5  # one answer alone may take 10 s
    assert [path.stem for path in Outbox(tmp_path).waiting()] == ["mine"]


def test_ranks_are_one_run_and_the_last_one_closes_it(tmp_path):
    jobs = [Job("test", spool=tmp_path, run_id="r", rank=rank, world_size=3).start() for rank in range(3)]
    for job in jobs:
        with job.step(tokens=1 + job.rank):
            pass
    for number, job in enumerate(jobs):
        assert not Outbox(tmp_path).waiting(), number
        job.close()
    [path] = Outbox(tmp_path).waiting()
    facts = Finished.model_validate_json(path.read_bytes()).facts
    assert [device.device for device in facts.devices] == ["host:0", "host:1", "host:2"]
    assert facts.tokens == 6
    assert "missing_ranks" not in facts.provenance
    assert training_ledger(facts, 0.0, None).balanced


def test_nodes_that_share_no_folder_are_runs_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTONE_RUN_ID", "r")
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    job = Job("test", spool=tmp_path, node="n2", per_node=True)
    assert (job.run_id, job.rank, job.world_size) == ("r-n2", 1, 2)


def test_a_rank_that_is_late_finds_its_run_still_open(tmp_path):
    def rank(number: int) -> None:
        with Job("test", spool=tmp_path, run_id="r", rank=number, world_size=2) as job, job.step(tokens=1):
            pass

    rank(0)
    outbox = Outbox(tmp_path)
    assert outbox.collect() == 0
    assert not outbox.waiting()
    rank(1)
    [path] = outbox.waiting()
    assert Finished.model_validate_json(path.read_bytes()).facts.tokens == 2
    rank(0)  # and the other never comes
    assert outbox.collect(patience_seconds=0) == 1
    facts = Finished.model_validate_json(path.read_bytes()).facts
    assert facts.provenance["missing_ranks"] == "1"


KILLED = """
    import sys, time
    from tokenstone.record import Job
    job = Job("test", spool=sys.argv[1], run_id="killed").start()
    for _ in range(3):
        with job.step(tokens=5):
            pass
    job.flush()
    with job.step(tokens=100):
        print("flushed", flush=True)
        time.sleep(600)
"""


def test_a_killed_job_loses_nothing_that_was_flushed(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        outbox = Outbox(tmp_path)
        assert lives(outbox.live / "killed")
        assert outbox.collect() == 0  # it is not taken from a job that lives
        process.send_signal(signal.SIGKILL)
    assert outbox.collect() == 1
    facts = json.loads(outbox.waiting()[0].read_text())["facts"]
    assert facts["tokens"] == 15
    assert facts["provenance"]["ended_without_a_word"] == "ranks 0"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_end_the_job(job):
    with job.step(tokens=1):
        pass
    if (child := os.fork()) == 0:
        job.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert part(job).tokens == 1
    assert job.flush()


def test_the_spool_is_bounded_and_drops_the_oldest(tmp_path, monkeypatch, caplog):
    for number in itertools.count():
        with Job("test", spool=tmp_path, run_id=f"run-{number}"):
            pass
        if number == 0:
            size = Outbox(tmp_path).waiting()[0].stat().st_size
            monkeypatch.setattr("tokenstone.record.outbox.MOST_BYTES", 2.5 * size)
        if number == 4:
            break
    assert [path.stem for path in Outbox(tmp_path).waiting()] == ["run-3", "run-4"]
    assert "dropped" in caplog.text
