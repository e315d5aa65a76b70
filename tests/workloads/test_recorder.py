"""The recorder of torch loops, and the device behind it."""

from __future__ import annotations

import time

import pytest

from tokenstone.errors import InvalidValue, UnknownName
from workloads.device import Device, select_device, torch_dtype
from workloads.recorder import TorchRecorder


def test_a_phase_may_have_begun_before_it_could_be_marked(device: Device) -> None:
    recorder = TorchRecorder(device, started=time.monotonic() - 2.0)
    with recorder.phase("startup", began_seconds=0.0), recorder.activity("compute"):
        pass
    [phase] = recorder.finish().phases
    assert phase.start_seconds == 0.0
    assert phase.activity_seconds == {"startup": pytest.approx(phase.duration_seconds)}
    assert phase.duration_seconds >= 2.0


@pytest.mark.parametrize("began", [-1.0, 1e9])
def test_a_phase_cannot_have_begun_outside_the_run(began: float, device: Device) -> None:
    with pytest.raises(InvalidValue), TorchRecorder(device).phase("step", began_seconds=began):
        pass


def test_a_phase_cannot_have_begun_inside_another(device: Device) -> None:
    recorder = TorchRecorder(device, started=time.monotonic() - 2.0)
    with recorder.phase("startup", began_seconds=0.0):
        pass
    with pytest.raises(InvalidValue), recorder.phase("step", began_seconds=1.0):
        pass


def test_an_activity_that_raises_is_kept(device: Device) -> None:
    recorder = TorchRecorder(device)
    with pytest.raises(ZeroDivisionError), recorder.phase("step"), recorder.activity("compute"):
        raise ZeroDivisionError
    [phase] = recorder.finish().phases
    assert "compute" in phase.activity_seconds


def test_the_device_names_itself() -> None:
    device = select_device(threads=1)
    assert device.name
    assert device.peak_memory_bytes() > 50e6
    device.synchronize()


def test_dtypes_are_ours() -> None:
    with pytest.raises(UnknownName, match="bf16"):
        torch_dtype("bfloat16")
