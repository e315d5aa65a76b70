"""How much the service takes in, how fast it answers with 15 million windows stored, and what a fleet costs it.

    python bench/service.py ingest            # over HTTP, into SQLite and a PostgreSQL of its own
    python bench/service.py fleet               # ten minutes
    python bench/service.py fill sqlite:////path.db   # 15 million windows: a day of 88 nodes
    python bench/service.py queries sqlite:////path.db --name sqlite

Client and service share the machine's cores, PostgreSQL too. Writes bench/results/service-NAME.json.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlparse

from service_data import DAY, GPUS, batch, conditions, fill, node_series, postgresql, service, used
from sqlalchemy import text

from api import examples
from api.store.engine import connect
from tokenstone.client import Client
from tokenstone.run import RunState
from tokenstone.wire import RunChange, RunCreate, TrainingFacts

RESULTS = Path(__file__).parent / "results"
SENDERS = 4
RUNS = 20
FREE = {"max_requests_per_second": "0"}


def write(name: str, result: dict[str, Any]) -> None:
    """Keep and print a result."""
    (RESULTS / f"service-{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


class Sender:
    """A connection that posts batches and wants them accepted."""

    def __init__(self, url: str, *, zipped: bool) -> None:
        self._connection = http.client.HTTPConnection(urlparse(url).netloc, timeout=60)
        self._headers = {"Content-Type": "application/json"} | ({"Content-Encoding": "gzip"} if zipped else {})

    def post(self, body: bytes) -> None:
        """Post one batch."""
        self._connection.request("POST", "/v1/windows", body, self._headers)
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200 and answer["status"] == "accepted", answer  # noqa: PT018

    def get(self, path: str) -> bytes:
        """Read something."""
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == 200, body[:500]
        return body


def in_threads(work: Callable[[int], None]) -> None:
    """Run `work` with 0, 1, ... at the same time."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def bodies(count: int, rows: int, epoch: str) -> list[list[bytes]]:
    """For each sender its batches: 20 series and as many times 10 s as fill `rows`."""
    series, begin = node_series(), time.time() - DAY
    steps = rows // len(series)
    return [
        [
            json.dumps(
                batch(f"n{sender}", epoch, k, series, [begin + 10 * (k * steps + i) for i in range(steps)])
            ).encode()
            for k in range(count)
        ]
        for sender in range(SENDERS)
    ]


def throughput(url: str, process: Any, *, batches: int) -> dict[str, float]:
    """Rows a second, four senders with batches of 1,000 one after the other."""
    prepared = bodies(batches, 1000, "throughput")
    cpu, began = used(process.pid)[0], time.perf_counter()

    def send(number: int) -> None:
        sender = Sender(url, zipped=False)
        for body in prepared[number]:
            sender.post(body)

    in_threads(send)
    seconds = time.perf_counter() - began
    return {
        "rows": SENDERS * batches * 1000, "seconds": seconds, "rows_per_second": SENDERS * batches * 1000 / seconds,
        "service_cores": (used(process.pid)[0] - cpu) / seconds,
    }  # fmt: skip


def latency(url: str, *, rows_per_second: float, seconds: float) -> dict[str, Any]:
    """Milliseconds from the moment that a batch of 100 was due to its answer; the schedule does not wait.

    Each node's first batch, with which its names are stored and connections are made, is not among them.
    """
    count = int(rows_per_second * seconds / 100 / SENDERS)
    prepared, every = bodies(count + 1, 100, "latency"), SENDERS * 100 / rows_per_second
    found: list[float] = []
    begin = time.perf_counter() + 1.0

    def send(number: int) -> None:
        sender = Sender(url, zipped=False)
        sender.post(prepared[number][0])
        for k, body in enumerate(prepared[number][1:]):
            due = begin + (k + number / SENDERS) * every
            time.sleep(max(0.0, due - time.perf_counter()))
            sender.post(body)
            found.append((time.perf_counter() - due) * 1e3)

    in_threads(send)
    return {"rows_per_second": rows_per_second, **milliseconds(found)}


