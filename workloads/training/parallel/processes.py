"""Joining and leaving the processes of a run: one rank a device, with a deadline on every collective."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

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
    attempt: int = 0
    """How often torchrun has restarted the processes, where they all meet in one store: it holds old addresses."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or self.local_rank < 0:
            raise InvalidValue(
                f"rank {self.rank} (local {self.local_rank}) of {self.size} processes", where="process environment",
                hint="ranks count from 0 and end before the number of processes",
            )  # fmt: skip


def place_from_environment(environment: Mapping[str, str] = os.environ) -> Place:
    """Read the place that a launcher has given this process; alone if none has started it.

    torchrun sets RANK, WORLD_SIZE and LOCAL_RANK. So does whoever starts one process a pod on Kubernetes (Kubeflow's
    PyTorchJob), but for LOCAL_RANK, which is 0 then. Slurm's srun has names of its own.

    Raises InvalidValue for a variable that is missing or no number, or when Slurm ran on several nodes and nothing
    says where to meet.
    """
    for names in (_TORCHRUN, _SLURM):
        if any(name in environment for name in names[:2]):
            rank, size = (_whole_number(environment, name) for name in names[:2])
            local_rank = _whole_number(environment, names[2]) if names[2] in environment or names is _SLURM else 0
            address = environment.get("MASTER_ADDR") or _slurm_address(environment)
            shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            attempt = _whole_number(environment, "TORCHELASTIC_RESTART_COUNT") if shared else 0
            return Place(rank, size, local_rank, f"tcp://{address}:{_port(environment)}", attempt)
    return Place()


def _whole_number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None or not text.isdecimal():
        raise InvalidValue(f"{name} is {text!r}", where="process environment", hint="start with torchrun or srun")
    return int(text)


def _port(environment: Mapping[str, str]) -> int:
    if not environment.get("MASTER_PORT"):
        return _slurm_port(environment)
    port = _whole_number(environment, "MASTER_PORT")
    if not 0 < port < 2**16:
        raise InvalidValue(f"MASTER_PORT is {port}", where="process environment", hint="ports end at 65535")
    return port


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
    timeout = datetime.timedelta(seconds=deadline_seconds)
    try:
        dist.init_process_group(
            backend,
            store=_store(place, timeout),
            rank=place.rank,
            world_size=place.size,
            timeout=timeout,
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


def _store(place: Place, timeout: datetime.timedelta) -> Store:
    """Where the ranks of this attempt leave their addresses for each other."""
    if place.rendezvous is None:
        alone: Store = HashStore()
        return alone
    store, _, _ = next(rendezvous(place.rendezvous, place.rank, place.size, timeout=timeout))
    store.set_timeout(timeout)
    return PrefixStore(f"attempt-{place.attempt}", store)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
