"""Several processes answer over one PostgreSQL."""

import contextlib
import json
import signal
from pathlib import Path

import httpx
import psutil
import pytest
from e2e_support import eventually
from postgresql_server import PostgreSQL

from api import examples
from tokenstone.client import Client
from tokenstone.wire import RunCreate


@pytest.fixture(scope="module")
def postgresql():
    with PostgreSQL.started() as server:
        yield server


def workers_of(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie too: it ends while we look
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.slow
def test_workers_share_the_work_and_one_that_dies_is_replaced(marked, postgresql, tmp_path, monkeypatch):
    # In the environment, where it belongs: a URL may hold a password.
    monkeypatch.setenv("TOKENSTONE_DATABASE", postgresql.new_database())
    service = marked.start("serve", "--json", "--port", "0", "--workers", "2", "--data", str(tmp_path))
    url = json.loads(service.stdout.readline())["url"]
    with Client(url) as client:
        client.create_run(RunCreate.model_validate(examples.RUN))
    for number in range(40):  # each on a connection of its own, so that both take some
        batch = examples.BATCH | {"sequence": number, "start_unix_seconds": [1.7e9 + number * 10] * 2}
        assert httpx.post(f"{url}/v1/windows", json=batch).json()["status"] == "accepted"
    # Whichever process is asked, it counts for all of them.
    for _ in range(8):
        text = httpx.get(f"{url}/metrics").text
        assert 'tokenstone_ingest_batches_total{status="accepted"} 40.0' in text
        assert 'tokenstone_runs{cluster="default",state="created"} 1.0' in text
    before = workers_of(service.pid)
    assert len(before) == 2
    before[0].kill()
    assert eventually(lambda: len({p.pid for p in workers_of(service.pid)} - {p.pid for p in before}) == 1)
    with Client(url) as client:
        client.wait_ready(30)
        assert sum(1 for _ in client.windows()) == 80
        assert client.run("train-1").state == "created"
    service.send_signal(signal.SIGTERM)
    service.communicate(timeout=30)
    assert service.returncode == 0
    assert not Path(f"/proc/{before[1].pid}").exists()
