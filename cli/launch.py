"""How the processes of a training are started: what survives them, and how often they are started again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenstone.errors import InvalidValue, UsageError
from tokenstone.run import TrainingSpec

_LAUNCHERS = (("torchrun or Kubernetes", "RANK", "WORLD_SIZE"), ("srun", "SLURM_PROCID", "SLURM_NTASKS"))


@dataclass(frozen=True, slots=True)
class Launch:
    """Arguments of the workload's process beside its spec, how often torchrun may restart it, what starts it."""

    arguments: tuple[str, ...] = ()
    max_restarts: int = 0
    prefix: tuple[str, ...] = ()
    """What goes before its command line, such as "ip netns exec NAME"."""

    @classmethod
    def of(
        cls,
        spec: TrainingSpec,
        *,
        data: Path,
        every: int | None,
        folder: Path | None,
        resume: bool,
        max_restarts: int,
        collective_timeout: float,
        profile_steps: int,
    ) -> Launch:
        """As asked for. Raises InvalidValue for a folder to which nothing is to be written."""
        wanted = every is not None or resume or max_restarts > 0
        if folder is not None and not wanted:
            raise InvalidValue(
                "nothing is written there", where="--checkpoint-folder",
                hint="give --checkpoint-every, --max-restarts or --resume, too",
            )  # fmt: skip
        arguments = ["--collective-timeout", f"{collective_timeout:g}"]
        if wanted:
            place = (folder or data / "checkpoints" / spec.spec_id).absolute()
            arguments += ["--checkpoint-folder", str(place)]
        if every is not None:
            arguments += ["--checkpoint-every", str(every)]
        if resume:
            arguments.append("--resume")
        if profile_steps:
            arguments += ["--profile-steps", str(profile_steps), "--profile-folder", str(data / "profile")]
        return cls(tuple(arguments), max_restarts)


def require_no_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """Raise UsageError where a launcher has started this command several times: each would be a run of its own."""
    for launcher, rank, size in _LAUNCHERS:
        if rank in environment and environment.get(size, "1") != "1":
            raise UsageError(
                f"{launcher} has started this command {environment[size]} times ({size})", where="train",
                hint="start it once with --nproc, or let the launcher start `python -P -m workloads.main train --spec "
                "SPEC.json --out FACTS.json`",
            )  # fmt: skip
