"""The recorder for torch loops: tokenstone.record, with the device's own clock where it has one.

The host only hands work to an accelerator and goes on. So there a mark is an event in the device's queue, and its
time is known once the device has passed it. On the CPU the host does the work, and its clock is the one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, cast

import torch

from tokenstone.record import Recorder
from tokenstone.wire import Activity
from workloads.device import Device


class Event(Protocol):
    """What is used of torch.Event."""

    def record(self) -> None:
        """Put the event into the queue of the present stream."""

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to `end_event`."""


Mark = float | Event
"""An instant: seconds on the recorder's scale, or an event that will tell them."""


class TorchRecorder(Recorder):
    """Records one torch device.

    `started`: the monotonic clock when the allocation began, which is before torch could be imported: open the
    first phase with `began_seconds=0`. `event` makes an event with timing (default: torch's, on an accelerator).
    """

    def __init__(
        self, device: Device, *, started: float | None = None, event: Callable[[], Event] | None = None
    ) -> None:
        super().__init__(device.id, started=started)
        self._synchronize = device.synchronize
        if event is None and device.type != "cpu":
            event = partial(cast(Any, torch.Event), device.torch, enable_timing=True)
        self._event = event
        self._zero: tuple[Event, float] | None = None

    @contextmanager
    def activity(self, name: Activity) -> Iterator[None]:
        """Mark an activity inside the present phase, device work included."""
        self._synchronize()
        with super().activity(name):
            try:
                yield
            finally:
                self._synchronize()

    def align(self) -> None:
        """Tie the device's clock to the host's, at an instant at which the device has nothing left to do.

        Once a step: the clocks drift apart, and `elapsed_time` loses digits over long times.
        """
        if self._event is not None:
            self._synchronize()
            event = self._event()
            event.record()
            self._zero = event, self.elapsed_seconds()

    def mark(self) -> Mark:
        """This instant in the work of the device."""
        if self._event is None:
            return self.elapsed_seconds()
        if self._zero is None:
            self.align()
        event = self._event()
        event.record()
        return event

    def seconds_of(self, mark: Mark) -> float:
        """Seconds since the allocation began. The device has to have passed it: `synchronize` first."""
        if isinstance(mark, float):
            return mark
        assert self._zero is not None  # mark() has seen to that
        event, seconds = self._zero
        return seconds + event.elapsed_time(mark) / 1000.0

    def synchronize(self) -> None:
        """Wait until the device has passed every mark."""
        self._synchronize()