def milliseconds(found: list[float]) -> dict[str, Any]:
    """Percentiles."""
    cuts = statistics.quantiles(found, n=100)
    return {"count": len(found), "p50_ms": cuts[49], "p95_ms": cuts[94], "p99_ms": cuts[98], "max_ms": max(found)}


def ingest(arguments: argparse.Namespace) -> None:
    """Into each database: three times throughput, and latency at a tenth of the target."""
    result: dict[str, Any] = {"bench": "service ingest", "conditions": conditions(senders=SENDERS, workers=1)}
    for name, target in (("sqlite", 60_000), ("postgresql", 20_000)):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = None
            if name == "postgresql":
                database = stack.enter_context(postgresql(fsync="on")).new_database()
            process, url = stack.enter_context(service(folder, database, **FREE))
            slow = latency(url, rows_per_second=target / 10, seconds=arguments.seconds)
            runs = [throughput(url, process, batches=arguments.batches)]
            result[name] = {"target_rows_per_second": target, "latency": slow, "throughput": runs}
    write("ingest", result)


def fleet(arguments: argparse.Namespace) -> None:
    """1,250 nodes push a batch every 10 s, evenly spread; counts what is stored in the end."""
    series, nodes, seconds = node_series(), 1250, arguments.seconds
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), **FREE) as (process, url):
        begin, wall = time.perf_counter() + 1, time.time() - 10
        found: list[float] = []
        samples: list[tuple[float, float, float]] = []
        rounds = int(seconds // 10)

        def send(number: int) -> None:
            sender = Sender(url, zipped=True)
            for k in range(rounds):
                for node in range(number, nodes, SENDERS):
                    due = begin + 10 * k + 10 * node / nodes
                    start = round(wall + 10 * k, 3)
                    body = gzip.compress(json.dumps(batch(f"n{node}", "e", k, series, [start])).encode(), 1)
                    time.sleep(max(0.0, due - time.perf_counter()))
                    sender.post(body)
                    found.append((time.perf_counter() - due) * 1e3)
                if number == 0:
                    samples.append((time.perf_counter() - begin, *used(process.pid)))

        in_threads(send)
        store = connect(f"sqlite:///{folder}/tokenstone.db")
        with store.reading() as session:
            stored = session.execute(text("SELECT count(*) FROM windows")).scalar()
        store.close()
    half = samples[len(samples) // 2]
    cores = (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0])
    write("fleet", {
        "bench": "service fleet", "conditions": conditions(nodes=nodes, rows_a_batch=len(series), seconds=seconds),
        "rows_sent": nodes * rounds * len(series), "rows_stored": stored, "rows_per_second": nodes * len(series) / 10,
        "latency": milliseconds(found), "service_cores": cores,
        "resident_mb_first": samples[0][2], "resident_mb_half": half[2], "resident_mb_last": samples[-1][2],
        "samples_seconds_cpu_mb": samples,
    })  # fmt: skip


def fill_database(arguments: argparse.Namespace) -> None:
    """Fill a database with the whole of yesterday."""
    begin = (time.time() // DAY - 1) * DAY
    print(fill(arguments.database, nodes=88, begin=begin, windows=int(DAY // 10)), "windows")


def make_run(url: str, cluster: str, number: int, day: float) -> str:
    """A run of 15 minutes on one node, whose windows lie in the full database, scored."""
    run_id, node = f"bench-{cluster}-{number}-{time.time():.0f}", f"n{number % 88:04d}"
    devices = [{"id": f"GPU-{g}", "node": node, "model": "NVIDIA H100 80GB HBM3"} for g in range(GPUS)]
    phases = [{"kind": "startup", "start_seconds": 0, "duration_seconds": 100, "activity_seconds": {"startup": 100}},
              {"kind": "step", "start_seconds": 100, "duration_seconds": 800, "steps": 20,
               "activity_seconds": {"compute": 700, "input_stall": 60, "host_overhead": 40}}]  # fmt: skip
    facts = examples.FACTS | {
        "started_unix_seconds": day + 600 * number, "allocated_seconds": 900,
        "devices": [{"device": device["id"], "phases": phases} for device in devices],
    }  # fmt: skip
    with Client(url) as client:
        run = examples.RUN | {"run_id": run_id, "cluster": cluster, "devices": devices}
        client.create_run(RunCreate.model_validate(run))
        client.change_run(run_id, RunChange(state=RunState.RUNNING))
        client.put_facts(run_id, TrainingFacts.model_validate(facts))
    return run_id


def queries(arguments: argparse.Namespace) -> None:
    """Answers over HTTP from a full database, each asked many times with other arguments."""
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), arguments.database, **FREE) as (process, url):
        sender = Sender(url, zipped=False)
        day = (time.time() // DAY - 1) * DAY
        store = connect(arguments.database)
        with store.reading() as session:
            rows = session.execute(text("SELECT count(*) FROM windows")).scalar()
            day = session.execute(text("SELECT min(start_unix_seconds) FROM hours")).scalar()
        store.close()
        clusters, metric = ("c0", "c1"), "accel_busy_ratio"

        def run_page(k: int) -> str:
            node = {"cluster": clusters[k % 2], "node": f"n{k % 88:04d}"}
            begin = day + k * 613 % 80_000
            return "/v1/windows?" + urlencode({**node, "start": begin, "end": begin + 600, "limit": 1000})

        def steps(k: int) -> str:
            wanted = {"metric": metric, "cluster": clusters[k % 2], "node": f"n{k % 88:04d}", "start": day,
                      "end": day + DAY, "step": 300, "limit": 1000}  # fmt: skip
            return "/v1/windows?" + urlencode(wanted)

        def cluster_day(k: int) -> str:
            date = time.strftime("%Y-%m-%d", time.gmtime(day))
            return "/v1/fleet?" + urlencode({"cluster": clusters[k % 2], "start": date, "end": date})

        runs = [make_run(url, clusters[k % 2], k, day) for k in range(RUNS)]

        def run_report(k: int) -> str:
            return "/v1/reports/html?" + urlencode({"run": runs[k % RUNS]})

        def comparison(k: int) -> str:
            sides = [runs[n] for n in range(k % 2, RUNS, 2)], [runs[n] for n in range((k + 1) % 2, RUNS, 2)]
            return "/v1/comparisons?" + urlencode({"a": sides[0], "b": sides[1]}, doseq=True)

        asked = (
            ("run page", run_report), ("cluster day", cluster_day), ("comparison", comparison),
            ("run's windows", run_page), ("node's day in steps", steps),
        )  # fmt: skip
        result: dict[str, Any] = {"bench": "service queries", "conditions": conditions(rows=rows), "queries": {}}
        for name, path in asked:
            found = []
            for k in range(arguments.times):
                began = time.perf_counter()
                body = sender.get(path(k))
                found.append((time.perf_counter() - began) * 1e3)
            result["queries"][name] = {**milliseconds(found), "bytes": len(body), "path": path(0)}
        result["service_resident_mb"] = used(process.pid)[1]
    write(f"queries-{arguments.name}", result)


def main() -> None:
    """Measure one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("ingest")
    one.add_argument("--batches", type=int, default=100)
    one.add_argument("--seconds", type=float, default=20)
    one.set_defaults(run=ingest)
    one = parts.add_parser("fleet")
    one.add_argument("--seconds", type=float, default=600)
    one.set_defaults(run=fleet)
    one = parts.add_parser("fill")
    one.add_argument("database")
    one.set_defaults(run=fill_database)
    one = parts.add_parser("queries")
    one.add_argument("database")
    one.add_argument("--name", required=True)
    one.add_argument("--times", type=int, default=100)
    one.set_defaults(run=queries)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
