"""Fixtures of the tests with real processes."""

import pytest
from e2e_support import Marked, eventually


@pytest.fixture
def marked():
    """Starts `tokenstone`; at the end no process of it may be left."""
    processes = Marked()
    yield processes
    left = {} if eventually(lambda: not processes.alive()) else processes.alive()
    processes.kill()
    assert not left
