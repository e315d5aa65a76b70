"""What the benchmarks of the service share: a fleet's windows, a database full of them, the service as a process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.store.engine import Store, open_store
from api.store.rollups import roll_up_step
from api.store.statements import insert_windows, upsert
from api.store.tables import Node, NodeDevice, PendingHour, SeriesRow, core_table
from tokenstone.metric import REGISTRY, Kind

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "api"))
from postgresql_server import PostgreSQL

GPUS = 8
DAY, HOUR = 86_400, 3600
FLEET_METRICS = [m for m in REGISTRY.values() if not m.labels]


def node_series(metrics_per_device: int = 2, per_node: int = 5) -> list[dict[str, Any]]:
    """Series of a node with eight devices, of metrics without labels."""
    device = [m.name for m in FLEET_METRICS if m.name.startswith("accel_")]
    host = [m.name for m in FLEET_METRICS if not m.name.startswith(("accel_", "tokenstone_"))]
    device.sort(key=lambda name: name != "accel_busy_ratio")
    return [{"metric": name, "device": f"GPU-{g}"} for g in range(GPUS) for name in device[:metrics_per_device]] + [
        {"metric": name, "device": "host"} for name in host[:per_node]
    ]


def batch(node: str, epoch: str, sequence: int, series: list[dict[str, Any]], starts: list[float]) -> dict[str, Any]:
    """A batch with one window of each series at each of the starts."""
    rows = [(i, start) for start in starts for i in range(len(series))]
    gauge = [REGISTRY[series[i]["metric"]].kind is Kind.GAUGE for i, _ in rows]
    return {
        "node": node, "epoch": epoch, "sequence": sequence,
        "devices": [{"id": f"GPU-{g}", "kind": "accelerator", "vendor": "NVIDIA", "model": "NVIDIA H100 80GB HBM3"}
                    for g in range(GPUS)],
        "series": series, "series_index": [i for i, _ in rows], "start_unix_seconds": [start for _, start in rows],
        "duration_seconds": [10.0] * len(rows), "count": [10] * len(rows),
        "mean": [0.5 + i % 7 / 20 if g else None for (i, _), g in zip(rows, gauge, strict=True)],
        "minimum": [0.1 if g else None for g in gauge], "maximum": [0.97 if g else None for g in gauge],
        "delta": [None if g else 123.0 + i for (i, _), g in zip(rows, gauge, strict=True)],
    }  # fmt: skip


def fill(url: str, *, nodes: int, begin: float, windows: int) -> int:
    """Fill a database: every series of every node each 10 s, in the order of time as agents send them; roll it up."""
    store = open_store(url)
    series = node_series()
    with store.writing() as session:
        names = [{"cluster": f"c{n % 2}", "name": f"n{n:04d}", "seen_unix_seconds": begin} for n in range(nodes)]
        session.execute(core_table(Node).insert(), names)
        ids = [row.id for row in session.execute(core_table(Node).select().order_by(Node.id))]
        devices = [{"node_id": id_, "device": f"GPU-{g}", "kind": "accelerator", "vendor": "NVIDIA",
                    "model": "NVIDIA H100 80GB HBM3", "position": g, "memory_bytes": None}
                   for id_ in ids for g in range(GPUS)]  # fmt: skip
        session.execute(core_table(NodeDevice).insert(), devices)
        rows = [{"node_id": id_, "labels": "{}", **one} for id_ in ids for one in series]
        session.execute(core_table(SeriesRow).insert(), rows)
        series_ids = [row.id for row in session.execute(core_table(SeriesRow).select().order_by(SeriesRow.id))]
        marks = [{"node_id": id_, "start_unix_seconds": begin + hour * HOUR, "touched_unix_seconds": begin}
                 for id_ in ids for hour in range(-(-windows * 10 // HOUR))]  # fmt: skip
        upsert(session, PendingHour, marks)
    if not store.is_sqlite:
        store.make_partitions(now=begin)
    n = len(series_ids)
    means = [[(i * 7 + k) % 97 / 97 for i in range(n)] for k in range(13)]
    constant = [[10.0] * n, [10] * n, [0.01] * n, [0.99] * n, [None] * n]
    for k in range(windows):
        with store.writing() as session:
            start = [begin + 10.0 * k] * n
            insert_windows(session, [series_ids, start, constant[0], constant[1], means[k % 13], *constant[2:]])
    _roll_up(store, begin + windows * 10 + 3 * HOUR)
    store.close()
    return n * windows


def _roll_up(store: Store, now: float) -> None:
    while True:
        with store.writing() as session:
            if not roll_up_step(session, now=now):
                return


@contextmanager
def service(data: Path, database: str | None = None, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The real service in a process of its own: (process, URL)."""
    command = [sys.executable, "-m", "cli", "serve", "--port", "0", "--json", "--data", str(data)]
    command += ["--database", database] if database else []
    environment = {**os.environ, **{f"TOKENSTONE_{name.upper()}": value for name, value in settings.items()}}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()
            process.wait(30)


def used(pid: int) -> tuple[float, float]:
    """(processor seconds, resident megabytes) of a process and, for PostgreSQL, nothing else."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def postgresql(**settings: str) -> Any:
    """A PostgreSQL of the bench's own, while the block runs."""
    return PostgreSQL.started(**settings)


def conditions(**more: Any) -> dict[str, Any]:
    """Where and when."""
    return {
        "cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version(),
        "unix_seconds": round(time.time()), "load_average": os.getloadavg(), **more,
    }  # fmt: skip
