"""Fixtures of the tests with real processes."""

import json
import subprocess
import sys

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


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """URL of a service that a module's tests share."""
    data = tmp_path_factory.mktemp("service")
    command = [sys.executable, "-P", "-m", "cli", "serve", "--json", "--port", "0", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()
        process.communicate(timeout=30)
