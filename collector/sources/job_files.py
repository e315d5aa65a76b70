"""The files in which Slurm's prolog tells the agent of jobs: /run/tokenstone/jobs, one file for each job.

A file has lines NAME=value with Slurm's own names, as `env | grep ^SLURM_` prints them; what is not known is ignored:

    SLURM_JOB_ID=4711          needed
    SLURM_JOB_USER=alice       SLURM_JOB_ACCOUNT=physics      SLURM_JOB_SLUID=s5K1KKYAYG5D00
    SLURM_JOB_GPUS=0,1,2-3     the devices: numbers, ranges or UUIDs

The prolog writes it beside and renames it, so that no half file is ever seen; the epilog removes it. The name of the
file plays no part. Only names, numbers and devices are taken from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = "run/tokenstone/jobs"
_LINE = re.compile(r"(?:export )?([A-Z_]+)=(['\"]?)(.*)\2")
_MOST_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Job:
    """A job and the devices it holds, each by number or by id; `alias` is another name of it (its SLUID)."""

    manager: str
    id: str
    user: str = ""
    account: str = ""
    devices: tuple[str, ...] = ()
    alias: str = ""


def parse_devices(text: str) -> tuple[str, ...]:
    """Parse a list of devices: numbers, ranges of numbers, or ids.

    >>> parse_devices("0,2-4"), parse_devices("GPU-8f3e-a,GPU-11"), parse_devices("NoDevFiles")
    (('0', '2', '3', '4'), ('GPU-8f3e-a', 'GPU-11'), ())
    """
    devices: list[str] = []
    for item in text.split(","):
        word = item.strip()
        span = re.fullmatch(r"(\d{1,3})-(\d{1,3})", word)
        if span:
            devices += [str(number) for number in range(int(span[1]), int(span[2]) + 1)]
        elif word and word not in {"NoDevFiles", "-1", "all", "none", "void"}:
            devices.append(word)
    return tuple(devices)


def parse_job(text: str) -> Job | None:
    """Parse one file; None where it names no job."""
    values = {match[1]: match[3].strip() for match in map(_LINE.fullmatch, text.splitlines()) if match}
    job = values.get("SLURM_JOB_ID", "")
    if not job:
        return None
    return Job(
        manager="slurm",
        id=job,
        user=values.get("SLURM_JOB_USER", ""),
        account=values.get("SLURM_JOB_ACCOUNT", ""),
        devices=parse_devices(values.get("SLURM_JOB_GPUS", "")),
        alias=values.get("SLURM_JOB_SLUID", ""),
    )


def read_jobs(root: Path) -> Iterator[Job]:
    """Yield the jobs that the prolog tells of; raises OSError where there is no such folder."""
    for path in sorted((root / FOLDER).iterdir()):
        if path.name.startswith(".") or path.name.endswith(".tmp"):
            continue
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                job = parse_job(file.read(_MOST_BYTES))
        except OSError:
            continue  # the epilog has just removed it
        if job is not None:
            yield job
