"""What marking anyone's loop costs: `tokenstone.record`, by the mark, with everything on that a real job has.

    python bench/record.py --service http://127.0.0.1:8470

A mark is one `job.step()` around nothing, or one `job.activity()` inside a step. The background thread writes snapshots
meanwhile, and with --service it keeps a run of that service alive. Each figure is the median of the rounds; the slowest
steps show what joining old phases, or a snapshot, costs when it falls into one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tokenstone.record import Job

RESULT = Path(__file__).parent / "results" / "record.json"
TARGET_SECONDS = 20e-6


def per_mark(work: Callable[[int], None], count: int, marks: int) -> float:
    """Seconds of one of `marks` marks that `work` sets each time."""
    began = time.perf_counter()
    work(count)
    return (time.perf_counter() - began) / count / marks


def measure(job: Job, rounds: int, count: int) -> dict[str, list[float]]:
    """Seconds a mark, by round, less what the empty loop takes."""

    def empty(number: int) -> None:
        for _ in range(number):
            pass

    def steps(number: int) -> None:
        for _ in range(number):
            with job.step(tokens=4096):
                pass

    def activities(number: int) -> None:
        for _ in range(number):
            with job.step(tokens=4096):
                with job.activity("input_stall"):
                    pass
                with job.activity("exposed_communication"):
                    pass

    @job.step(tokens=4096)
    def step() -> None:
        pass

    def decorated(number: int) -> None:
        for _ in range(number):
            step()

    kinds = {"step": (steps, 1), "step_and_two_activities": (activities, 3), "decorator": (decorated, 1)}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        nothing = per_mark(empty, count, 1)
        for name, (work, marks) in kinds.items():
            seconds[name].append(per_mark(work, count, marks) - nothing / marks)
    return seconds


def longest(job: Job, count: int) -> list[float]:
    """The slowest steps of many, one by one."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        with job.step(tokens=4096):
            pass
        taken.append(time.perf_counter() - began)
    return sorted(taken)[-20:]


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", help="URL of a running service (default: none)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=20_000)
    arguments = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as spool, Job("bench", api=arguments.service, spool=spool) as job:
        measure(job, 1, 1000)
        seconds = measure(job, arguments.rounds, arguments.count)
        slowest = longest(job, 200_000)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "bench": "record",
        "conditions": {
            "python": platform.python_version(), "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(), "rounds": arguments.rounds, "marks_a_round": arguments.count,
            "service": arguments.service is not None, "load_average_before": load,
            "load_average_after": os.getloadavg(),
        },
        "target_seconds_a_phase": TARGET_SECONDS,
        "median_seconds_a_mark": medians,
        "worst_round_seconds_a_mark": {name: max(values) for name, values in seconds.items()},
        "slowest_steps_of_200000_seconds": slowest,
        "raw": seconds,
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "raw"}))


if __name__ == "__main__":
    main()
