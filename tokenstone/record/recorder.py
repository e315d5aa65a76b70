"""Mark phases and activities of one device; out come the facts from which the ledger is made.

    recorder = Recorder(device="cuda:0")
    with recorder.phase("startup"):
        model = build()
    for batch in batches:
        with recorder.phase("step"):
            with recorder.activity("input_stall"):
                batch = next(batches)
            with recorder.activity("compute"):
                train(batch)
    phases = recorder.finish()

Activities may overlap (communication behind computation, from other threads): `tokenstone.ledger` gives each
instant to one. The clock is monotonic and can be injected.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, get_args

from tokenstone.errors import InvalidValue
from tokenstone.ledger import Interval, exclusive_seconds
from tokenstone.wire import Activity, DevicePhases, Phase, PhaseKind

# What an instant of a phase is when nothing was recorded for it ...
_REMAINDER: dict[PhaseKind, Activity] = {
    "startup": "startup",
    "warm_up": "startup",
    "step": "host_overhead",
    "checkpoint": "checkpoint",
    "recovery": "recovery",
    "drain": "idle",
}
# ... and the phases that are that one thing whole: work done there trains no counted token (docs/adr/0001).
_WHOLE: frozenset[PhaseKind] = frozenset({"startup", "warm_up", "recovery"})
_ACTIVITIES: tuple[Activity, ...] = get_args(Activity)


class _Closed(NamedTuple):
    """A phase before anybody asks for it: made in a tenth of the time."""

    kind: PhaseKind
    start_seconds: float
    duration_seconds: float
    activity_seconds: dict[Activity, float]
    steps: int

    @property
    def phase(self) -> Phase:
        return Phase.model_validate(self._asdict())


class Recorder:
    """Records one device. `started` is the clock's reading when the allocation began (default: now).

    `step_remainder` is what an instant of a step is that nothing was recorded for. With `most_phases`, neighbours of a
    kind are joined as soon as there are twice as many: a job may go on for months.
    """

    def __init__(
        self,
        device: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        started: float | None = None,
        step_remainder: Activity = "host_overhead",
        most_phases: int | None = None,
    ) -> None:
        self.device = device
        self._remainder = _REMAINDER | {"step": step_remainder}
        self._most_phases = most_phases
        self._clock = clock
        self._started = clock() if started is None else started
        self._phases: list[_Closed] = []
        self._open: tuple[PhaseKind, float] | None = None
        self._intervals: list[Interval] = []
        self._lock = threading.Lock()

    def elapsed_seconds(self) -> float:
        """Seconds since the allocation began."""
        return self._clock() - self._started

    @contextmanager
    def phase(self, kind: PhaseKind, *, steps: int = 0, began_seconds: float | None = None) -> Iterator[None]:
        """Mark a phase. Phases follow each other and do not nest. One that raises is kept: its time was spent.

        `began_seconds`: when it began, on the scale of `elapsed_seconds`, where that was before it could be marked:
        a process starts before its first import.
        """
        self.begin(kind, began_seconds=began_seconds)
        try:
            yield
        finally:
            self.end(steps)

    def begin(self, kind: PhaseKind, *, began_seconds: float | None = None) -> None:
        """Begin a phase, as `phase` does, where no `with` can stand: in callbacks."""
        if kind not in _REMAINDER:
            raise InvalidValue(f"no phase is called {kind!r}", hint=f"use one of {', '.join(_REMAINDER)}")
        if self._open is not None:
            raise InvalidValue(f"phase {kind!r} begins inside {self._open[0]!r}", hint="phases do not nest")
        begin = self.elapsed_seconds() if began_seconds is None else began_seconds
        if began_seconds is not None:
            previous = self._phases[-1].start_seconds + self._phases[-1].duration_seconds if self._phases else 0.0
            if not previous <= begin <= self.elapsed_seconds():
                raise InvalidValue(
                    f"phase {kind!r} cannot have begun at {begin:.6g} s", hint="phases follow each other"
                )
        self._open = (kind, begin)

    def end(self, steps: int = 0) -> None:
        """End the phase that `begin` began."""
        if self._open is None:
            raise InvalidValue("no phase is open that could end", hint="begin one first")
        kind, start = self._open
        end = self.elapsed_seconds()
        with self._lock:
            intervals, self._intervals = self._intervals, []
        if kind in _WHOLE or not intervals:
            seconds = {self._remainder[kind]: end - start}
        else:
            seconds = exclusive_seconds(intervals, start, end, remainder=self._remainder[kind])
        self._phases.append(_Closed(kind, start, end - start, seconds, steps))
        if self._most_phases is not None and len(self._phases) >= 2 * self._most_phases:
            self._phases = _joined(self._phases)
        self._open = None

    @contextmanager
    def activity(self, name: Activity) -> Iterator[None]:
        """Mark an activity inside the present phase. Activities may overlap, also from several threads."""
        if name not in _ACTIVITIES:
            raise InvalidValue(f"no activity is called {name!r}", hint=f"use one of {', '.join(_ACTIVITIES)}")
        if self._open is None:
            raise InvalidValue(f"activity {name!r} outside a phase", hint="mark it inside a step or another phase")
        start = self.elapsed_seconds()
        try:
            yield
        finally:
            self.add(name, start, self.elapsed_seconds())

    def add(self, name: Activity, start: float, end: float) -> None:
        """Add an interval measured elsewhere (a device event), in seconds since the allocation began."""
        with self._lock:
            self._intervals.append(Interval(start, end, name))

    @property
    def phases(self) -> list[Phase]:
        """The phases so far, in order."""
        return [closed.phase for closed in list(self._phases)]

    @property
    def latest(self) -> Phase:
        """The phase that closed last. Raises IndexError before the first has."""
        return self._phases[-1].phase

    def take_over(self, earlier: Iterable[Phase]) -> None:
        """Put the phases of a process that has died before those of this one, which goes on in its place."""
        self._phases[:0] = [
            _Closed(phase.kind, phase.start_seconds, phase.duration_seconds, phase.activity_seconds, phase.steps)
            for phase in earlier
        ]

    def finish(self) -> DevicePhases:
        """Return the phases so far, in order."""
        return DevicePhases(device=self.device, phases=self.phases)


def _joined(phases: list[_Closed]) -> list[_Closed]:
    """Half as many phases: each with its neighbour of the same kind, the time between them `idle`. The last stays."""
    result: list[_Closed] = []
    position = 0
    while position < len(phases):
        one = phases[position]
        if position + 2 < len(phases) and phases[position + 1].kind == one.kind:
            result.append(_join(one, phases[position + 1]))
            position += 2
        else:
            result.append(one)
            position += 1
    return result


def _join(one: _Closed, other: _Closed) -> _Closed:
    seconds = dict(one.activity_seconds)
    for activity, amount in other.activity_seconds.items():
        seconds[activity] = seconds.get(activity, 0.0) + amount
    gap = other.start_seconds - (one.start_seconds + one.duration_seconds)
    if gap > 0:
        seconds["idle"] = seconds.get("idle", 0.0) + gap
    end = other.start_seconds + other.duration_seconds
    return _Closed(one.kind, one.start_seconds, end - one.start_seconds, seconds, one.steps + other.steps)
