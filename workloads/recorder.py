"""The recorder for torch loops: tokenstone.record, with the device's work waited for where an activity ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokenstone.record import Recorder
from tokenstone.wire import Activity
from workloads.device import Device


class TorchRecorder(Recorder):
    """Records one torch device.

    `started`: the monotonic clock when the allocation began, which is before torch could be imported: open the
    first phase with `began_seconds=0`. An accelerator works behind the host's back, so both ends of an activity
    wait for it; on the CPU there is nothing to wait for.
    """

    def __init__(self, device: Device, *, started: float | None = None) -> None:
        super().__init__(device.id, started=started)
        self._synchronize = device.synchronize

    @contextmanager
    def activity(self, name: Activity) -> Iterator[None]:
        """Mark an activity inside the present phase, device work included."""
        self._synchronize()
        with super().activity(name):
            try:
                yield
            finally:
                self._synchronize()
