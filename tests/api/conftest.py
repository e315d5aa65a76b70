"""What the service's tests share: an application with a clock that tests move, and the shape of a problem."""

from __future__ import annotations

import copy
import gzip
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, sync_playwright
from postgresql_server import PostgreSQL
from service_process import ServiceProcess

from api import examples
from api.main import create_app
from api.settings import load_settings
from api.store.keys import create_key
from tokenstone.wire import KeyCreate

BOTH_DATABASES = {
    "test_ingest", "test_results", "test_runs", "test_retention", "test_faults", "test_db",
    "test_fleet", "test_resources", "test_run_list", "test_metrics",
}  # fmt: skip
"""Test modules that run on SQLite and on PostgreSQL; with TOKENSTONE_TEST_ALL_ON_BOTH, as in CI, all do."""


class Clock:
    """Wall time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1.7e9 + 1000

    def __call__(self) -> float:
        return self.now


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser that is installed, one for the tests of a module."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser on PATH (looked for {', '.join(BROWSERS)})")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def data(tmp_path) -> Path:
    return tmp_path / "data"


def pytest_generate_tests(metafunc):
    if "database" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        both = module in BOTH_DATABASES or "TOKENSTONE_TEST_ALL_ON_BOTH" in os.environ
        databases = ["sqlite", "postgresql"] if both else ["sqlite"]
        for mark in metafunc.definition.iter_markers("only"):
            databases = [database for database in databases if database in mark.args]
        metafunc.parametrize("database", databases, indirect=True)


@pytest.fixture
def database(request, data) -> str:
    """URL of an empty database of the kind that the test runs on."""
    if request.param == "sqlite":
        return f"sqlite:///{data / 'tokenstone.db'}"
    return request.getfixturevalue("postgresql").new_database()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory) -> Iterator[PostgreSQL]:
    """A PostgreSQL server that these tests start themselves."""
    with PostgreSQL.started() as server:
        yield server


@pytest.fixture
def open_api(data, database, clock) -> Iterator[Callable[..., TestClient]]:
    """Start the application on the test's data; again is a restart, and `open_api.end()` ends it."""
    with ExitStack() as stack:

        def start(**settings) -> TestClient:
            stack.close()
            app = create_app(
                load_settings(data=data, **{"database": database, "lease_check_seconds": 3600, **settings}), clock=clock
            )
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        start.end = stack.close
        yield start


@pytest.fixture
def api(open_api) -> TestClient:
    return open_api()


@pytest.fixture
def guarded(open_api) -> TestClient:
    """The application as it is beyond loopback: every request needs a key."""
    return open_api(authentication=True)


@pytest.fixture
def key(clock):
    """Make a key straight in the store; return the headers that carry it."""

    def make(api, *scopes: str, cluster: str | None = None, expires: float | None = None) -> dict[str, str]:
        wanted = KeyCreate(name="test", scopes=scopes, cluster=cluster, expires_unix_seconds=expires)
        with api.app.state.store.writing() as session:
            return {"Authorization": f"Bearer {create_key(session, wanted, now=clock.now).key}"}

    return make


@pytest.fixture
def problem():
    """Check that a response is a problem document of that status and return it."""

    def check(response, status: int) -> dict:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        document = response.json()
        assert document["status"] == status
        assert document["type"].startswith("urn:tokenstone:problem:")
        assert document["title"]
        assert document["detail"]
        assert "Traceback" not in response.text
        return document

    return check


@pytest.fixture
def batch():
    """The example batch, changed."""

    def make(**changes) -> dict:
        return {**copy.deepcopy(examples.BATCH), **changes}

    return make


@pytest.fixture
def big_batch(batch):
    """A batch of `count` windows of one series, the first at `start`."""

    def make(count: int, *, start: float = 1.7e9, **changes) -> dict:
        return batch(
            series=[{"metric": "accel_busy_ratio", "device": "GPU-0"}],
            series_index=[0] * count,
            start_unix_seconds=[start + i for i in range(count)],
            duration_seconds=[1.0] * count,
            count=[1] * count,
            mean=[i / count for i in range(count)],
            minimum=[0.0] * count,
            maximum=[1.0] * count,
            delta=[None] * count,
            **changes,
        )

    return make


@pytest.fixture
def packed():
    """A batch as the agent sends it."""
    return lambda document: gzip.compress(json.dumps(document).encode())


@pytest.fixture
def start_run():
    """Create the example run under another name and start it."""

    def start(api, run_id: str = "train-1", **changes) -> dict:
        created = api.post("/v1/runs", json={**examples.RUN, "run_id": run_id, **changes})
        assert created.status_code == 201, created.text
        started = api.post(f"/v1/runs/{run_id}/state", json={"state": "running"})
        assert started.status_code == 200, started.text
        return started.json()

    return start


@pytest.fixture
def end_run(start_run):
    """Run the example run to its end."""

    def end(api, run_id: str = "train-1", facts: dict = examples.FACTS, **changes) -> dict:
        start_run(api, run_id, **changes)
        ended = api.put(f"/v1/runs/{run_id}/facts", json=facts)
        assert ended.status_code == 201, ended.text
        return ended.json()

    return end


@pytest.fixture
def every_page():
    """Read a list to its end, a page at a time."""

    def read(api, path: str, limit: int, **params) -> list[dict]:
        items, cursor = [], {}
        while True:
            response = api.get(path, params={**params, "limit": limit, **cursor})
            assert response.status_code == 200, response.text
            page = response.json()
            assert len(page["items"]) <= limit
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = {"cursor": page["next_cursor"]}

    return read


@pytest.fixture
def service(data) -> Iterator[Callable[..., tuple[ServiceProcess, str]]]:
    """Start the real service in a process of its own, by default on SQLite: (process, URL)."""
    processes: list[ServiceProcess] = []

    def start(database: str | None = None, **environment: str) -> tuple[ServiceProcess, str]:
        processes.append(ServiceProcess(data, database, environment))
        return processes[-1], processes[-1].url

    yield start
    for process in processes:
        process.close()


@pytest.fixture
def eventually():
    """Wait until something is so."""

    def wait(condition: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not come about"
            time.sleep(0.01)

    return wait
