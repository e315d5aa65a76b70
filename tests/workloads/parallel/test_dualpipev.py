"""DualPipeV does two things at once, and survives when one of them fails. Its gradients: test_gradients."""

from __future__ import annotations

import dataclasses
import os
from itertools import pairwise

import torch
import torch.distributed as dist

from tokenstone.errors import InvalidValue, WorkloadFailed
from tokenstone.model import CPU_TINY
from workloads.moe.model import MoeModel
from workloads.training.parallel.communication import CommunicationLog, Span
from workloads.training.parallel.exchange import AllToAll
from workloads.training.parallel.layout import Groups, Layout, make_groups
from workloads.training.parallel.pipeline import Pipeline, PipelinePlan

SHAPE = CPU_TINY.model_copy(update={"layers": 4})
LAYOUT = Layout(pipeline=2, experts=2)
CPU = torch.device("cpu")


def _plan(overlap: bool = True) -> PipelinePlan:
    return PipelinePlan("DualPipeV", micro_batches=4, batch_sequences=4, sequence_length=8, overlap=overlap)


def _step(groups: Groups, exchange: AllToAll, plan: PipelinePlan) -> list[Span]:
    ids_BT = torch.randint(SHAPE.vocabulary, (4, 8), generator=torch.Generator().manual_seed(groups.data_rank))
    with Pipeline(MoeModel(SHAPE), groups, CPU, plan, exchange.log, exchange=exchange) as pipeline:
        pipeline.step(ids_BT, ids_BT)
    return exchange.log.take()


def _simultaneous_waits(overlap: bool) -> int:
    groups = make_groups(LAYOUT, deadline_seconds=30)
    exchange = AllToAll(groups.experts_forward, groups.experts_backward, CommunicationLog(), latency_seconds=0.005)
    spans = _step(groups, exchange, _plan(overlap))
    waits = sorted((span for span in spans if span.activity != "compute"), key=lambda span: span.start)
    return sum(later.start < earlier.end for earlier, later in pairwise(waits))


def test_pairs_run_at_the_same_time_only_if_overlap_is_on(run_ranks) -> None:  # type: ignore[no-untyped-def]
    assert all(count > 0 for count in run_ranks(4, _simultaneous_waits, True))
    assert run_ranks(4, _simultaneous_waits, False) == [0, 0, 0, 0]  # one thread waits for one thing at a time


def _shared_group(overlap: bool) -> None:
    groups = make_groups(LAYOUT, deadline_seconds=30)
    shared = dataclasses.replace(groups, experts_backward=groups.experts_forward)
    Pipeline(MoeModel(SHAPE), shared, CPU, _plan(overlap), CommunicationLog()).close()


def test_overlap_with_one_group_for_both_passes_is_refused(run_ranks) -> None:  # type: ignore[no-untyped-def]
    errors = run_ranks(4, _shared_group, True, return_errors=True)
    assert all(isinstance(error, InvalidValue) and "share a process group" in error.what for error in errors)
    assert run_ranks(4, _shared_group, False) == [None] * 4  # in turns, one group does


class _Dying(AllToAll):
    """Ends the process in the middle of the step."""

    remaining = 12

    def transfer(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.remaining -= 1
        if dist.get_rank() == 3 and self.remaining == 0:
            os._exit(9)
        return super().transfer(*args, **kwargs)


def _one_dies() -> list[Span]:
    groups = make_groups(LAYOUT, deadline_seconds=5)
    exchange = _Dying(groups.experts_forward, groups.experts_backward, CommunicationLog())
    return _step(groups, exchange, _plan())


def test_a_rank_that_dies_in_a_step_is_one_clear_error_on_the_others(run_ranks) -> None:  # type: ignore[no-untyped-def]
    *survivors, dead = run_ranks(4, _one_dies, return_errors=True, deadline=5.0)
    assert isinstance(dead, EOFError)
    for error in survivors:
        assert isinstance(error, WorkloadFailed), error
        assert "was not completed" in error.what


def _wrong_batch() -> None:
    groups = make_groups(Layout(pipeline=2), deadline_seconds=30)
    with Pipeline(MoeModel(SHAPE), groups, CPU, _plan(), CommunicationLog()) as pipeline:
        pipeline.step(torch.zeros(3, 8, dtype=torch.int64), torch.zeros(3, 8, dtype=torch.int64))


def test_a_batch_of_another_size_is_refused(run_ranks) -> None:  # type: ignore[no-untyped-def]
    errors = run_ranks(2, _wrong_batch, return_errors=True)
    assert all(isinstance(error, InvalidValue) and "planned for (4, 8)" in error.hint for error in errors)
