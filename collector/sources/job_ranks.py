"""Ranks of distributed programs, and jobs, by the environment of a job's processes (/proc/PID/environ).

torchrun, Open MPI, MPICH and Slurm each tell their processes which rank they are, and Slurm which devices the job or
step has. Only the variables named here are looked at; an environment may hold secrets, and nothing else of it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from collector.sources.job_files import Job, parse_devices

_MOST_PROCESSES = 1024
# Launcher, rank, local rank and number of ranks. torchrun comes first: it runs inside the others.
_LAUNCHERS = (
    ("torchrun", "RANK", "LOCAL_RANK", "WORLD_SIZE"),
    ("openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpich", "PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"),
    ("slurm", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"),
)
_VISIBLE = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ASCEND_RT_VISIBLE_DEVICES",
    "MUSA_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
)
_JOB = ("SLURM_JOB_ID", "SLURM_JOB_USER", "SLURM_JOB_ACCOUNT", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS")


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank. `device` is the number or id of its device as the launcher gave it, or empty."""

    launcher: str
    rank: int
    world_size: int
    device: str


def parse_environ(data: bytes) -> dict[str, str]:
    """Parse /proc/PID/environ to the variables that ranks and jobs are told by; all others are left out."""
    wanted = {name for launcher in _LAUNCHERS for name in launcher[1:]} | {*_VISIBLE, *_JOB}
    pairs = (entry.partition(b"=") for entry in data.split(b"\0"))
    return {
        name.decode(errors="replace"): value.decode(errors="replace")
        for name, _, value in pairs
        if name.decode(errors="replace") in wanted
    }


def rank_of(environment: dict[str, str]) -> Rank | None:
    """Return the rank that these variables describe, or None.

    >>> rank_of({"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "CUDA_VISIBLE_DEVICES": "4,5"})
    Rank(launcher='torchrun', rank=9, world_size=16, device='5')
    """
    for launcher, rank, local, size in _LAUNCHERS:
        if environment.get(rank, "").isdigit() and environment.get(size, "").isdigit():
            place = environment.get(local, "")
            visible = next((environment[name] for name in _VISIBLE if environment.get(name)), None)
            device = ""
            if place.isdigit():
                devices = parse_devices(visible) if visible is not None else ()
                if visible is None:
                    device = place
                elif len(devices) == 1:
                    device = devices[0]  # the launcher gave each rank its own
                elif int(place) < len(devices):
                    device = devices[int(place)]
            return Rank(launcher, int(environment[rank]), int(environment[size]), device)
    return None


def job_of(environment: dict[str, str], alias: str) -> Job | None:
    """Return the Slurm job that these variables describe, or None; `alias` is what its control group is called.

    >>> job_of({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "0,1"}, "s5K1KKYAYG5D00").devices
    ('0', '1')
    """
    if not environment.get("SLURM_JOB_ID"):
        return None
    return Job(
        manager="slurm",
        id=environment["SLURM_JOB_ID"],
        user=environment.get("SLURM_JOB_USER", ""),
        account=environment.get("SLURM_JOB_ACCOUNT", ""),
        devices=parse_devices(environment.get("SLURM_JOB_GPUS") or environment.get("SLURM_STEP_GPUS", "")),
        alias=alias,
    )


def read_environments(root: Path, cgroup: str) -> Iterator[dict[str, str]]:
    """Yield the variables of the processes of a control group and those below it; what cannot be read is left out."""
    seen = 0
    for procs in sorted((root / cgroup).rglob("cgroup.procs")):
        try:
            pids = procs.read_text(encoding="utf-8").split()
        except OSError:
            continue
        for pid in pids:
            seen += 1
            if seen > _MOST_PROCESSES:
                return
            try:
                yield parse_environ((root / "proc" / pid / "environ").read_bytes())
            except OSError:
                continue  # it has ended, or belongs to another user
