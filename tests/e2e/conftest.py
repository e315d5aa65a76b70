"""Fixtures of the tests with real processes."""

import pytest
from e2e_support import Marked, eventually


@pytest.fixture
def marked():
    """Starts `tokenstone`; at the end no process of it may be left."""
    processes = Marked()
    yield processes
    assert eventually(lambda: not processes.alive()), processes.alive()
