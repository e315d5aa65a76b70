"""A rank that waits for a slower one is told apart from one that waits for the link."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist

from workloads.training.parallel.communication import CommunicationLog, Span
from workloads.training.parallel.exchange import AllToAll, Pass
from workloads.training.parallel.imbalance import divide_waits
from workloads.training.parallel.layout import Layout, make_groups

LATE_SECONDS, LATENCY_SECONDS = 0.2, 0.05


def _one_comes_late() -> dict[str, float]:
    """Seconds by activity of an exchange to which rank 1 comes late, over a slow link."""
    groups = make_groups(Layout(experts=2), deadline_seconds=30)
    log = CommunicationLog()
    exchange = AllToAll(groups.experts_forward, groups.experts_backward, log, latency_seconds=LATENCY_SECONDS)
    exchange.plan(torch.tensor([1, 1]), Pass.FORWARD)  # meet, and let nothing of that be measured
    log.take()
    if dist.get_rank() == 1:
        time.sleep(LATE_SECONDS)
    exchange.plan(torch.tensor([1, 1]), Pass.FORWARD)
    spans = log.take()
    before = sum(span.seconds for span in spans)
    divided = divide_waits(spans, groups.experts_forward, torch.device("cpu"))
    seconds = {"before": before}
    for span in divided:
        seconds[span.activity] = seconds.get(span.activity, 0.0) + span.seconds
    return seconds


def test_waiting_for_a_late_rank_is_imbalance_and_the_link_is_communication(run_ranks):
    early, late = run_ranks(2, _one_comes_late)
    assert early["load_imbalance"] > LATE_SECONDS / 2
    assert late.get("load_imbalance", 0.0) < LATE_SECONDS / 2
    for seconds in (early, late):
        assert seconds["exposed_communication"] >= LATENCY_SECONDS * 0.99
        divided = seconds["exposed_communication"] + seconds.get("load_imbalance", 0.0)
        assert divided == pytest.approx(seconds["before"])  # no second is lost or counted twice


def _two_streams() -> list[Span]:
    """Waits of both directions whose ends are in another order on each rank."""
    groups = make_groups(Layout(experts=2), deadline_seconds=30)
    first = dist.get_rank() == 0
    spans = [
        Span("dispatch", "exposed_communication", 0.0, 1.0 if first else 4.0, 8, "forward"),
        Span("dispatch", "exposed_communication", 0.0, 3.0 if first else 2.0, 8, "backward"),
        Span("compute", "compute", 5.0, 6.0),
    ]
    return divide_waits(spans if first else spans[::-1], groups.experts_forward, torch.device("cpu"))


def test_each_stream_is_compared_with_itself(run_ranks):
    for rank, (forward, backward) in enumerate([(0.0, 1.0), (3.0, 0.0)]):
        spans = run_ranks(2, _two_streams)[rank]
        imbalance = {span.stream: span.seconds for span in spans if span.activity == "load_imbalance"}
        assert imbalance.get("forward", 0.0) == pytest.approx(forward)
        assert imbalance.get("backward", 0.0) == pytest.approx(backward)
        assert [span for span in spans if not span.stream] == [Span("compute", "compute", 5.0, 6.0)]
        assert sum(span.sent_bytes for span in spans) == 16
