"""Going on after a death: checkpoints while the training runs, and afterwards the right step, clock and facts.

    attempt 1   startup | step 0 1 2 3 4 | checkpoint of 5 | step 5 6 7 - killed
    attempt 2   recovery: from the last thing known to here | step 5 6 7 8 ...

Of attempt 1, steps 5 to 7 are lost and become `recovery` as well. Under torchrun the devices were held all the time,
so the clock goes on. Where the whole job died and is resumed by hand, nobody held them in between: the new job's
clock goes on from the last instant that is known of the old one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenstone.errors import Conflict, InvalidValue, NotWritable, TokenstoneError, UsageError, WorkloadFailed
from tokenstone.run import TrainingSpec
from tokenstone.wire import PhaseKind
from workloads.progress import Progress
from workloads.recorder import TorchRecorder
from workloads.training.checkpointing import Position, TrainingCheckpoints
from workloads.training.journal import Began, Journal, Past, boot_unix_seconds
from workloads.training.parallel.communication import collective
from workloads.training.tally import StepFigures, Tally


@dataclass(frozen=True, slots=True)
class Saving:
    """Where checkpoints go and when. `restart`: how often torchrun has restarted this process."""

    folder: Path
    every: int | None = None
    """Steps between checkpoints; None writes none, and only keeps count of what would be lost."""
    resume: bool = False
    restart: int = 0

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise InvalidValue(
                f"a checkpoint every {self.every} steps", where="--checkpoint-every", hint="give 1 or more"
            )


class Trainer(Protocol):
    """What is saved of a trainer."""

    optimizer: torch.optim.Optimizer

    @property
    def saved_module(self) -> nn.Module:
        """All weights of this rank."""

    def shard_of(self, name: str) -> str:
        """Which part of the model this rank's parameter `name` is."""


