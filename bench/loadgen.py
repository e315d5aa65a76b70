"""How exact the load generator is, and how late it is itself: against a server whose latencies are scripted.

    python bench/loadgen.py

The generator in this process, on one core; the server in another, on the other. First TTFT and TPOT against the
script's truth at 50 requests a second, then its own lag at 500 a second against a server that answers at once.
Writes bench/results/loadgen.json; the same is the last line of output.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from tokenstone.latency import percentiles
from tokenstone.run import InferenceSpec, Traffic
from workloads.load.client import Endpoint, base_url
from workloads.load.generator import Generator, Load
from workloads.load.plan import make_plan
from workloads.load.prompts import WordPrompts

RESULT = Path(__file__).parent / "results" / "loadgen.json"


def measure(line: dict[str, Any], *, requests: int, rate: float, output_tokens: int) -> tuple[Load, float]:
    """Load a scripted server; return what was measured and the seconds of processor time that it took here."""
    command = [sys.executable, "-m", "workloads.load.scripted", json.dumps([line])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        url = json.loads(server.stdout.readline())["url"]
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(server.pid, {cores[-1]})
        os.sched_setaffinity(0, {cores[0]})
        spec = InferenceSpec(
            preset="bench", model=None, endpoint_model="scripted", dtype="none", requests=requests, input_tokens=64,
            output_tokens=output_tokens, max_batch=1, traffic=Traffic(arrival="poisson", rate=rate),
        )  # fmt: skip
        generator = Generator(Endpoint(base_url(url), "scripted"), WordPrompts(), spec.arrivals)
        begin = time.process_time()
        load = generator.run(make_plan(spec))
        used = time.process_time() - begin
        os.sched_setaffinity(0, set(cores))
        server.stdin.close()
    return load, used


def exactness(line: dict[str, Any], rate: float) -> dict[str, Any]:
    """Median and p99 of measured less scripted TTFT and TPOT, seconds."""
    load, _ = measure(line, requests=300, rate=rate, output_tokens=32)
    assert all(outcome.error is None for outcome in load.outcomes)
    ttft = [o.first - o.due - line["ttft_seconds"] for o in load.outcomes if o.first is not None]
    tpot = [
        (o.end - o.first) / (o.output_tokens - 1) - line["gap_seconds"]
        for o in load.outcomes
        if o.end is not None and o.first is not None
    ]
    return {
        "script": line, "rate": rate, "requests": len(load.outcomes),
        "ttft_error_seconds": summary(ttft), "tpot_error_seconds": summary(tpot), "lag": load.lag.model_dump(),
    }  # fmt: skip


def summary(values: list[float]) -> dict[str, float]:
    """Percentiles as JSON."""
    found = percentiles(values)
    assert found is not None
    return found.model_dump() | {"largest": max(values, key=abs)}


def main() -> None:
    """Measure and write."""
    exact = [
        exactness({"ttft_seconds": 0.1, "gap_seconds": 0.01}, 50.0),
        exactness({"ttft_seconds": 0.5, "gap_seconds": 0.05}, 50.0),
    ]
    lags = []
    for _ in range(3):
        load, used = measure({}, requests=2500, rate=500.0, output_tokens=1)
        assert all(outcome.error is None for outcome in load.outcomes)
        late = [outcome.sent - outcome.due for outcome in load.outcomes if outcome.sent is not None]
        lags.append({"send": summary(late), "loop_p99_seconds": load.lag.loop_p99_seconds, "processor_seconds": used,
                     "processor_ratio": used / (load.outcomes[-1].due - load.began)})  # fmt: skip
    result = {
        "conditions": {
            "python": platform.python_version(), "aiohttp": aiohttp.__version__, "cores": os.cpu_count(),
            "placing": "generator on one core, server on the other",
        },
        "exactness": exact,
        "lag_at_500_requests_per_second": lags,
        "summary": {
            "ttft_error_p50_seconds": [e["ttft_error_seconds"]["p50"] for e in exact],
            "ttft_error_p99_seconds": [e["ttft_error_seconds"]["p99"] for e in exact],
            "tpot_error_p99_seconds": [e["tpot_error_seconds"]["p99"] for e in exact],
            "send_lag_p50_seconds": statistics.median(lag["send"]["p50"] for lag in lags),
            "send_lag_p99_seconds": statistics.median(lag["send"]["p99"] for lag in lags),
            "processor_ratio": statistics.median(lag["processor_ratio"] for lag in lags),
        },
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["summary"]))


if __name__ == "__main__":
    main()
