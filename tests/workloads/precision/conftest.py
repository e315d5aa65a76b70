from __future__ import annotations

import pytest

from workloads.device import Device


@pytest.fixture(autouse=True, scope="session")
def _one_thread(device: Device) -> None:
    """The tensors are small: two threads beside other programs would wait for each other more than work."""
    assert device.threads == 1 or device.type != "cpu"
