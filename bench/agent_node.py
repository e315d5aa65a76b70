"""The node that the agent's benches share: 8 simulated GPUs, 8 adapters from the fixture, and a place to push to."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
FIXTURES = REPOSITORY / "tests/fixtures"
NODE = FIXTURES / "nodes/h100-node"
GPUS = 8
TICKS = os.sysconf("SC_CLK_TCK")


def simulated_driver(folder: Path) -> dict[str, str]:
    """Build the stand-in for NVIDIA's library with eight devices; return the environment that makes it the driver."""
    source = FIXTURES / "nvml/nvml_stub.c"
    library = ["-Wl,-soname,libnvidia-ml.so.1", "-o", str(folder / "libnvidia-ml.so.1"), str(source)]
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-pthread", *library], check=True)
    device = [line[2:] for line in (NODE / "nvml.scenario").read_text().splitlines() if line.startswith("0.")]
    lines = ["driver loaded", f"devices {GPUS}"]
    for index in range(GPUS):
        lines += [f"{index}.{line}" for line in device if not line.startswith("uuid")]
        lines.append(f"{index}.uuid GPU-5e3b8a72-91c4-4c1f-a8d0-3f6f0b1c2d{index:02x}")
    (folder / "scenario").write_text("\n".join(lines) + "\n")
    return {"LD_LIBRARY_PATH": str(folder), "NVML_STUB_SCENARIO": str(folder / "scenario")}


def simulated_adapters(folder: Path) -> Path:
    """Copy the fixture's node with its counters as links to a number of /proc/sys; return the copy's root.

    So each is made by the kernel at reading, as those of /sys are, and not read from a disk.
    """
    root = folder / "root"
    shutil.copytree(NODE, root, symlinks=True)
    for counter in [*root.glob("sys/class/infiniband/*/ports/*/*counters/*")]:
        if counter.is_dir():  # one that cannot be read
            continue
        counter.unlink()
        counter.symlink_to("/proc/sys/kernel/pid_max")
    return root


@contextmanager
def sink() -> Iterator[tuple[str, list[int]]]:
    """A service that takes every batch; yields its address and the number of windows of each batch."""
    taken: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            batch = json.loads(gzip.decompress(self.rfile.read(int(self.headers["Content-Length"]))))
            taken.append(len(batch["series_index"]))
            answer = {
                "status": "accepted",
                "windows": taken[-1],
                "window_seconds": 10.0,
                "server_unix_seconds": time.time(),
            }
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", taken
    server.shutdown()
    server.server_close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Process:
    """A program that serves `/metrics`: its processor time, memory and scrapes."""

    def __init__(self, command: list[str], url: str, environment: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection(url.split("/")[2], timeout=10)
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.scrape()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def scrape(self) -> bytes:
        """The text of `/metrics`, over a connection that is kept, as Prometheus does it."""
        try:
            self._connection.request("GET", "/metrics")
            return self._connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise OSError(str(error)) from error

    def series(self) -> int:
        """How many series it shows."""
        return sum(not line.startswith(b"#") for line in self.scrape().splitlines())

    def cpu_seconds(self) -> float:
        """Processor time so far, of all threads, those that have ended too: the process's own clock (Linux)."""
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory, and the part of it that is nobody else's."""
        text = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text()
        fields = dict(line.split(":") for line in text.splitlines()[1:])
        return {name: int(fields[name].split()[0]) * 1024 for name in ("Rss", "Pss", "Anonymous")}

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)


def agent(folder: Path, environment: dict[str, str], *arguments: str) -> Process:
    """Start the real agent, as its users do."""
    port = free_port()
    command = [sys.executable, "-m", "cli", "agent", "--listen", f"127.0.0.1:{port}", "--spool", str(folder / "spool")]
    return Process([*command, *arguments], f"http://127.0.0.1:{port}/metrics", environment)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
