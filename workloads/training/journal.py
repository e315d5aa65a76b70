"""What one rank has done so far, line by line in a file that outlives it: from it the lost work is known.

    {"began": {...}}      a process began: of which training, on which clock, from which step on
    {"phase": {...}}      a phase closed; with its `step` and, where it was one, what that step counted
    {"saved": 300, ...}   a checkpoint was begun after so many updates; with the load of the experts until then
    {"failed": {...}}     the training ended by an error that another attempt would meet again

Lines are appended whole; of a line that death cut off, nothing is read. No fsync: what the system has taken survives
the process, and whoever loses the machine loses some seconds of bookkeeping, not the checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenstone.errors import InvalidFile
from tokenstone.wire import Phase
from workloads.training.tally import StepFigures

_SAME_CLOCK_SECONDS = 60.0
"""Wall clocks are set now and then; the boots of two machines are seldom so close."""


@dataclass(frozen=True, slots=True)
class Began:
    """The beginning of one process. `started`: its monotonic clock at second 0 of the allocation."""

    spec_id: str
    started: float
    started_unix_seconds: float
    boot_unix_seconds: float
    """Wall clock at the monotonic clock's zero: the same for all processes since one boot."""
    step: int
    """Updates that were done when it began."""

    @property
    def same_clock(self) -> bool:
        """Whether this process reads the same monotonic clock."""
        return abs(self.boot_unix_seconds - boot_unix_seconds()) < _SAME_CLOCK_SECONDS


def boot_unix_seconds() -> float:
    """Wall clock at the zero of the monotonic clock."""
    return time.time() - time.monotonic()


@dataclass(slots=True)
class _Entry:
    phase: Phase
    step: int | None
    figures: StepFigures | None
    lost: bool = False


@dataclass(slots=True)
class Past:
    """What earlier processes of one rank have written."""

    began: list[Began] = field(default_factory=list)
    failed: dict[str, str] | None = None
    _entries: list[_Entry] = field(default_factory=list)
    _loads: dict[int, list[list[int]]] = field(default_factory=dict)

    @property
    def end_seconds(self) -> float:
        """The last instant that is known of, from the start of the allocation."""
        return max((entry.phase.start_seconds + entry.phase.duration_seconds for entry in self._entries), default=0.0)

    def lose_from(self, step: int) -> None:
        """The work of step `step` and later is lost: a checkpoint of before is where the training goes on."""
        for entry in self._entries:
            if entry.step is not None and entry.step >= step:
                entry.lost = True

    def phases(self) -> list[Phase]:
        """All phases, in order; what was lost is `recovery` (docs/adr/0001)."""
        return [_recovery(entry.phase) if entry.lost else entry.phase for entry in self._entries]

    def lost_steps(self) -> int:
        """Steps whose work was lost."""
        return sum(entry.lost for entry in self._entries)

    def figures(self) -> dict[int, StepFigures]:
        """What the steps that were not lost have counted."""
        return {
            entry.step: entry.figures
            for entry in self._entries
            if entry.step is not None and entry.figures is not None and not entry.lost
        }

    def load_at(self, step: int) -> Tensor | None:
        """Load of the experts in the counted steps before `step`; None where it was not noted."""
        load = self._loads.get(step)
        return None if load is None else torch.tensor(load)


def _recovery(phase: Phase) -> Phase:
    whole: dict[Any, float] = {"recovery": phase.duration_seconds}
    return phase.model_copy(update={"kind": "recovery", "activity_seconds": whole, "steps": 0})


class Journal:
    """The file of one rank. Raises OSError where the system refuses to write; the caller decides what that means."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def read(self) -> Past:
        """Everything that was written. Raises InvalidFile for a file that no journal has written."""
        past = Past()
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]  # a line without its end was never finished
        except FileNotFoundError:
            return past
        for number, line in enumerate(lines, start=1):
            try:
                content = json.loads(line)
            except ValueError:  # an empty one, or one that death cut off and the next process ended
                continue
            try:
                _read(content, past)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InvalidFile(f"line {number} is not a journal's: {error}", where=str(self.path)) from error
        return past

    def began(self, began: Began) -> None:
        """A process begins; work of `began.step` and later is lost."""
        self._write(
            {
                "began": {
                    "spec_id": began.spec_id,
                    "started": began.started,
                    "started_unix_seconds": began.started_unix_seconds,
                    "boot_unix_seconds": began.boot_unix_seconds,
                    "step": began.step,
                }
            }
        )

    def phase(self, phase: Phase, step: int | None = None, figures: StepFigures | None = None) -> None:
        """A phase closed."""
        counted = None if figures is None else figures.as_json()
        self._write({"phase": phase.model_dump(), "step": step, "figures": counted})

    def saved(self, step: int, load_LE: Tensor | None) -> None:
        """A checkpoint of after `step` updates was begun."""
        self._write({"saved": step, "load": None if load_LE is None else load_LE.tolist()})

    def failed(self, **error: str) -> None:
        """Another attempt would meet the same error."""
        self._write({"failed": error})

    def _write(self, line: dict[str, Any]) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        text = b"\n" + json.dumps(line, separators=(",", ":")).encode() + b"\n"  # ends what death may have cut off
        if os.write(self._descriptor, text) != len(text):
            raise OSError(None, "the disk is full", str(self.path))


def _read(line: dict[str, Any], past: Past) -> None:
    if "began" in line:
        began = Began(**line["began"])
        past.began.append(began)
        past.lose_from(began.step)
        past.failed = None
    elif "phase" in line:
        counted = line["figures"]
        figures = None if counted is None else StepFigures.from_json(counted)
        past._entries.append(_Entry(Phase.model_validate(line["phase"]), line["step"], figures))
    elif "saved" in line:
        if line["load"] is not None:
            past._loads[line["saved"]] = line["load"]
    elif "failed" in line:
        past.failed = line["failed"]
