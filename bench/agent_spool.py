"""A day without the service: how much disk the spool takes, and how fast the service then takes it.

    python bench/agent_spool.py

The series are those of a real tick over 8 simulated GPUs, 8 adapters and the host. 8,640 intervals of 10 s are made
of them: gauges wander, with minimum and maximum around the mean; counters grow by random amounts; a fifth of the
series stand still, as idle ones do. They go through the real spool. Then the real service (SQLite) is started, and
the agent's own pusher hands everything over. Writes bench/results/agent_spool.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from agent_node import REPOSITORY, free_port, simulated_adapters, simulated_driver

from collector.batch import Origin
from collector.client import AgentClient
from collector.clock import Clock
from collector.config import load_settings
from collector.push import Pusher
from collector.registry import build_sources
from collector.sources.base import health_readings, take
from collector.spool import Spool
from tokenstone.metric import REGISTRY, Kind
from tokenstone.sample import Sample, SeriesKey
from tokenstone.window import Window

RESULT = REPOSITORY / "bench/results/agent_spool.json"
WINDOW_SECONDS = 10.0


def windows_of_a_day(keys: list[SeriesKey], intervals: int) -> Iterator[list[Window]]:
    """Yield the windows of each interval."""

    dice = random.Random(3)  # noqa: S311
    shares = {key for key in keys if REGISTRY[key.metric].unit in {"ratio", "celsius"}}
    levels = {key: dice.uniform(0.1, 0.8) if key in shares else 10 ** dice.uniform(0, 9) for key in keys}
    still = {key for key in keys if dice.random() < 0.2}
    start = time.time() - intervals * WINDOW_SECONDS  # the service takes nothing of the future
    for _ in range(intervals):
        windows = []
        for key in keys:
            level = levels[key]
            if REGISTRY[key.metric].kind is Kind.COUNTER:
                delta = 0 if key in still else int(dice.expovariate(1 / level))
                windows.append(Window(key, start, WINDOW_SECONDS, 10, delta=delta))
            elif key in still:
                windows.append(Window(key, start, WINDOW_SECONDS, 10, level, level, level))
            else:
                level *= dice.uniform(0.98, 1.02)
                levels[key] = level = min(level, 0.9) if key in shares else level
                low = min(level, round(level * dice.uniform(0.9, 1), 3))
                high = max(level, round(level * dice.uniform(1, 1.1), 3))
                windows.append(Window(key, start, WINDOW_SECONDS, 10, level, low, high))
        yield windows
        start += WINDOW_SECONDS + dice.uniform(-1e-3, 1e-3)


def a_tick(folder: Path) -> tuple[list[SeriesKey], list[Sample]]:
    """The series that the agent's sources give over the simulated node, and their samples."""

    sources = build_sources(load_settings(node="h100-node", root=simulated_adapters(folder)))
    samples: list[Sample] = []
    for _ in range(2):  # performance monitoring compares two
        time.sleep(0.2)
        samples = [take(source, Clock()) for source in sources]
    keys = {r.series: None for s in samples for r in (*s.readings, *s.held, *health_readings(s))}
    for source in sources:
        source.close()
    return list(keys), samples


def drain(spool_folder: Path, max_bytes: int, folder: Path) -> tuple[float, dict[str, int]]:
    """Hand everything to the real service; return the seconds, and the batches by outcome."""

    port = free_port()
    command = [sys.executable, "-m", "cli", "serve", "--port", str(port), "--data", str(folder / "data")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as service:
        url = f"http://127.0.0.1:{port}"
        while True:
            try:
                urllib.request.urlopen(f"{url}/readyz").close()  # noqa: S310
                break
            except OSError:
                time.sleep(0.1)
        spool = Spool(spool_folder, max_bytes, Origin("lab", "h100-node", "99999999999999-z"))
        pusher = Pusher(spool, AgentClient(url, timeout=120))
        begin = time.monotonic()
        pusher.start()
        while spool.waiting_batches:
            time.sleep(0.05)
        seconds = time.monotonic() - begin
        pusher.stop()
        service.terminate()
    return seconds, pusher.delivery().batches


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--inner", action="store_true", help="the driver is set up (what the script calls itself with)")
    arguments = parser.parse_args()
    if not arguments.inner:
        with tempfile.TemporaryDirectory() as driver:
            environment = {**os.environ, **simulated_driver(Path(driver)), "PYTHONPATH": str(Path(__file__).parent)}
            command = [sys.executable, __file__, "--inner", "--hours", str(arguments.hours)]
            sys.exit(subprocess.run(command, env=environment, check=False).returncode)

    load, max_bytes = os.getloadavg(), 500_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys, samples = a_tick(folder)
        spool = Spool(folder / "spool", max_bytes, Origin("lab", "h100-node", "00000000000001-a"))
        intervals = int(arguments.hours * 3600 / WINDOW_SECONDS)
        put_seconds = 0.0
        for windows in windows_of_a_day(keys, intervals):
            begin = time.process_time()
            spool.put(windows, samples)
            put_seconds += time.process_time() - begin
        spool.close()
        size = sum(path.stat().st_size for path in (folder / "spool").glob("*.batch"))
        batches = len(list((folder / "spool").glob("*.batch")))
        seconds, outcomes = drain(folder / "spool", max_bytes, folder)
    assert outcomes["accepted"] == batches, outcomes
    result = {
        "bench": "agent_spool",
        "conditions": {
            "hours": arguments.hours, "window_seconds": WINDOW_SECONDS, "series": len(keys), "intervals": intervals,
            "database": "SQLite", "cores": os.cpu_count(), "load_average_before": load,
        },
        "spool_bytes": size, "spool_bytes_in_24_hours": size * 24 / arguments.hours, "batches": batches,
        "bytes_a_window": size / intervals / len(keys), "put_cpu_seconds_an_interval": put_seconds / intervals,
        "dropped_batches": spool.dropped_batches, "drain_seconds": seconds, "drained_batches": outcomes,
        "times_real_time": arguments.hours * 3600 / seconds, "windows_a_second": intervals * len(keys) / seconds,
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
