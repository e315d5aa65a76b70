"""Does the agent slow training down? The reference step with the agent on and off, in turns.

    python bench/agent_training.py

cpu-small, fp32, as many threads as there are cores, so that the agent has none for itself. In each of the pairs the
agent (8 simulated GPUs, the fixture's adapters and host, 1 Hz, pushing) is started before one half and stopped after
it; the half that comes first is drawn. A half is some seconds of steps after a warm-up step. The difference is the
mean of the pairs' log ratios with Student's 95 % interval. A pair in which other programs took more than a hundredth of
the processors is left out, whatever it says, and counted. Writes bench/results/agent_training.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from agent_node import REPOSITORY, agent, simulated_adapters, simulated_driver, sink
from scipy import stats

from workloads.device import select_device
from workloads.presets import training_spec
from workloads.training.local import LocalTrainer

RESULT = REPOSITORY / "bench/results/agent_training.json"
SETTLE_SECONDS = 2.0
MOST_FOREIGN = 0.01


def busy_seconds() -> float:
    """Processor time of all programs, the kernel's and what the host took from this machine, since boot."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _, _, interrupts, soft, stolen = map(int, fields[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


class Training:
    """The reference step on random ids."""

    def __init__(self) -> None:
        self._trainer = LocalTrainer(spec := training_spec("cpu-small"), select_device(threads=os.cpu_count() or 1))
        generator = torch.Generator().manual_seed(0)
        size = (spec.batch_sequences, spec.sequence_length + 1)
        ids = torch.randint(spec.model.vocabulary, size, generator=generator)
        self._ids, self._targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step_seconds(self, seconds: float) -> float:
        """Mean seconds of a step, over about `seconds`."""
        self._trainer.step(1000, self._ids, self._targets)
        begin, steps = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            self._trainer.step(1000, self._ids, self._targets)
            steps += 1
        return (time.perf_counter() - begin) / steps


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="undisturbed ones to stop at")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a half")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which it stops anyway")
    arguments = parser.parse_args()
    load, dice, training = os.getloadavg(), random.Random(1), Training()  # noqa: S311
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    disturbed, deadline = 0, time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder, sink() as (url, _):
        environment, root = simulated_driver(Path(folder)), simulated_adapters(Path(folder))
        while len(seconds["on"]) < arguments.pairs and time.monotonic() < deadline:
            pair, foreign = {}, 0.0
            for state in dice.sample(("on", "off"), 2):
                process = agent(Path(folder), environment, "--root", str(root), "--api", url) if state == "on" else None
                time.sleep(SETTLE_SECONDS)
                begin, busy, own = time.monotonic(), busy_seconds(), time.process_time()
                agents = process.cpu_seconds() if process else 0.0
                pair[state] = training.step_seconds(arguments.seconds)
                own = time.process_time() - own + (process.cpu_seconds() - agents if process else 0.0)
                capacity = (time.monotonic() - begin) * (os.cpu_count() or 1)
                foreign = max(foreign, (busy_seconds() - busy - own) / capacity)
                if process is not None:
                    process.stop()
            if foreign > MOST_FOREIGN:
                disturbed += 1
                continue
            for state, found in pair.items():
                seconds[state].append(found)
    logs = [math.log(on / off) for on, off in zip(seconds["on"], seconds["off"], strict=True)]
    mean, error = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    reach = float(stats.t.ppf(0.975, len(logs) - 1)) * error
    result = {
        "bench": "agent_training",
        "conditions": {
            "preset": "cpu-small", "dtype": "fp32", "threads": os.cpu_count(), "torch": str(torch.__version__),
            "pairs": len(logs), "pairs_left_out": disturbed, "seconds_a_half": arguments.seconds,
            "load_average_before": load,
        },
        "slower_with_agent_ratio": math.expm1(mean),
        "interval_95": [math.expm1(mean - reach), math.expm1(mean + reach)],
        "median_log_ratio": statistics.median(logs),
        "raw_step_seconds": seconds,
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    result.pop("raw_step_seconds")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
