"""What recording costs: a training step with all that the loop records around it, against the same step without.

    python bench/recorder.py

cpu-small, fp32, random tokens, one thread, on one rank and on two forked ones that share the experts. Blocks of
steps with and without take turns, and the medians are compared; a step whose outcome is looked at (its loss) counts
in both. Writes bench/results/recorder.json; the same is the last line of output.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tokenstone.run import TrainingLayout, TrainingSpec
from workloads.device import Device, select_device
from workloads.presets import training_spec
from workloads.recorder import TorchRecorder
from workloads.training.distributed import RankTrainer
from workloads.training.journal import Journal
from workloads.training.local import LocalTrainer
from workloads.training.parallel.processes import Place, joined
from workloads.training.tally import Tally, step_figures

RESULT = Path(__file__).parent / "results" / "recorder.json"
BLOCK = 5
"""Steps of one kind in a row: a single one would be charged with what the other rank is behind by then."""


def batch(spec: TrainingSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and targets."""
    size = (spec.batch_sequences, spec.sequence_length + 1)
    ids = torch.randint(spec.model.vocabulary, size, generator=torch.Generator().manual_seed(0))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def measure(
    trainer: LocalTrainer | RankTrainer, recorder: TorchRecorder, spec: TrainingSpec, steps: int, folder: Path
) -> dict[str, list[float]]:
    """Mean seconds of a step, plain and recorded in turn, of each block: by the clock, and of the processor."""
    inputs, targets = batch(spec)
    tally, journal = Tally(0), Journal(folder / f"journal-{os.getpid()}.jsonl")

    def plain(step: int) -> None:
        float(trainer.step(step, inputs, targets)[0])

    def recorded(step: int) -> None:
        with recorder.phase("step", steps=1):
            record = trainer.recorded_step(recorder, step, inputs, targets)
            float(record.loss)
        phase = recorder.latest
        figures = step_figures(record, duration_seconds=phase.duration_seconds, data_seconds=0.0)
        tally.add(step, figures, record.load_LE)
        journal.phase(phase, step, figures)

    seconds: dict[str, list[float]] = {"plain": [], "recorded": [], "plain_processor": [], "recorded_processor": []}
    for block in range(-1, steps // BLOCK):
        for name, run in (("plain", plain), ("recorded", recorded)):
            began, worked = time.perf_counter(), time.process_time()
            for step in range(BLOCK):
                run((block + 1) * BLOCK + step)
                trainer._log.take()  # a plain step records spans as well, which nobody takes
            if block >= 0:
                seconds[name].append((time.perf_counter() - began) / BLOCK)
                seconds[f"{name}_processor"].append((time.process_time() - worked) / BLOCK)
    return seconds


def rank(
    place: Place, spec: TrainingSpec, device: Device, steps: int, folder: Path, queue: multiprocessing.Queue[Any]
) -> None:
    """One of two."""
    torch.set_num_threads(1)
    with joined(place, device.torch):
        recorder = TorchRecorder(device)
        trainer = RankTrainer(spec, device, recorder)
        seconds = measure(trainer, recorder, spec, steps, folder)
        trainer.close()
        if place.rank == 0:
            queue.put(seconds)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    load = os.getloadavg()
    spec, device = training_spec("cpu-small"), select_device(threads=1)
    raw: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context = multiprocessing.get_context("fork")
        queue: multiprocessing.Queue[Any] = context.Queue()
        two = spec.model_copy(update={"layout": TrainingLayout(experts=2)})
        ranks = [
            context.Process(
                target=rank,
                args=(Place(r, 2, r, f"file://{folder}/meeting"), two, device, arguments.steps, folder, queue),
            )
            for r in range(2)
        ]
        for process in ranks:
            process.start()
        raw["2"] = queue.get(timeout=600)
        for process in ranks:
            process.join()
        recorder = TorchRecorder(device)
        raw["1"] = measure(LocalTrainer(spec, device, recorder), recorder, spec, arguments.steps, folder)
    medians = {
        ranks: {name: statistics.median(values) for name, values in seconds.items()} for ranks, seconds in raw.items()
    }
    result = {
        "bench": "recorder",
        "conditions": {
            "preset": "cpu-small", "dtype": "fp32", "threads": 1, "torch": str(torch.__version__),
            "device": device.name, "steps": arguments.steps, "journal": "written", "load_average_before": load,
            "load_average_after": os.getloadavg(),
        },
        "median_step_seconds": medians,
        "overhead_ratio": {ranks: m["recorded"] / m["plain"] - 1 for ranks, m in medians.items()},
        "processor_overhead_ratio": {
            ranks: m["recorded_processor"] / m["plain_processor"] - 1 for ranks, m in medians.items()
        },
        "raw": raw,
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "raw"}))


if __name__ == "__main__":
    main()
