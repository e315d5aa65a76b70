"""The same points into Tokenstone's service and into MLflow's tracking server, both over HTTP into SQLite.

    python -m venv /tmp/mlflow && /tmp/mlflow/bin/pip install mlflow     # beside ours: it wants other versions
    python bench/service_mlflow.py --mlflow /tmp/mlflow/bin/mlflow

Four senders, each with a node (there a run) of its own, batches of 1,000 points, which is the most that MLflow takes.
A point is a series, a time and a value; ours has minimum, maximum and count beside. The two are measured in turns,
each round with a server on an empty database; MLflow's with one worker, as ours, and with the four it has by default.
Writes bench/results/service-mlflow.json.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service import FREE, SENDERS, bodies, in_threads, throughput, write
from service_data import conditions, service
from sqlalchemy import create_engine, text


@contextmanager
def mlflow_server(program: str, folder: Path, workers: int) -> Iterator[str]:
    """MLflow's tracking server in a process of its own: its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--port", str(port)]
    command += ["--default-artifact-root", str(folder / "artifacts"), "--workers", str(workers)]
    # No jobs and no reports home: only what takes points in.
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=5).close()  # noqa: S310
                    break
                except OSError:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise SystemExit((folder / "log").read_text()[-2000:]) from None
                    time.sleep(0.2)
            yield url
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)


def call(url: str, what: str, body: bytes) -> dict[str, Any]:
    """Make one call of MLflow's REST API."""
    request = urllib.request.Request(  # noqa: S310
        f"{url}/api/2.0/mlflow/{what}", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310
        answer: dict[str, Any] = json.loads(response.read())
        return answer


def points(body: bytes, run: str) -> bytes:
    """The points of one of our batches, as MLflow wants them."""
    batch = json.loads(body)
    names = [f"{series['metric']}/{series['device']}" for series in batch["series"]]
    columns = zip(batch["series_index"], batch["start_unix_seconds"], batch["mean"], batch["delta"], strict=True)
    metrics = [
        {"key": names[i], "value": mean if mean is not None else delta, "timestamp": int(start * 1000), "step": 0}
        for i, start, mean, delta in columns
    ]
    return json.dumps({"run_id": run, "metrics": metrics}).encode()


def into_mlflow(url: str, folder: Path, batches: int) -> float:
    """Points a second; every one is looked for afterwards."""
    prepared = []
    for mine in bodies(batches, 1000, "mlflow"):
        wanted = json.dumps({"experiment_id": "0", "start_time": int(time.time() * 1000)}).encode()
        run = call(url, "runs/create", wanted)["run"]["info"]["run_id"]
        prepared.append([points(body, run) for body in mine])
    began = time.perf_counter()

    def send(number: int) -> None:
        for body in prepared[number]:
            call(url, "runs/log-batch", body)

    in_threads(send)
    rate = SENDERS * batches * 1000 / (time.perf_counter() - began)
    with create_engine(f"sqlite:///{folder}/mlflow.db").connect() as connection:
        stored = connection.execute(text("SELECT count(*) FROM metrics")).scalar()
    assert stored == SENDERS * batches * 1000, stored
    return rate


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlflow", required=True, help="the program mlflow")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=10, help="of a sender into MLflow; ours gets ten times as many")
    arguments = parser.parse_args()
    version = subprocess.run([arguments.mlflow, "--version"], capture_output=True, text=True, check=True).stdout
    told = conditions(senders=SENDERS, rounds=arguments.rounds, mlflow=version.split()[-1])
    rates: dict[str, list[float]] = {"tokenstone": [], "mlflow_1_worker": [], "mlflow_4_workers": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as name, service(Path(name), **FREE) as (process, url):
            rates["tokenstone"].append(throughput(url, process, batches=10 * arguments.batches)["rows_per_second"])
        for workers, key in ((1, "mlflow_1_worker"), (4, "mlflow_4_workers")):
            with tempfile.TemporaryDirectory() as name, mlflow_server(arguments.mlflow, Path(name), workers) as url:
                rates[key].append(into_mlflow(url, Path(name), arguments.batches))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates["tokenstone"], rates[name], strict=True))
        for name in rates
        if name != "tokenstone"
    }
    result = {"bench": "service mlflow", "conditions": told, "points_per_second": rates, "medians": medians}
    write("mlflow", result | {"tokenstone_over": ratios})


if __name__ == "__main__":
    main()
