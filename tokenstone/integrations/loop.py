"""What the callbacks share: a loop that somebody else owns tells us where it is, and nothing more.

Between two hooks the loop is in exactly one stretch. A new hook ends the present one and begins the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from tokenstone.record import Job
from tokenstone.wire import Activity, PhaseKind

log = logging.getLogger("tokenstone.record")


class Loop:
    """Turns hooks into marks of a job. No failure of ours reaches the loop: it is logged, and the marks end."""

    def __init__(self, make: Callable[..., Job]) -> None:
        self._make = make
        self._job: Job | None = None
        self._open: tuple[Activity | None, float] | None = None

    @property
    def job(self) -> Job | None:
        """The job, while it is recorded."""
        return self._job

    def start(self, **known: Any) -> None:
        """Begin; `known` is what the library says of the device and the ranks. Raises what `Job` does."""
        if self._job is None:
            self._job = self._make(**known).start()

    def step(self) -> None:
        """A step begins."""
        self._switch("step", None)

    def waits(self, *, tokens: int = 0, steps: int = 0) -> None:
        """The step that was open is done; the loop fetches its next batch."""
        self._switch("step", "input_stall", steps=steps, tokens=tokens)

    def evaluates(self) -> None:
        """The loop does other work on the device, which trains no token."""
        self._switch("step", None)

    def saves(self) -> None:
        """A checkpoint is written."""
        self._switch("checkpoint", None)

    def close(self, *, error: BaseException | None = None) -> None:
        """End of the loop."""
        job, self._job = self._job, None
        if job is None:
            return
        try:
            self._end(job, steps=0, tokens=0)
        except Exception:
            log.exception("the end of the last phase was not recorded")
        if error is not None:
            job.note(ended_by=type(error).__name__)
        job.close()

    def _switch(self, kind: PhaseKind, activity: Activity | None, *, steps: int = 0, tokens: int = 0) -> None:
        job = self._job
        if job is None:
            return
        try:
            self._end(job, steps=steps, tokens=tokens)
            job.begin(kind)
            self._open = (activity, job.elapsed_seconds())
        except Exception:
            log.exception("the loop is not recorded any further")
            self.close()

    def _end(self, job: Job, *, steps: int, tokens: int) -> None:
        present, self._open = self._open, None
        if present is None:
            return
        activity, began = present
        if activity is not None:
            job.add(activity, began, job.elapsed_seconds())
        job.end(steps=steps, tokens=tokens)
