"""What a rank waited for: one span per wait and per stretch of work, from which the ledger is made.

    log = CommunicationLog.of(recorder)
    with log.computing():            # this thread works ...
        with log.waiting("dispatch", "exposed_communication", sent_bytes=4096):
            work.wait()              # ... but not here
    for span in log.take():
        recorder.add(span.activity, span.start, span.end)

Two threads may wait and work at once. A wait is exposed as far as no thread of the rank works meanwhile: the ledger
sees to that, since computation wins every instant that it shares (`tokenstone.ledger.PRIORITY`).

On the CPU a collective is done when the host has waited for it, and its clock tells. On an accelerator `wait` only
orders queues; there a clock puts events into the queue that computes, which stand before and behind what it waits for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from tokenstone.errors import WorkloadFailed
from tokenstone.record import Recorder
from tokenstone.wire import Activity
from workloads.recorder import Mark, TorchRecorder


@dataclass(frozen=True, slots=True)
class Span:
    """One wait, or one stretch of work; `start` and `end` in seconds on the log's clock."""

    name: str
    activity: Activity
    start: float
    end: float
    sent_bytes: int = 0
    """What this rank sent to others: its own share of an all-to-all stays, a ring all-reduce sends nearly twice."""
    stream: str = ""
    """Name of a sequence of collectives that all ranks of a group make in the same order, if it belongs to one."""
    buffer_bytes: int = 0
    """What the collective was called with here, the share that stays included: NCCL's S, whose algbw is S / time."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Total:
    """All spans of one name."""

    count: int
    seconds: float
    sent_bytes: int
    buffer_bytes: int = 0


class _Marked(NamedTuple):
    """A span whose instants may not be known yet."""

    start: Mark
    end: Mark
    name: str
    activity: Activity
    sent_bytes: int = 0
    stream: str = ""
    buffer_bytes: int = 0


class _Thread(threading.local):
    working_since: Mark | None = None
    work: str = ""


class CommunicationLog:
    """Collects spans from any number of threads.

    `clock` marks an instant, on the scale of the recorder that the log will feed; `resolve` tells the seconds of
    such marks, once, when they are taken.
    """

    def __init__(
        self,
        clock: Callable[[], Mark] = time.monotonic,
        resolve: Callable[[Sequence[Mark]], list[float]] | None = None,
    ) -> None:
        self._clock, self._resolve = clock, resolve
        self._lock = threading.Lock()
        self._open: list[_Marked] = []
        self._thread = _Thread()

    @classmethod
    def of(cls, recorder: TorchRecorder) -> CommunicationLog:
        """A log on the clock of `recorder`: the device's, where it has one."""

        def resolve(marks: Sequence[Mark]) -> list[float]:
            recorder.synchronize()
            return [recorder.seconds_of(mark) for mark in marks]

        return cls(recorder.mark, resolve)

    @contextmanager
    def computing(self, name: str = "compute") -> Iterator[None]:
        """This thread works at the part of a step called `name`, but for the waits inside."""
        self._thread.work, self._thread.working_since = name, self._clock()
        try:
            yield
        finally:
            self._add(_Marked(self._thread.working_since, self._clock(), name, "compute"))
            self._thread.working_since = None

    @contextmanager
    def waiting(
        self, name: str, activity: Activity, *, sent_bytes: int = 0, stream: str = "", buffer_bytes: int = 0
    ) -> Iterator[None]:
        """This thread waits for others."""
        start, worked_since = self._clock(), self._thread.working_since
        try:
            yield
        finally:
            end = self._clock()
            self._add(_Marked(start, end, name, activity, sent_bytes, stream, buffer_bytes))
            if worked_since is not None:
                self._add(_Marked(worked_since, start, self._thread.work, "compute"))
                self._thread.working_since = end

    def _add(self, span: _Marked) -> None:
        with self._lock:
            self._open.append(span)

    def take(self) -> list[Span]:
        """Return the spans since the last call, in the order in which they ended."""
        with self._lock:
            marked, self._open = self._open, []
        marks = [mark for span in marked for mark in (span.start, span.end)]
        seconds = iter(self._resolve(marks) if self._resolve is not None else [_seconds(mark) for mark in marks])
        return [
            Span(
                span.name, span.activity, next(seconds), next(seconds), span.sent_bytes, span.stream, span.buffer_bytes
            )
            for span in marked
        ]


def _seconds(mark: Mark) -> float:
    assert isinstance(mark, float)  # of a clock that marks events, `resolve` knows the seconds
    return mark


def record(spans: Iterable[Span], recorder: Recorder) -> None:
    """Give the spans to a recorder, inside the phase in which they were measured."""
    for span in spans:
        recorder.add(span.activity, span.start, span.end)


def totals(spans: Iterable[Span]) -> dict[str, Total]:
    """Add up by name."""
    result: dict[str, Total] = {}
    for span in spans:
        old = result.get(span.name, Total(0, 0.0, 0))
        result[span.name] = Total(
            old.count + 1,
            old.seconds + span.seconds,
            old.sent_bytes + span.sent_bytes,
            old.buffer_bytes + span.buffer_bytes,
        )
    return result


@contextmanager
def collective(name: str) -> Iterator[None]:
    """Raise WorkloadFailed if what is inside, a collective and its `wait`, fails or misses its deadline.

    Starting one can fail too: gloo connects the ranks of a group when they first use it.
    """
    try:
        yield
    except RuntimeError as error:  # torch has no class of its own for it: gloo raises RuntimeError, others subclasses
        raise not_completed(name, error) from error


def not_completed(name: str, error: BaseException) -> WorkloadFailed:
    """The error of a collective that failed with torch's `error`."""
    reason = str(error).strip().partition("\n")[0]
    return WorkloadFailed(
        f"{name} was not completed: {reason}", where="communication",
        hint="another rank has ended or hangs: see its output",
    )  # fmt: skip