class Continuation:
    """One rank's connection to its past and its future; without `saving`, it has neither."""

    def __init__(
        self, saving: Saving | None, spec: TrainingSpec, progress: Progress, *, started: float, device: torch.device
    ) -> None:
        self._saving, self._spec, self._progress = saving, spec, progress
        self.started, self.began_seconds = started, 0.0
        self.kind: PhaseKind = "startup"
        self.failed_checkpoints = 0
        self._journal_broken = self._restarted = False
        self._past = Past()
        self._checkpoints: TrainingCheckpoints | None = None
        self._trainer: Trainer | None = None
        if saving is None:
            return
        rank = dist.get_rank() if dist.is_initialized() else 0
        self._journal = Journal(saving.folder / f"journal-{rank:05d}.jsonl")
        self._past = self._journal.read()
        # torchrun counts on each node for itself, and does not count where another node has failed.
        self._restarted = bool(_latest_of_all_ranks(saving.restart, device))
        if saving.resume or self._restarted:
            self._go_on(device)
        elif self._past.began or (saving.folder / "latest").exists():
            raise Conflict(
                "holds a training that has begun", where=str(saving.folder),
                hint="go on with it by --resume, or give another --checkpoint-folder",
            )  # fmt: skip

    @property
    def restarts(self) -> int:
        """How often the training has gone on after a death."""
        return len(self._past.began)

    @property
    def lost_steps(self) -> int:
        """Steps whose work was lost by that."""
        return self._past.lost_steps()

    def _go_on(self, device: torch.device) -> None:
        past = self._past
        if past.failed is not None and self._restarted:  # torchrun tries again whatever the reason was
            kind = UsageError if past.failed.get("kind") == "usage" else WorkloadFailed
            raise kind(past.failed["what"], where=past.failed["where"], hint=past.failed["hint"])
        if past.began:
            self.kind, self.began_seconds = "recovery", past.end_seconds
        if not (self._restarted and past.began):
            self.started -= _latest_of_all_ranks(past.end_seconds, device)
        elif past.began[-1].same_clock:
            self.started = past.began[-1].started
        else:  # on another machine than before: only the wall clock leads there
            self.started = time.monotonic() - (time.time() - past.began[-1].started_unix_seconds)
        self.began_seconds = min(self.began_seconds, time.monotonic() - self.started)

    def restore(self, trainer: Trainer, tally: Tally, recorder: TorchRecorder) -> int:
        """Put trainer, tally and recorder back to the last checkpoint; return the step to go on with.

        Raises what TrainingCheckpoints does, and Conflict for the journal of another training.
        """
        saving = self._saving
        if saving is None:
            return 0
        for began in self._past.began[:1]:
            if began.spec_id != self._spec.spec_id:
                raise Conflict(
                    f"belongs to training {began.spec_id}, not to {self._spec.spec_id}", where=str(saving.folder),
                    hint="resume with the same spec, or give another folder",
                )  # fmt: skip
        self._trainer = trainer
        self._checkpoints = TrainingCheckpoints(saving.folder, spec_id=self._spec.spec_id, shard_of=trainer.shard_of)
        position = None
        if saving.resume or self._restarted:
            position = self._checkpoints.restore(trainer.saved_module, trainer.optimizer)
        step = position.step if position is not None else 0
        self._past.lose_from(step)
        recorder.take_over(self._past.phases())
        tally.figures |= self._past.figures()
        load_LE = self._past.load_at(step)
        tally.load_LE = None if load_LE is None else load_LE.to(next(trainer.saved_module.parameters()).device)
        began = Began(
            self._spec.spec_id, self.started, time.time() - recorder.elapsed_seconds(), boot_unix_seconds(), step
        )
        try:
            self._journal.began(began)
        except OSError as error:
            raise NotWritable(f"cannot write: {error.strerror}", where=str(self._journal.path)) from error
        return step

    def note(self, recorder: TorchRecorder, step: int | None = None, figures: StepFigures | None = None) -> None:
        """Write the phase that has just closed into the journal."""
        if self._saving is not None:
            self._write(lambda: self._journal.phase(recorder.latest, step, figures))

    def due(self, steps_done: int) -> bool:
        """Whether a checkpoint is to be written after so many updates."""
        return self._saving is not None and self._saving.every is not None and steps_done % self._saving.every == 0

    def save(self, steps_done: int, load_LE: Tensor | None) -> None:
        """Begin a checkpoint. One that failed is told and counted, and the training goes on without it."""
        if self._checkpoints is None or self._trainer is None:
            return
        checkpoints, trainer = self._checkpoints, self._trainer
        self.wait()
        self._write(lambda: self._journal.saved(steps_done, load_LE))
        with self._may_fail():
            checkpoints.save(trainer.saved_module, trainer.optimizer, Position(steps_done, steps_done))

    def wait(self) -> None:
        """Wait until what was begun is written."""
        if self._checkpoints is not None:
            with self._may_fail():
                self._checkpoints.wait()

    @contextmanager
    def _may_fail(self) -> Iterator[None]:
        try:
            yield
        except NotWritable as error:
            self.failed_checkpoints += 1
            self._progress.warning(f"a checkpoint failed, the training goes on without it: {error}")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Note an error that another attempt would meet again: all but those that other ranks have caused."""
        try:
            yield
        except TokenstoneError as error:
            if self._saving is not None and error.where != "communication":
                self.wait()  # what was begun is from before the error
                kind = "usage" if isinstance(error, UsageError) else "failed"
                note = {"what": error.what, "where": error.where, "hint": error.hint, "kind": kind}
                self._write(lambda: self._journal.failed(**note))
            raise

    def _write(self, write: Callable[[], None]) -> None:
        """Write into the journal; where that fails, say so once and go on without it."""
        if self._journal_broken:
            return
        try:
            write()
        except OSError as error:
            self._journal_broken = True
            self._progress.warning(f"work that is lost from now on cannot be counted: {self._journal.path}: {error}")


def _latest_of_all_ranks(seconds: float, device: torch.device) -> float:
    """The largest of all ranks' numbers."""
    if not dist.is_initialized():
        return seconds
    latest = torch.tensor([seconds], dtype=torch.float64, device=device)
    with collective("agreeing on the clock"):
        dist.all_reduce(latest, op=dist.ReduceOp.MAX)
    return float(latest)
