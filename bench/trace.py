"""Reading a large trace: `tokenstone trace` against HolisticTraceAnalysis, whole process, time and memory.

    python bench/trace.py TRACE [--gigabytes 1.0] [--peer-python PATH] [--out bench/results/trace.json]

TRACE is a real one, repeated until the file has the size. Each program runs as a process of its own and gives
overlap and breakdown; wall time and peak resident memory are the process's. Runs take turns.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEER = """
import sys
from hta.trace_analysis import TraceAnalysis
analysis = TraceAnalysis(trace_files={0: sys.argv[1]}, trace_dir=sys.argv[2])
print(analysis.get_comm_comp_overlap(visualize=False))
print(analysis.get_temporal_breakdown(visualize=False))
"""


def repeat(trace: Path, size: int, out: Path) -> int:
    """Write `trace` again and again, later each time, until the file has `size` bytes; return how often."""
    opener = gzip.open if trace.suffix == ".gz" else open
    with opener(trace, "rb") as file:
        document = json.load(file)
    events = document.pop("traceEvents")
    times = [event["ts"] for event in events if "ts" in event]
    period = max(times) - min(times) + 1000
    copies = written = 0
    with out.open("w") as file:
        header = json.dumps(document, indent=2)[:-2] + ',\n  "traceEvents": [\n'
        written += file.write(header)
        while written < size:
            later = [shifted(event, copies, period) for event in events]
            text = ",\n".join(json.dumps(event, indent=2) for event in later)
            written += file.write((",\n" if copies else "") + text)
            copies += 1
        file.write("\n  ]\n}\n")
    return copies


def shifted(event: dict, number: int, period: float) -> dict:
    """The same event, `number` periods later, with correlations of its own."""
    event = dict(event)
    if "ts" in event:
        event["ts"] += number * period
    if event.get("name", "").startswith("ProfilerStep#"):
        event["name"] = f"ProfilerStep#{number}"
    arguments = event.get("args")
    if arguments and "correlation" in arguments:
        event["args"] = {**arguments, "correlation": arguments["correlation"] + number * 10_000_000}
    return event


def measure(command: list[str]) -> dict[str, float]:
    """Wall seconds and peak resident bytes of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{command[:3]} ended with {status}"
    return {"seconds": time.perf_counter() - start, "peak_bytes": usage.ru_maxrss * 1024}


def main() -> None:
    """Make the trace, run both, keep the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trace", type=Path)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--out", type=Path, default=Path("bench/results/trace.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.json"
        copies = repeat(options.trace, int(options.gigabytes * 1e9), large)
        ours = [sys.executable, "-P", "-m", "cli", "trace", str(large), "--json"]
        peer = [options.peer_python, "-c", PEER, str(large), folder]
        runs = [{"tokenstone": measure(ours), "peer": measure(peer)} for _ in range(options.runs)]
        size = large.stat().st_size
    last = runs[-1]
    result = {
        "conditions": {
            "trace": options.trace.name, "copies": copies, "bytes": size, "peer": "holistictraceanalysis 0.5.0",
            "python": platform.python_version(), "cores": len(os.sched_getaffinity(0)),
            "load_at_end": os.getloadavg()[0],
        },
        "runs": runs,
        "times_faster": last["peer"]["seconds"] / last["tokenstone"]["seconds"],
        "memory_ratio": last["tokenstone"]["peak_bytes"] / last["peer"]["peak_bytes"],
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
