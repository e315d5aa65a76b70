"""Who works with whom: the ranks of a run as a grid of pipeline stages, replicas of the experts, and expert shards.

    rank = (pipeline rank · replicas + replica) · expert ranks + expert rank

Ranks of one pipeline rank hold the same layers and see different data: they are the data-parallel group. It
consists of `replicas` expert-parallel groups; each holds every expert of the layer once.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass

import torch.distributed as dist

from tokenstone.errors import InvalidValue
from tokenstone.model import ModelShape
from workloads.training.parallel.communication import collective


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of the grid."""

    pipeline: int = 1
    replicas: int = 1
    experts: int = 1

    def __post_init__(self) -> None:
        if min(self.pipeline, self.replicas, self.experts) < 1:
            raise InvalidValue(f"{self}", where="layout", hint="every size is 1 or more")

    @property
    def data(self) -> int:
        """Ranks that hold the same layers, each with its own part of the batch."""
        return self.replicas * self.experts

    @property
    def size(self) -> int:
        """Ranks of the whole run."""
        return self.pipeline * self.data

    def check(self, shape: ModelShape, world_size: int) -> None:
        """Raise InvalidValue unless `world_size` ranks form this grid and the experts divide among theirs."""
        if self.size != world_size:
            raise InvalidValue(
                f"pipeline {self.pipeline} × replicas {self.replicas} × experts {self.experts} is {self.size} ranks, "
                f"but {world_size} were started",
                where="layout", hint=f"start {self.size} processes, or change the layout",
            )  # fmt: skip
        if shape.experts is not None and shape.experts.routed % self.experts:
            raise InvalidValue(
                f"{shape.experts.routed} experts do not divide among {self.experts} ranks", where="layout",
                hint=f"use a divisor of {shape.experts.routed}",
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Groups:
    """This rank's process groups, and its coordinates in the grid."""

    layout: Layout
    pipeline_rank: int
    data_rank: int
    pipeline: dist.ProcessGroup
    data: dist.ProcessGroup
    expert_replicas: dist.ProcessGroup
    experts_forward: dist.ProcessGroup
    """For the exchanges of forward passes."""
    experts_backward: dist.ProcessGroup
    """The same ranks once more, for the exchanges of backward passes: see `dualpipev`."""

    @property
    def expert_rank(self) -> int:
        """Which part of the experts this rank holds."""
        return self.data_rank % self.layout.experts


def make_groups(layout: Layout, *, deadline_seconds: float) -> Groups:
    """Make all groups of the grid. A collective: every rank calls it, once, inside `processes.joined`.

    Each group is given the deadline: torch would let a new group wait for 30 minutes, whatever the default has.
    Raises WorkloadFailed when another rank does not take part.
    """
    size, timeout = layout.size, datetime.timedelta(seconds=deadline_seconds)

    def group(key: Callable[[int], object]) -> dist.ProcessGroup:
        members: dict[object, list[int]] = {}
        for rank in range(size):
            members.setdefault(key(rank), []).append(rank)
        with collective("making the process groups"):
            mine, _ = dist.new_subgroups_by_enumeration(list(members.values()), timeout=timeout)
        assert isinstance(mine, dist.ProcessGroup)  # every rank is in one of them
        return mine

    rank = dist.get_rank()
    return Groups(
        layout,
        pipeline_rank=rank // layout.data,
        data_rank=rank % layout.data,
        pipeline=group(lambda rank: rank % layout.data),
        data=group(lambda rank: rank // layout.data),
        expert_replicas=group(lambda rank: (rank // layout.data, rank % layout.experts)),
        experts_forward=group(lambda rank: rank // layout.experts),
        experts_backward=group(lambda rank: rank // layout.experts),
    )
