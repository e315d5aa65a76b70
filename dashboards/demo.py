"""Everything that the boards show, on one machine: `python -m dashboards.demo FOLDER`, in a checkout.

Runs the bench, then starts the service over its store, agents that play a recorded H100 node and stand on two other
recorded machines, an agent of this machine, the reference server with some requests, and Prometheus with the rules;
tells the service of simulated trainings on the H100 node; and says where all of it is. `--pictures DIR` draws every
board there (with matplotlib) and ends.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboards import demo_machine, demo_runs
from dashboards.asking import Prometheus

ROOT = Path(__file__).parents[1]
RULES = Path(__file__).parent / "prometheus/tokenstone.rules.yml"
NODES = ROOT / "tests/fixtures/nodes"
GOLDEN = ROOT / "tests/golden/metrics-h100-node.txt"
SCRAPE_SECONDS = 1
_REQUEST: dict[str, object] = {"model": "cpu-tiny", "prompt": "What does a token cost? " * 4, "max_tokens": 24}
PRICES = {"recorded": 2.1, "local": 0.1}
"""Dollars a device-hour, by cluster: of this demonstration, not of anybody's invoice."""
CONFIG = """
global: {{scrape_interval: {scrape}s, scrape_timeout: {scrape}s, evaluation_interval: {scrape}s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: tokenstone
    static_configs: [{{targets: ["{service}"]}}]
  - job_name: tokenstone-agents
    http_sd_configs: [{{url: "http://{service}/v1/prometheus/targets", refresh_interval: 1s}}]
  - job_name: tokenstone-serving
    static_configs: [{{targets: ["{serving}"], labels: {{cluster: local}}}}]
"""


@dataclass(frozen=True, slots=True)
class Demo:
    """Where everything is."""

    prometheus: Prometheus
    service: str
    began: float


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(folder: Path, *, seconds: int = 900, run_every: float = 30.0) -> Iterator[Demo]:
    """Start everything, run the bench in `folder`, end it all with the block.

    `seconds`: length of the play. `run_every`: seconds between two simulated trainings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    recording = folder / "h100-node"
    with ExitStack() as stack:
        _bench(folder, data)
        began = time.time()
        serve = _started(folder, "serve", "--json", "--no-authentication", "--port", "0", "--data", str(data))
        service = json.loads(_line(stack.enter_context(serve)))["url"]
        for cluster, price in PRICES.items():
            _put(f"{service}/v1/cluster-prices", {"cluster": cluster, "effective_from": "2020-01-01",
                                                  "usd_per_device_hour": price})  # fmt: skip
        demo_machine.write(recording, NODES / "h100-node", GOLDEN,
                           seconds=seconds, every_seconds=1)  # fmt: skip
        machines = {
            "h100-node": ("recorded", "--replay", str(recording)),
            "cpu-node": ("recorded", "--root", str(NODES / "cpu-node")),
            "ascend-910-node": ("recorded", "--root", str(NODES / "ascend-910-node")),
            "this-machine": ("local",),
        }
        for node, (cluster, *of) in machines.items():
            stack.enter_context(
                _started(folder, "agent", "--node", node, "--cluster", cluster, *of, "--api", service, "--listen",
                         f"127.0.0.1:{free_port()}", "--sample-seconds", "1", "--window-seconds", "1",
                         "--spool", str(folder / "spool" / node))
            )  # fmt: skip
        server = _started(folder, "serve-model", "--json", "--preset", "cpu-tiny", "--port", "0")
        serving = json.loads(_line(stack.enter_context(server)))["url"]
        prometheus = stack.enter_context(_prometheus(folder, service, serving))
        stack.enter_context(_repeating(0.5, lambda: _send("POST", f"{serving}/v1/completions", _REQUEST)))
        numbers = itertools.count(1)
        until(lambda: _played(prometheus) > 0)
        seen = _played(prometheus)
        until(lambda: _played(prometheus) > seen + demo_runs.SECONDS + 2)  # so that the agent has seen all of a run
        _simulate(service, next(numbers), now=_played(prometheus) - 2)
        again = lambda: _simulate(service, next(numbers), now=_played(prometheus) - 2)  # noqa: E731
        stack.enter_context(_repeating(run_every, again))
        yield Demo(prometheus, service, began)


def _bench(folder: Path, data: Path) -> None:
    """Runs, into the store that the service serves afterwards: one process at a time has it."""
    priced = ("--price-per-device-hour", str(PRICES["local"]), "--cluster", "local", "--data", str(data))
    serving = ("infer", "--preset", "cpu-tiny", "--requests", "8", "--slo", "ttft=30s,tpot=5s,e2e=60s")
    for number, command in enumerate((("bench", "--preset", "cpu-tiny"), serving)):
        name = f"{number}-{command[0]}"
        with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
            subprocess.run([sys.executable, "-m", "cli", *command, *priced, "--report", str(folder / f"{name}.html")],
                           check=True, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)  # fmt: skip


@contextmanager
def _started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A `tokenstone` process that is ended with the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENSTONE_")}
    with (folder / f"{arguments[0]}.err").open("a", encoding="utf-8") as errors:
        process = subprocess.Popen([sys.executable, "-m", "cli", *arguments], stdout=subprocess.PIPE, stderr=errors,
                                   stdin=subprocess.DEVNULL, text=True, env=environment)  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None  # noqa: S101  it is a pipe
    return process.stdout.readline()


@contextmanager
def _prometheus(folder: Path, service: str, serving: str) -> Iterator[Prometheus]:
    config = folder / "prometheus.yml"
    hosts = {name: url.removeprefix("http://") for name, url in (("service", service), ("serving", serving))}
    config.write_text(CONFIG.format(scrape=SCRAPE_SECONDS, rules=RULES, **hosts), encoding="utf-8")
    with serving_prometheus(config, folder / "tsdb") as prometheus:
        yield prometheus


@contextmanager
def serving_prometheus(config: Path, tsdb: Path) -> Iterator[Prometheus]:
    """A Prometheus over that configuration and that folder of blocks, ended with the block."""
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tsdb}", "--log.level=error",
               f"--web.listen-address={address}", "--storage.tsdb.retention.time=10y"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).status == 200)
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()


def until(condition: Any, seconds: float = 60.0) -> None:
    """Wait until the condition is true; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError("it did not come about")


