"""What the agent costs a node, alone and beside Debian's prometheus-node-exporter.

    python bench/agent.py

A: the real agent over 8 simulated GPUs (the C stand-in for NVIDIA's library), the fixture's 8 adapters and host at
1 Hz, windows of 10 s pushed to a service on the same machine, scraped every 15 s: processor time, memory, then the
time of each of 500 scrapes. B: agent and node exporter on this machine's own host counters, both scraped at 1 Hz,
in turns. Processor time is the kernel's, of all threads. Writes bench/results/agent.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from agent_node import REPOSITORY, Process, agent, free_port, percentile, simulated_adapters, simulated_driver, sink

RESULT = REPOSITORY / "bench/results/agent.json"
SETTLE_SECONDS = 12.0
HOST_SOURCES = "cpu,memory,pressure,ethernet,disk,filesystem"
COLLECTORS = ("cpu", "loadavg", "meminfo", "pressure", "netdev", "netclass", "diskstats", "filesystem")


def watched(process: Process, seconds: float, every: float) -> float:
    """Processor seconds a second over `seconds`, scraped now and then."""
    begin, before = time.monotonic(), process.cpu_seconds()
    for scrape in range(1, int(seconds / every) + 1):
        time.sleep(max(0.0, begin + scrape * every - time.monotonic()))
        process.scrape()
    return (process.cpu_seconds() - before) / (time.monotonic() - begin)


def whole_node(folder: Path, seconds: float) -> dict[str, Any]:
    """Part A."""
    with sink() as (url, taken):
        arguments = ("--root", str(simulated_adapters(folder)), "--node", "h100-node", "--api", url)
        process = agent(folder, simulated_driver(folder), *arguments)
        time.sleep(SETTLE_SECONDS)
        cores = watched(process, seconds, 15.0)
        scrapes = []
        for _ in range(500):
            begin = time.perf_counter()
            process.scrape()
            scrapes.append(time.perf_counter() - begin)
            time.sleep(0.02)
        memory, series = process.memory_bytes(), process.series()
        process.stop()
    return {
        "cores": cores, "memory_bytes": memory, "series": series, "seconds": seconds, "windows_a_batch": max(taken),
        "batches": len(taken), "scrape_seconds": {"p50": percentile(scrapes, 0.5), "p99": percentile(scrapes, 0.99)},
        "raw_scrape_seconds": scrapes,
    }  # fmt: skip


def node_exporter() -> Process:
    """Debian's node exporter with the collectors of the same counters only."""
    port = free_port()
    command = ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{port}", "--collector.disable-defaults"]
    command += ["--web.disable-exporter-metrics", *(f"--collector.{name}" for name in COLLECTORS)]
    return Process(command, f"http://127.0.0.1:{port}/metrics", {})


def host_only(folder: Path) -> Process:
    """The agent with the host's sources only, on this machine."""
    return agent(folder, {"TOKENSTONE_SOURCES": HOST_SOURCES})


def beside_node_exporter(folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Part B: processor time of each for every series that it shows, in turns."""
    contenders = {"agent": host_only(folder), "node_exporter": node_exporter()}
    time.sleep(SETTLE_SECONDS)
    cores: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, process in contenders.items():
            cores[name].append(watched(process, seconds, 1.0))
    result: dict[str, Any] = {"seconds_a_round": seconds, "rounds": rounds, "raw_cores": cores}
    for name, process in contenders.items():
        series = process.series()
        result[name] = {
            "cores": statistics.median(cores[name]), "series": series, "memory_bytes": process.memory_bytes(),
            "microseconds_a_series": statistics.median(cores[name]) / series * 1e6,
        }  # fmt: skip
        process.stop()
    result["agent_over_node_exporter_a_series"] = (
        result["agent"]["microseconds_a_series"] / result["node_exporter"]["microseconds_a_series"]
    )
    result["agent_over_node_exporter_in_all"] = result["agent"]["cores"] / result["node_exporter"]["cores"]
    return result


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0, help="of part A")
    parser.add_argument("--rounds", type=int, default=4, help="of part B, 20 s each")
    arguments = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        node = whole_node(Path(folder), arguments.seconds)
        beside = beside_node_exporter(Path(folder), 20.0, arguments.rounds)
    result = {
        "bench": "agent",
        "conditions": {
            "python": platform.python_version(), "machine": platform.machine(), "kernel": platform.release(),
            "cores": os.cpu_count(), "load_average_before": load, "sample_seconds": 1.0, "window_seconds": 10.0,
        },
        "node": node,
        "beside_node_exporter": beside,
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    node.pop("raw_scrape_seconds")
    beside.pop("raw_cores")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
