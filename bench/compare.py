"""How long a report and a comparison take: facts -> evaluation -> documents, of a run of 64 devices and one hour.

    python bench/compare.py

The run is made by hand: an hour of steps on each of 64 devices, once of 10 s each (22,656 step phases) and once of 1 s
(226,560), and four series of 10 s windows a device (92,160). Stages are timed three times, those of 1 s steps once; the
median counts. In processor time, which is the wall time of an otherwise idle machine (one thread, no waiting), and an
upper bound of it on a busy one. Writes bench/results/compare.json.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from api.documents import write_document
from api.pages.render import report_html
from tokenstone.compare import compare_sides, make_side, run_figures
from tokenstone.cost import rental
from tokenstone.evaluate import Evaluation, evaluate
from tokenstone.report import build_report
from tokenstone.run import RunState
from tokenstone.wire import DevicePhases, Phase, RunDevice, RunView, TrainingFacts, WindowRow
from workloads.presets import training_spec

RESULTS = Path(__file__).parent / "results"
DEVICES, SECONDS, STARTED = 64, 3600, 1.7e9
TARGET_SECONDS = 2.0


def phases(seed: int, step_seconds: int) -> list[Phase]:
    """Start-up and an hour of steps of one device."""
    draw = random.Random(seed)  # noqa: S311  no secret
    found = [Phase(kind="startup", start_seconds=0, duration_seconds=60, activity_seconds={"startup": 60})]
    for start in range(60, SECONDS, step_seconds):
        compute = step_seconds * (0.8 + 0.05 * draw.random())
        rest = {"exposed_communication": 0.9 * step_seconds - compute, "host_overhead": 0.1 * step_seconds}
        found.append(Phase(kind="step", start_seconds=start, duration_seconds=step_seconds, steps=1,
                           activity_seconds={"compute": compute, **rest}))  # fmt: skip
    return found


def windows() -> list[WindowRow]:
    """What agents of eight nodes sent in that hour."""
    metrics = ("accel_busy_ratio", "accel_memory_used_bytes", "accel_power_watts", "accel_energy_joules_total")
    return [
        WindowRow(node=f"n{device // 8}", device=f"GPU-{device}", metric=metric, labels={},
                  start_unix_seconds=STARTED + 10 * i, duration_seconds=10, count=10, mean=0.5, minimum=0.1,
                  maximum=0.9, delta=5000.0 if metric.endswith("total") else None)
        for device in range(DEVICES) for metric in metrics for i in range(SECONDS // 10)
    ]  # fmt: skip


def timed(work: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Median seconds of processor time and the last result."""
    taken, result = [], None
    for _ in range(times):
        start = time.process_time()
        result = work()
        taken.append(time.process_time() - start)
    return statistics.median(taken), result


def report_stages(
    run: RunView, sent: list[WindowRow], step_seconds: int, times: int
) -> tuple[dict[str, float], Evaluation]:
    """Seconds of each stage from the bytes of the facts to the last document, and the evaluation."""
    body = TrainingFacts(
        started_unix_seconds=STARTED, allocated_seconds=SECONDS, tokens=10**9,
        devices=[DevicePhases(device=f"GPU-{i}", phases=phases(i, step_seconds)) for i in range(DEVICES)],
    ).model_dump_json()  # fmt: skip
    seconds: dict[str, float] = {}
    seconds["read_facts"], facts = timed(lambda: TrainingFacts.model_validate_json(body), times)
    seconds["evaluate"], evaluation = timed(lambda: evaluate(run, facts, windows=sent, price=rental(2.0)), times)
    seconds["report_data"], report = timed(
        lambda: build_report([(run, evaluation)], created_unix_seconds=STARTED), times
    )
    seconds["html"], _ = timed(lambda: report_html(report), times)
    for form in ("markdown", "csv", "pdf"):
        seconds[form], _ = timed(lambda form=form: write_document(report, form), times)
    seconds["whole"] = sum(seconds.values())
    return {name: round(value, 4) for name, value in seconds.items()}, evaluation


def comparison_stages(run: RunView, evaluation: Evaluation) -> dict[str, float]:
    """Seconds of a comparison of 10 with 10 such runs."""
    one, draw, figures = run_figures(run, evaluation), random.Random(1), []  # noqa: S311
    for number in range(20):
        factor = draw.gauss(1, 0.01)
        changed = {name: value and value * factor for name, value in one.figures.items()}
        figures.append(one.model_copy(update={"run_id": f"r{number}", "figures": changed}))
    sides = make_side(figures[:10], title="A"), make_side(figures[10:], title="B")
    compare_sides(*sides)  # scipy is imported once
    data, comparison = timed(lambda: compare_sides(*sides))
    markdown, _ = timed(lambda: write_document(comparison, "markdown"))
    return {"data": round(data, 4), "markdown": round(markdown, 4)}


def main() -> None:
    """Measure and write."""
    spec = training_spec("gpu-8")
    devices = [RunDevice(id=f"GPU-{i}", node=f"n{i // 8}", hardware="h100-sxm") for i in range(DEVICES)]
    run = RunView(
        run_id="bench-0", cluster="bench", spec_id=spec.spec_id, spec=spec, devices=devices, state=RunState.COMPLETE,
        reason="", created_unix_seconds=STARTED, started_unix_seconds=STARTED, ended_unix_seconds=STARTED + SECONDS,
    )  # fmt: skip
    sent = windows()
    ten, evaluation = report_stages(run, sent, 10, 3)
    result = {
        "conditions": {"python": platform.python_version(), "machine": platform.machine(), "devices": DEVICES,
                       "windows": len(sent), "clock": "processor time", "load_average": os.getloadavg()},
        "seconds_steps_of_10_s": ten,
        "seconds_steps_of_1_s": report_stages(run, sent, 1, 1)[0],
        "seconds_comparison_of_10_with_10_runs": comparison_stages(run, evaluation),
        "target_seconds": TARGET_SECONDS,
    }  # fmt: skip
    (RESULTS / "compare.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