@contextmanager
def _repeating(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Do something again and again while the block runs."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(seconds):
            try:
                act()
            except OSError:
                continue  # the machine is busy; the next time will come

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _played(prometheus: Prometheus) -> float:
    """How far the recorded node has been played, by its own clock; raises OSError until it is scraped."""
    found = prometheus.query('tokenstone_source_last_success_timestamp_seconds{source="nvml"}', at=time.time())
    times = [float(series["value"][1]) for series in found if series["metric"]["node"] == "h100-node"]
    if not times:
        raise ConnectionError("the recorded node is not scraped yet")
    return times[0]


def _simulate(service: str, number: int, *, now: float) -> None:
    """Tell the service of a training on the recorded node that ended at `now`."""
    devices = [name for name, has_counter in demo_machine.devices(GOLDEN).items() if has_counter]
    run, facts = demo_runs.make(devices, number, now=now)
    where = f"{service}/v1/runs/{run.run_id}"
    _send("POST", f"{service}/v1/runs", run.model_dump(mode="json"))
    _send("POST", f"{where}/state", {"state": "running"})
    _send("PUT", f"{where}/facts", facts.model_dump(mode="json"))
    _send("POST", f"{where}/scores", {"usd_per_device_hour": PRICES["recorded"]})


def fetch(url: str) -> Any:
    """Read JSON from an address of the demonstration."""
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  an address of our own
        return json.load(answer)


def _put(url: str, body: dict[str, object]) -> None:
    _send("PUT", url, body)


def _send(method: str, url: str, body: dict[str, object]) -> None:
    data, head = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, head, method=method)  # noqa: S310  an address of our own
    with urllib.request.urlopen(request, timeout=60):  # noqa: S310
        pass


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.demo", description=__doc__)
    parser.add_argument("folder", type=Path, help="an empty folder for the store, the logs and Prometheus' blocks")
    parser.add_argument("--pictures", type=Path, help="draw the boards into this folder, and end")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long to watch before drawing")
    asked = parser.parse_args()
    if shutil.which("prometheus") is None:
        parser.exit(1, "prometheus is not on PATH: install your distribution's package\n")
    if not NODES.is_dir():
        parser.exit(1, f"{NODES} is not there: run this in a checkout\n")
    with running(asked.folder, seconds=3600 if asked.pictures is None else int(60 * asked.minutes) + 600) as demo:
        print(f"service    {demo.service}\nprometheus {demo.prometheus.url}", flush=True)
        if asked.pictures is None:
            print(
                "Ctrl-C ends all of it. Point a Grafana at this Prometheus, with the boards of dashboards/json.",
                flush=True,
            )
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                return
        from dashboards.picture import draw_all  # noqa: PLC0415  only here is matplotlib needed

        time.sleep(60 * asked.minutes)
        draw_all(demo.prometheus, asked.pictures, start=time.time() - 60 * asked.minutes, end=time.time())


if __name__ == "__main__":
    main()
