"""Joining and leaving the processes of a run: one rank a device, with a deadline on every collective."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from tokenstone.errors import InvalidValue, WorkloadFailed

DEADLINE_SECONDS = 300.0
"""How long a collective may take before the run is given up: far beyond any honest wait, far below torch's 30 min."""

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
_SLURM_PORTS = range(20_000, 30_000)


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process stands among all, and where they meet: a torch init method, None for one process alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    rendezvous: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or self.local_rank < 0:
            raise InvalidValue(
                f"rank {self.rank} (local {self.local_rank}) of {self.size} processes", where="process environment",
                hint="ranks count from 0 and end before the number of processes",
            )  # fmt: skip


def place_from_environment(environment: Mapping[str, str] = os.environ) -> Place:
    """Read the place that torchrun or Slurm's srun has given this process; alone if neither has started it.

    Raises InvalidValue for a variable that is missing or no number, or when Slurm ran on several nodes and nothing
    says where to meet.
    """
    for names in (_TORCHRUN, _SLURM):
        if names[0] in environment:
            rank, size, local_rank = (_whole_number(environment, name) for name in names)
            address = environment.get("MASTER_ADDR") or _slurm_address(environment)
            port = environment.get("MASTER_PORT") or _slurm_port(environment)
            return Place(rank, size, local_rank, f"tcp://{address}:{port}")
    return Place()


def _whole_number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None or not text.isdecimal():
        raise InvalidValue(f"{name} is {text!r}", where="process environment", hint="start with torchrun or srun")
    return int(text)


def _slurm_address(environment: Mapping[str, str]) -> str:
    if environment.get("SLURM_NNODES", environment.get("SLURM_JOB_NUM_NODES")) == "1":
        return "127.0.0.1"
    raise InvalidValue(
        "MASTER_ADDR is not set", where="process environment",
        hint='under srun: export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
    )  # fmt: skip


def _slurm_port(environment: Mapping[str, str]) -> int:
    """A port that all ranks of a job compute alike, and two jobs on one node rarely."""
    if "SLURM_JOB_ID" not in environment:
        raise InvalidValue("MASTER_PORT is not set", where="process environment", hint="export MASTER_PORT=29500")
    return _SLURM_PORTS[_whole_number(environment, "SLURM_JOB_ID") % len(_SLURM_PORTS)]


def device_of(place: Place) -> torch.device:
    """Return this rank's device: the accelerator of its local rank, or the CPU; raises InvalidValue if too few."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    if place.local_rank >= count:
        raise InvalidValue(
            f"local rank {place.local_rank}, but {count} accelerators", where="process environment",
            hint="start as many processes on a node as it has accelerators",
        )  # fmt: skip
    found = torch.accelerator.current_accelerator()
    assert found is not None  # is_available() has said so
    torch.accelerator.set_device_index(place.local_rank)
    return torch.device(found.type, place.local_rank)


@contextmanager
def joined(place: Place, device: torch.device, *, deadline_seconds: float = DEADLINE_SECONDS) -> Iterator[None]:
    """Be part of the default process group inside `with`; leave it at the end, also after an error.

    The backend is torch's own for the kind of `device` (gloo for the CPU). Raises InvalidValue for a deadline that
    is not positive or a device that torch has no backend for, WorkloadFailed when the others do not come in time.
    """
    if not deadline_seconds > 0:
        raise InvalidValue(f"deadline of {deadline_seconds:g} s", where="processes", hint="give more than 0 seconds")
    try:
        backend = dist.get_default_backend_for_device(device)
    except ValueError:
        raise InvalidValue(
            f"torch has no collectives for a {device.type} device", where="processes", hint="use one process"
        ) from None
    alone = dist.HashStore() if place.rendezvous is None else None  # type: ignore[attr-defined]
    try:
        dist.init_process_group(
            backend,
            init_method=place.rendezvous,
            store=alone,
            rank=place.rank,
            world_size=place.size,
            timeout=datetime.timedelta(seconds=deadline_seconds),
            device_id=None if device.type == "cpu" else device,
        )
    except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError
        raise WorkloadFailed(
            f"rank {place.rank} could not join {place.size} processes: {_first_line(error)}",
            where=place.rendezvous or "processes",
            hint=f"all ranks have to start within {deadline_seconds:g} s and reach that address",
        ) from error  # fmt: skip
    try:
        yield
    finally:
        dist.destroy_process_group()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
