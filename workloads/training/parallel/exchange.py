"""How rows travel between the ranks that hold a layer's experts, and how to let them travel otherwise.

An `Exchange` moves rows and knows nothing of gradients. What it carries is up to it: subclass `AllToAll` and
override `dispatch` to send fewer bits, say scales and fp8 values in one uint8 message. Rows that go out are the
activations of the forward pass and the gradients of the combined rows; rows that come home are the experts' outputs
and the gradients of the dispatched rows. So what is overridden here holds for both passes.

Shape suffixes: P rows of this rank's tokens, sorted by expert; Q rows that this rank's experts get; D model,
R ranks of the group, E experts, e experts of one rank.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from tokenstone.errors import InvalidValue
from workloads.training.parallel.communication import CommunicationLog, collective


class Pass(Enum):
    """Which pass of training an exchange belongs to. Each has its own process group."""

    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True, slots=True)
class Plan:
    """How many rows go where, in one layer and one micro-batch."""

    sent_R: list[int]
    """Rows of ours for each rank."""
    received_R: list[int]
    """Rows for our experts from each rank."""
    load_e: Tensor
    """Rows that each of our experts gets."""
    by_expert_Q: Tensor
    """Order that sorts received rows (by rank, then expert) by expert."""
    by_rank_Q: Tensor
    """Its inverse."""


class Exchange(Protocol):
    """Moves rows between the ranks of a group. Every rank of it makes the same calls in the same order."""

    def plan(self, load_E: Tensor, direction: Pass) -> Plan:
        """Tell the others how many rows each expert gets from here; learn what comes from them."""

    def dispatch(self, rows_PD: Tensor, plan: Plan, direction: Pass) -> Tensor:
        """Send rows out to the ranks of their experts: rows_PD -> rows_QD, by rank, then expert."""

    def combine(self, rows_QD: Tensor, plan: Plan, direction: Pass) -> Tensor:
        """Bring rows home to the ranks of their tokens: rows_QD -> rows_PD."""


class AllToAll:
    """The plain exchange: rows as they are, by all-to-all with uneven splits.

    `latency_seconds` makes each message arrive that much later, `bytes_per_second` later by the time that its bytes
    would take: a simulated slow link, for tests and benchmarks.
    """

    def __init__(
        self,
        forward: dist.ProcessGroup,
        backward: dist.ProcessGroup,
        log: CommunicationLog,
        *,
        latency_seconds: float = 0.0,
        bytes_per_second: float = math.inf,
    ) -> None:
        if latency_seconds < 0:
            raise InvalidValue(f"latency of {latency_seconds:g} s", where="exchange", hint="give 0 or more")
        self.groups = {Pass.FORWARD: forward, Pass.BACKWARD: backward}
        self.log = log
        self.latency_seconds, self.bytes_per_second = latency_seconds, bytes_per_second
        self.rank, self.ranks = dist.get_rank(forward), dist.get_world_size(forward)

    def plan(self, load_E: Tensor, direction: Pass) -> Plan:
        """Exchange the counts: one all-to-all of E integers."""
        per_rank = len(load_E) // self.ranks
        even_R = [per_rank] * self.ranks
        arriving_Re = self.transfer(load_E, even_R, even_R, direction, "counts").view(self.ranks, per_rank)
        expert_Re = torch.arange(per_rank, device=load_E.device).repeat(self.ranks)
        by_expert_Q = expert_Re.repeat_interleave(arriving_Re.flatten()).argsort(stable=True)
        return Plan(
            sent_R=load_E.view(self.ranks, per_rank).sum(dim=1).tolist(),
            received_R=arriving_Re.sum(dim=1).tolist(),
            load_e=arriving_Re.sum(dim=0),
            by_expert_Q=by_expert_Q,
            by_rank_Q=by_expert_Q.argsort(),
        )

    def dispatch(self, rows_PD: Tensor, plan: Plan, direction: Pass) -> Tensor:
        """Send rows out as they are."""
        return self.transfer(rows_PD, plan.sent_R, plan.received_R, direction, "dispatch")

    def combine(self, rows_QD: Tensor, plan: Plan, direction: Pass) -> Tensor:
        """Bring rows home as they are."""
        return self.transfer(rows_QD, plan.received_R, plan.sent_R, direction, "combine")

    def transfer(self, rows: Tensor, sent_R: list[int], received_R: list[int], direction: Pass, name: str) -> Tensor:
        """One all-to-all: `sent_R[r]` rows to rank r, in order; back come `received_R[r]` rows from each rank r.

        Any dtype but float8, which torch's collectives do not carry: send those as uint8 (`Tensor.view`).
        """
        arrived = rows.new_empty((sum(received_R), *rows.shape[1:]))
        row_bytes = rows[:1].numel() * rows.element_size() if len(rows) else 0
        away = sum(sent_R) - sent_R[self.rank]
        wait = self.log.waiting(
            name,
            "exposed_communication",
            sent_bytes=away * row_bytes,
            buffer_bytes=sum(sent_R) * row_bytes,
            stream=direction.value,
        )
        with wait, collective(name):
            dist.all_to_all_single(arrived, rows.contiguous(), received_R, sent_R, group=self.groups[direction])
            come = (sum(received_R) - received_R[self.rank]) * row_bytes
            if delay := self.latency_seconds + max(away * row_bytes, come) / self.bytes_per_second:
                time.sleep(delay)
        return arrived
