from __future__ import annotations

import threading

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from tokenstone.errors import WorkloadFailed
from tokenstone.model import CPU_TINY
from tokenstone.record import Recorder
from tokenstone.wire import DevicePhases
from workloads.moe.model import MoeModel
from workloads.training.parallel.communication import CommunicationLog, Span, Total, record, totals
from workloads.training.parallel.data_parallel import reduce_gradients, take_load
from workloads.training.parallel.exchange import AllToAll
from workloads.training.parallel.expert_parallel import shard_experts
from workloads.training.parallel.layout import Layout, make_groups


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_waits_are_cut_out_of_the_work_around_them() -> None:
    clock = Clock()
    log = CommunicationLog(clock)
    with log.computing():
        clock.now = 2.0
        with log.waiting("dispatch", "exposed_communication", sent_bytes=64):
            clock.now = 5.0
        clock.now = 6.0
    assert sorted(log.take(), key=lambda span: span.start) == [
        Span("compute", "compute", 0.0, 2.0),
        Span("dispatch", "exposed_communication", 2.0, 5.0, 64),
        Span("compute", "compute", 5.0, 6.0),
    ]
    assert log.take() == []


def test_a_wait_behind_another_threads_work_is_not_exposed() -> None:
    clock = Clock()
    recorder = Recorder("host", clock=clock, started=0.0)
    log = CommunicationLog(recorder.elapsed_seconds)
    waits, works = threading.Event(), threading.Event()

    def work() -> None:
        waits.wait(10)
        with log.computing():
            clock.now = 4.0
        works.set()

    thread = threading.Thread(target=work)
    with recorder.phase("step", steps=1):
        thread.start()
        clock.now = 1.0
        with log.waiting("combine", "exposed_communication"):
            clock.now = 2.0
            waits.set()
            works.wait(10)
            clock.now = 7.0
        thread.join(10)
        record(log.take(), recorder)
    (phase,) = recorder.finish().phases
    assert phase.activity_seconds == {"host_overhead": 1.0, "exposed_communication": 4.0, "compute": 2.0}


def test_a_wait_that_fails_is_kept() -> None:
    clock = Clock()
    log = CommunicationLog(clock)

    def fail() -> None:
        clock.now = 3.0
        raise WorkloadFailed("no answer")

    with pytest.raises(WorkloadFailed), log.waiting("dispatch", "exposed_communication"):
        fail()
    assert totals(log.take()) == {"dispatch": Total(1, 3.0, 0)}


def _step() -> tuple[DevicePhases, dict[str, Total], int]:
    groups = make_groups(Layout(experts=2), deadline_seconds=30)
    recorder = Recorder(f"host-{dist.get_rank()}")
    log = CommunicationLog(recorder.elapsed_seconds)
    model = MoeModel(CPU_TINY, seed=0)
    shard_experts(model, AllToAll(groups.experts_forward, groups.experts_backward, log), groups.experts_forward)
    ids_BT = torch.randint(CPU_TINY.vocabulary, (2, 16), generator=torch.Generator().manual_seed(dist.get_rank()))
    loads: list[torch.Tensor] = []
    for router in model.routers():
        router.register_forward_hook(lambda _, __, routing: loads.append(routing.load_E))
    with recorder.phase("step", steps=1):
        with log.computing():
            F.cross_entropy(model(ids_BT).flatten(0, 1), ids_BT.flatten()).backward()
        reduce_gradients(model, groups, log)
        take_load(model, groups, log)
        spans = log.take()
        record(spans, recorder)
    other = 1 - dist.get_rank()
    away = sum(int(load_E.chunk(2)[other].sum()) for load_E in loads)
    return recorder.finish(), totals(spans), away


def test_the_ledger_of_a_step_with_two_expert_ranks(run_ranks) -> None:  # type: ignore[no-untyped-def]
    layers, experts = CPU_TINY.layers, 16
    ranks = run_ranks(2, _step)
    everything = {name for _, by_name, _ in ranks for name in by_name}
    assert everything == {"compute", "counts", "dispatch", "combine", "gradient_reduction", "expert_load"}
    for phases, by_name, away in ranks:
        (phase,) = phases.phases
        seconds = phase.activity_seconds
        assert sum(seconds.values()) == pytest.approx(phase.duration_seconds, rel=1e-9)
        assert set(seconds) <= {"compute", "exposed_communication", "host_overhead"}
        # One thread: nothing hides, so the recorded waits are the exposed ones.
        waited = sum(total.seconds for name, total in by_name.items() if name != "compute")
        assert seconds["exposed_communication"] == pytest.approx(waited, rel=1e-6)
        assert seconds["compute"] == pytest.approx(by_name["compute"].seconds, rel=1e-6)
        assert by_name["counts"].count == layers
        assert by_name["counts"].sent_bytes == layers * experts // 2 * 8
        # Out once in each pass: activations, then the gradients of the combined rows.
        assert by_name["dispatch"].count == 2 * layers
        assert by_name["dispatch"].sent_bytes == 2 * away * CPU_TINY.dim * 4
    # What one rank sends out comes home from the other.
    assert [r[1]["dispatch"].sent_bytes for r in ranks] == [r[1]["combine"].sent_bytes for r in reversed(ranks)]
