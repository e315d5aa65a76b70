"""What each rank has recorded, as a file of its own, and all of them as the facts of one run.

    SPOOL/live/RUN/rank-00003.json   rank 3 so far, written whole every few seconds
    SPOOL/live/RUN/rank-00003.lock   held by rank 3 while it lives
    SPOOL/live/RUN/created.json      the run as the service was asked for it

Ranks on several nodes share the folder over a shared file system; nothing else connects them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from tokenstone.run import JobSpec
from tokenstone.wire import (
    DevicePhases,
    Name,
    Phase,
    RunCreate,
    RunDevice,
    RunId,
    Seconds,
    Text,
    Tokens,
    TrainingFacts,
    UnixSeconds,
    Whole,
    WireModel,
)

LEASE_SECONDS = 120.0


class RankPart(WireModel):
    """One rank's record, up to `elapsed_seconds` after its start."""

    run_id: RunId
    cluster: Name
    spec: JobSpec
    rank: Whole
    world_size: Whole
    device: RunDevice
    started_unix_seconds: UnixSeconds
    elapsed_seconds: Seconds
    phases: list[Phase] = Field(max_length=200_000)
    tokens: Tokens
    loss_first: float | None = None
    loss_last: float | None = None
    finished: bool = False
    provenance: dict[str, Text] = Field(default_factory=dict)


class Finished(WireModel):
    """A run that is over, ready for the service."""

    create: RunCreate
    facts: TrainingFacts


def write_part(folder: Path, part: RankPart, *, sync: bool = False) -> None:
    """Write a part whole or not at all; with `sync` it survives the machine too. Raises OSError."""
    write_synced(folder / f"rank-{part.rank:05d}.json", part.model_dump_json(), sync=sync)


def write_synced(path: Path, text: str, *, sync: bool = True) -> None:
    """Write a file whole or not at all; raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def hold(folder: Path, rank: int) -> int:
    """Say that a rank lives, as long as the process does; returns the descriptor. Raises OSError."""
    descriptor = os.open(folder / f"rank-{rank:05d}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def release(descriptor: int) -> None:
    """End what `hold` began, also for children that have inherited the descriptor."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def lives(folder: Path) -> bool:
    """Whether any rank still records there."""
    for path in folder.glob("rank-*.lock"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
    return False


def read_parts(folder: Path, *, broken: Callable[[Path, str], None] = lambda _path, _why: None) -> list[RankPart]:
    """The parts that are there, by rank; `broken` is told of files that are none."""
    parts = []
    for path in sorted(folder.glob("rank-*.json")):
        try:
            parts.append(RankPart.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            broken(path, str(error))
    return parts


def run_of(parts: Sequence[RankPart]) -> RunCreate:
    """The run of these ranks: one device each."""
    first = parts[0]
    devices = [part.device for part in parts]
    return RunCreate(
        run_id=first.run_id, cluster=first.cluster, spec=first.spec, devices=devices, lease_seconds=LEASE_SECONDS
    )


def facts_of(
    parts: Sequence[RankPart], *, started_unix_seconds: float | None = None, allocated_seconds: float | None = None
) -> TrainingFacts:
    """The facts of all ranks on one scale: from the first rank's start to the last one's end.

    Who brackets the job knows better when its devices were held: then what comes before a rank's first phase is its
    start-up. Tokens are those of all ranks together. Wall clocks place ranks beside each other; each rank's own times
    are monotonic.
    """
    start = min(part.started_unix_seconds for part in parts)
    end = max(part.started_unix_seconds + part.elapsed_seconds for part in parts)
    bracketed = started_unix_seconds is not None and allocated_seconds is not None
    if started_unix_seconds is not None and allocated_seconds is not None:
        start, end = started_unix_seconds, started_unix_seconds + allocated_seconds
    allocated = max(end - start, 1e-9)
    missing = sorted(set(range(parts[0].world_size)) - {part.rank for part in parts})
    provenance = dict(parts[0].provenance)
    if missing:
        provenance["missing_ranks"] = ", ".join(map(str, missing))[:500]
    unfinished = [str(part.rank) for part in parts if not part.finished]
    if unfinished:
        provenance["ended_without_a_word"] = f"ranks {', '.join(unfinished)}"[:500]
    return TrainingFacts(
        started_unix_seconds=start,
        allocated_seconds=allocated,
        devices=[
            DevicePhases(device=part.device.id, phases=_moved(part, start, allocated, bracketed)) for part in parts
        ],
        tokens=sum(part.tokens for part in parts),
        loss_first=parts[0].loss_first,
        loss_last=parts[0].loss_last,
        provenance=provenance,
    )


def _moved(part: RankPart, start: float, allocated: float, bracketed: bool) -> list[Phase]:
    """The phases on the run's scale; a clock that was set meanwhile does not push them out of it."""
    last = part.phases[-1] if part.phases else None
    length = last.start_seconds + last.duration_seconds if last else 0.0
    offset = min(max(0.0, part.started_unix_seconds - start), max(0.0, allocated - length))
    moved = [phase.model_copy(update={"start_seconds": phase.start_seconds + offset}) for phase in part.phases]
    if bracketed and offset > 0:
        before = Phase(kind="startup", start_seconds=0.0, duration_seconds=offset, activity_seconds={"startup": offset})
        return [before, *moved]
    return moved
