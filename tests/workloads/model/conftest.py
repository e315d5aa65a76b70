from __future__ import annotations

import pytest

from workloads.device import Device


@pytest.fixture(autouse=True)
def _one_thread(device: Device) -> None:
    """The session's device has set it."""
