"""One real server process for all tests: small limits, so that they can be reached."""

import json
import os
import subprocess
import sys

import httpx
import pytest

LIMITS = ["--max-batch", "4", "--max-waiting", "4", "--context", "400", "--pages", "60", "--max-body-bytes", "20000"]


@pytest.fixture(scope="session")
def server():
    """URL of `tokenstone serve-model --preset cpu-tiny`."""
    command = [sys.executable, "-P", "-m", "cli", "serve-model", "--preset", "cpu-tiny", "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, *LIMITS, "--threads", "1", "--lifeline"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
    ) as process:  # fmt: skip
        ready = json.loads(process.stdout.readline())
        assert ready["model"] == "cpu-tiny"
        yield ready["url"]
        process.stdin.close()  # the lifeline: it ends in order
        assert process.wait(30) == 0


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


@pytest.fixture
def metrics(http):
    """Reads one value of /metrics; 0 where it has no sample yet."""

    def read(name: str, **labels: str) -> float:
        for line in http.get("/metrics").text.splitlines():
            if line.startswith(f"tokenstone_serving_{name}{{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                return float(line.rpartition(" ")[2])
        return 0.0

    return read
