"""Reads all sources at a tick without letting one that hangs stop the others.

Sources that measure share one lane (a thread), so that they do not disturb each other; all that only read files
share a second. A source that does not return is left alone with its thread, is down after its deadline, and is
not read again until it has returned; what shared its lane goes on in another. So there is at most one thread for
each source, however often something hangs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from collector.clock import Clock
from collector.sources.base import Source, failed, take
from tokenstone.sample import Sample

# A source that wants to be read every 10 s is read at the tick that comes a moment before, not at the one after.
_EARLY_SECONDS = 0.05
_RELEASED = "released on request; SIGUSR2 takes it again"


@dataclass(slots=True)
class _Seat:
    """A source and where it stands. Changed only under the condition's lock."""

    source: Source
    sample: Sample | None = None
    is_fresh: bool = False
    due_seconds: float = float("-inf")
    started_seconds: float | None = None
    is_released: bool = False


class Lanes:
    """All sources, read together by `read`."""

    def __init__(self, sources: Iterable[Source], clock: Clock, *, patience_seconds: float) -> None:
        self._clock, self._patience_seconds = clock, patience_seconds
        self._changed = threading.Condition()
        self._seats = [_Seat(source) for source in sources]
        measuring = [seat for seat in self._seats if seat.source.measures]
        reading = [seat for seat in self._seats if not seat.source.measures]
        self.released = threading.Event()
        """While it is set, sources that measure hold no driver."""
        self._lanes = [_Lane(self, seats) for seats in (measuring, reading) if seats]

    def read(self) -> list[tuple[Sample, bool]]:
        """Read what is due; return each source's latest sample, and whether it was taken just now.

        Waits for `patience_seconds` at most. A source that has not answered yet keeps its sample of before until its
        deadline, and has failed then.
        """
        now = self._clock.monotonic()
        with self._changed:
            for lane in self._lanes:
                lane.begin(now)
            self._changed.wait_for(lambda: not any(lane.is_busy for lane in self._lanes), self._patience_seconds)
            now = self._clock.monotonic()
            for lane in list(self._lanes):
                self._free_neighbours(lane, now)
            return [taken for seat in self._seats if (taken := self._take(seat, now)) is not None]

    def _free_neighbours(self, lane: _Lane, now: float) -> None:
        """Let the others of a lane go on in a new one where one of them does not return."""
        stuck = lane.current
        if stuck is None or len(lane.seats) == 1:
            return
        # Slow files are no reason to wait; what measures waits for its turn as long as the deadline allows.
        if stuck.source.measures and not self._is_late(stuck, now):
            return
        others = [seat for seat in lane.seats if seat is not stuck]
        lane.leave_with(stuck)
        self._lanes.append(_Lane(self, others))

    def _take(self, seat: _Seat, now: float) -> tuple[Sample, bool] | None:
        if seat.is_fresh:
            seat.is_fresh = False
        elif self._is_late(seat, now):
            text = f"it has not answered for more than {seat.source.deadline_seconds:g} s"
            doing = seat.source.doing()
            reason = f"{text}: {doing}" if doing else text
            if seat.sample is None or seat.sample.error != reason:
                seat.sample = failed(seat.source, self._clock, reason)
            return seat.sample, True
        elif seat.sample is None:
            return None
        else:
            return seat.sample, False
        assert seat.sample is not None  # noqa: S101  # fresh means that there is one
        return seat.sample, True

    @staticmethod
    def _is_late(seat: _Seat, now: float) -> bool:
        return seat.started_seconds is not None and now - seat.started_seconds > seat.source.deadline_seconds

    def close(self, timeout_seconds: float = 2.0) -> None:
        """End the threads and close the sources; one that hangs is left to the end of the process."""
        with self._changed:
            lanes = list(self._lanes)
            for lane in lanes:
                lane.end()
        for lane in lanes:
            lane.thread.join(timeout_seconds)


class _Lane:
    """A thread that reads some sources, one after another, each time it is told to."""

    def __init__(self, lanes: Lanes, seats: Sequence[_Seat]) -> None:
        self._lanes, self.seats = lanes, list(seats)
        self._pending: deque[_Seat] = deque()
        self.current: _Seat | None = None
        self._go = threading.Semaphore(0)
        self._is_ending = False
        self.thread = threading.Thread(target=self._run, name="tokenstone-lane", daemon=True)
        self.thread.start()

    @property
    def is_busy(self) -> bool:
        return self.current is not None or bool(self._pending)

    def begin(self, now: float) -> None:
        """Read all that is due, unless the round before is still under way. With the lock held."""
        if self.is_busy:
            return
        released = self._lanes.released.is_set()
        due = [seat for seat in self.seats if now >= seat.due_seconds or released is not seat.is_released]
        if due:
            self._pending.extend(due)
            self._go.release()

    def leave_with(self, seat: _Seat) -> None:
        """Keep only `seat`, which is being read. With the lock held."""
        self.seats = [seat]
        self._pending.clear()

    def end(self) -> None:
        """Close the sources and end the thread. With the lock held."""
        self._is_ending = True
        self._pending.clear()
        self._go.release()

    def _run(self) -> None:
        while True:
            self._go.acquire()
            while (seat := self._next()) is not None:
                self._read(seat)
            if self._is_ending:
                for seat in self.seats:
                    seat.source.close()
                return

    def _next(self) -> _Seat | None:
        changed = self._lanes._changed
        with changed:
            self.current = self._pending.popleft() if self._pending else None
            if self.current is None:
                changed.notify_all()
            else:
                self.current.started_seconds = self._lanes._clock.monotonic()
            return self.current

    def _read(self, seat: _Seat) -> None:
        source, clock = seat.source, self._lanes._clock
        released = source.measures and self._lanes.released.is_set()
        if released and not seat.is_released:
            source.close()
        sample = failed(source, clock, _RELEASED) if released else take(source, clock)
        with self._lanes._changed:
            assert seat.started_seconds is not None  # noqa: S101
            seat.due_seconds = seat.started_seconds + source.every_seconds - _EARLY_SECONDS
            seat.sample, seat.is_fresh, seat.started_seconds = sample, True, None
            seat.is_released = released
