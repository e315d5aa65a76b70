from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist

from tokenstone.errors import InvalidValue, WorkloadFailed
from workloads.training.parallel.communication import CommunicationLog
from workloads.training.parallel.data_parallel import all_reduce
from workloads.training.parallel.layout import Groups, Layout, make_groups
from workloads.training.parallel.processes import Place, joined, place_from_environment


def test_torchrun_and_slurm_say_the_same_place() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "n0", "MASTER_PORT": "29500"}
    slurm = {
        "SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "MASTER_ADDR": "n0", "MASTER_PORT": "29500",
    }  # fmt: skip
    assert place_from_environment(torchrun) == place_from_environment(slurm) == Place(3, 8, 1, "tcp://n0:29500")


def test_kubernetes_names_no_local_rank_where_a_pod_is_one_process() -> None:
    pod = {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "train-master-0", "MASTER_PORT": "23456"}
    assert place_from_environment(pod) == Place(2, 4, 0, "tcp://train-master-0:23456")


def test_a_restart_by_torchrun_is_told_where_its_store_is_shared() -> None:
    torchrun = {
        "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "n0", "MASTER_PORT": "29500",
        "TORCHELASTIC_RESTART_COUNT": "2",
    }  # fmt: skip
    assert place_from_environment(torchrun).attempt == 0
    assert place_from_environment(torchrun | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).attempt == 2


def test_ranks_of_one_slurm_job_meet_at_one_port() -> None:
    common = {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_ID": "4711"}
    first, second = (
        place_from_environment({**common, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}).rendezvous for rank in "01"
    )
    assert first == second
    assert first == "tcp://127.0.0.1:24711"


def test_without_a_launcher_one_process_is_alone() -> None:
    assert place_from_environment({}) == Place(0, 1, 0, None)
    with joined(place_from_environment({}), torch.device("cpu")):
        assert dist.get_world_size() == 1
        assert dist.get_backend() == "gloo"
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"RANK": "0"}, "WORLD_SIZE"),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "rank 2"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_NNODES": "2"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK"),
        ({"SLURM_NTASKS": "2"}, "SLURM_PROCID"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}, "SLURM_LOCALID"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_NNODES": "1"}, "MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}, "MASTER_ADDR"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "70000"}, "70000"),
        ({"RANK": "0", "WORLD_SIZE": "-2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "WORLD_SIZE"),
    ],
)
def test_a_wrong_environment_is_named(environment: dict[str, str], names: str) -> None:
    with pytest.raises(InvalidValue, match=names):
        place_from_environment(environment)


def test_the_group_is_left_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), joined(Place(), torch.device("cpu")):
        _ = 1 / 0
    assert not dist.is_initialized()


@pytest.mark.parametrize("deadline", [0.0, -1.0, float("nan")])
def test_a_deadline_has_to_be_positive(deadline: float) -> None:
    with pytest.raises(InvalidValue, match="deadline"), joined(Place(), torch.device("cpu"), deadline_seconds=deadline):
        pass


def _grid() -> tuple[int, ...]:
    groups: Groups = make_groups(Layout(pipeline=2, replicas=1, experts=2), deadline_seconds=30)
    log = CommunicationLog()

    def members(group: dist.ProcessGroup) -> int:
        x = torch.tensor([2 ** dist.get_rank()])
        all_reduce(x, group, log, "members")
        return int(x)

    assert groups.experts_forward is not groups.experts_backward
    everyone = (groups.pipeline, groups.data, groups.expert_replicas, groups.experts_forward, groups.experts_backward)
    return (groups.pipeline_rank, groups.expert_rank, *(members(group) for group in everyone))


def test_groups_of_the_grid(run_ranks) -> None:  # type: ignore[no-untyped-def]
    # pipeline rank, expert rank; then the members of each group as a bit mask of global ranks
    assert run_ranks(4, _grid) == [
        (0, 0, 0b0101, 0b0011, 0b0001, 0b0011, 0b0011),
        (0, 1, 0b1010, 0b0011, 0b0010, 0b0011, 0b0011),
        (1, 0, 0b0101, 0b1100, 0b0100, 0b1100, 0b1100),
        (1, 1, 0b1010, 0b1100, 0b1000, 0b1100, 0b1100),
    ]


def _one_rank_stays_away() -> float:
    groups = make_groups(Layout(experts=2), deadline_seconds=1.0)
    if dist.get_rank() == 1:
        dist.distributed_c10d._get_default_store().wait(["rank 0 is done"])
        return 0.0
    started = time.monotonic()
    try:
        with pytest.raises(WorkloadFailed, match="gradient_reduction was not completed"):
            all_reduce(torch.ones(3), groups.experts_backward, CommunicationLog(), "gradient_reduction")
    finally:
        dist.distributed_c10d._get_default_store().set("rank 0 is done", "")
    return time.monotonic() - started


def test_a_collective_that_nobody_answers_ends_at_its_deadline(run_ranks) -> None:  # type: ignore[no-untyped-def]
    waited, _ = run_ranks(2, _one_rank_stays_away)
    assert waited < 20  # torch's own deadline for a group is 30 minutes


def _dies() -> None:
    groups = make_groups(Layout(experts=2), deadline_seconds=20.0)
    if dist.get_rank() == 1:
        os._exit(9)
    all_reduce(torch.ones(3), groups.data, CommunicationLog(), "expert_load")


def test_a_rank_that_dies_is_an_error_on_the_others(run_ranks) -> None:  # type: ignore[no-untyped-def]
    survivor, dead = run_ranks(2, _dies, return_errors=True)
    assert isinstance(survivor, WorkloadFailed), survivor
    assert "was not completed" in survivor.what
    assert isinstance(dead, EOFError)
