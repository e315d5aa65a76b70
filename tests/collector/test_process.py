"""The agent as its users start it: a process that is killed at any instant, and one that is slim."""

import gzip
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tokenstone.wire import IngestAnswer, WindowBatch


class Service:
    """Takes batches, and sometimes loses its answer or says that it is busy."""

    def __init__(self):
        self.bodies, self.guard, self.dice = {}, threading.Lock(), random.Random(7)
        self.is_well = False
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
                batch = WindowBatch.model_validate_json(body)
                key = (batch.epoch, batch.sequence)
                with service.guard:
                    fate = 1.0 if service.is_well else service.dice.random()
                    status = 503 if fate < 0.2 else 200
                    known = key in service.bodies
                    if status == 200:
                        service.bodies.setdefault(key, set()).add(body)
                if 0.2 <= fate < 0.4:
                    return
                answer = IngestAnswer(status="duplicate" if known else "accepted", windows=0, window_seconds=0.2)
                text = answer.model_dump_json().encode() if status == 200 else b"busy"
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()


@pytest.fixture
def service():
    service = Service()
    yield service
    service.server.shutdown()
    service.thread.join()
    service.server.server_close()


@pytest.fixture
def agent(tmp_path, node_folder):
    """Start the real command; `ready` waits until it has sampled."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = []

    def start(*arguments, **environment):
        command = [sys.executable, "-m", "cli", "agent", "--listen", f"127.0.0.1:{port}", "--node", "n1"]
        command += ["--root", str(node_folder("h100-node")), "--spool", str(tmp_path / "spool"), *arguments]
        env = {**os.environ, "TOKENSTONE_EXCLUDE_SOURCES": "nvml,filesystem", **environment}
        started.append(subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + 20
        while True:
            assert time.monotonic() < deadline
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5):
                    return started[-1]
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.02)

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_kill_at_any_instant_neither_loses_what_was_kept_nor_counts_it_twice(agent, service, tmp_path):
    url = f"http://127.0.0.1:{service.server.server_port}"
    arguments = ("--api", url, "--sample-seconds", "0.2", "--window-seconds", "0.2")
    dice = random.Random(11)
    for _ in range(3):
        process = agent(*arguments)
        time.sleep(dice.uniform(0.3, 1.0))  # the instant of the kill is the point, and any will do
        process.send_signal(signal.SIGKILL)
        process.wait()
    service.is_well = True
    process = agent(*arguments)
    deadline = time.monotonic() + 20
    while len(list((tmp_path / "spool").glob("*.batch"))) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not list((tmp_path / "spool").glob("*.batch"))
    assert all(len(bodies) == 1 for bodies in service.bodies.values())  # one name, one content, however often sent
    by_epoch = {}
    for epoch, sequence in service.bodies:
        by_epoch.setdefault(epoch, []).append(sequence)
    assert len(by_epoch) >= 3
    for epoch, sequences in by_epoch.items():
        assert sorted(sequences) == list(range(len(sequences)))  # no gap: what was kept has arrived
        batches = [WindowBatch.model_validate_json(*service.bodies[epoch, sequence]) for sequence in sorted(sequences)]
        starts = [start for batch in batches for start in sorted(set(batch.start_unix_seconds))]
        assert starts == sorted(set(starts))  # each interval once


@pytest.mark.slow
def test_the_agents_process_holds_only_what_it_needs(agent, service):
    process = agent("--api", f"http://127.0.0.1:{service.server.server_port}")
    maps = f"/proc/{process.pid}/maps"
    with open(maps) as loaded:  # noqa: PTH123
        libraries = loaded.read()
    assert "pydantic_core" not in libraries
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
