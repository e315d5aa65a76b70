"""The pipeline bubble of each schedule, measured, beside its closed form and an exact replay of its order.

    python bench/bubble.py

Four pipeline ranks, real processes, the workload's own schedules and messages; what is simulated is computation: the
forward of a stage, its backward to the input and its backward to the weights each are a timed wait, all equal. So
stages are even, and four ranks do not compete for this machine's cores. 1F1B has one stage a rank, of twice the time.

The bubble is the step, from the common start to the end of the slowest rank, without the time in which a rank computes;
that of the rank with the largest one. Closed forms, for P ranks:
    1F1B        (P-1)(F+B)              arXiv 2006.09503
    ZBV         (P-1)(F+B-2W)           zero-bubble schedules with F = B - W = W: arXiv 2401.10241
    DualPipeV   (P-1)(F&B+B-3W)         github.com/deepseek-ai/DualPipe, whose PP is the number of stages, 2P
with the times of one stage. F&B is max(F, B) for waits that run at the same time; DualPipeV without overlap has no
closed form, only the replay.
Writes bench/results/bubble.json; the last line of output is the result.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from workloads.training.parallel.actions import Actions
from workloads.training.parallel.communication import CommunicationLog
from workloads.training.parallel.dualpipev import OverlappedActions
from workloads.training.parallel.layout import Layout, make_groups
from workloads.training.parallel.processes import Place, joined
from workloads.training.parallel.schedules import make_schedule, schedule_kind

RESULT = Path(__file__).parent / "results" / "bubble.json"
RANKS = 4
VARIANTS = {
    "1F1B": ("1F1B", False), "ZBVZeroBubble": ("ZBVZeroBubble", False), "DualPipeV": ("DualPipeV", False),
    "DualPipeV, overlapped": ("DualPipeV", True),
}  # fmt: skip
DEADLINE_SECONDS = 60.0
COMPUTES = re.compile(r"^\(|^\d+[FBIW]\d+$")
"""An action of a schedule that computes, such as 0F3 or (0F3;7B1)OVERLAP_F_B; the others are messages."""


class _ToInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: float, backward: float) -> Tensor:
        ctx.seconds = backward
        time.sleep(forward)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(ctx.seconds)
        return gradients[0], None, None


class _ToWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds
        return weight.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        time.sleep(ctx.seconds)
        return gradients[0].clone(), None


class TimedStage(nn.Module):
    """Takes `seconds` forward, as long backward to its input and as long to its weight."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.weight = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        """x as it is, later."""
        if not x.requires_grad:  # the first stage: its backward takes as long as the others'
            x = x.clone().requires_grad_()
        to_input: Tensor = _ToInput.apply(x, self.seconds, self.seconds)
        to_weight: Tensor = _ToWeight.apply(self.weight, self.seconds)
        return to_input + to_weight


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """On this rank: seconds of each step and of work in it, by variant, and the order of all ranks."""
    groups = make_groups(Layout(pipeline=RANKS), deadline_seconds=DEADLINE_SECONDS)
    device = torch.device("cpu")
    measured: dict[str, Any] = {}
    for name, (schedule_name, overlap) in VARIANTS.items():
        kind = schedule_kind(schedule_name)
        count = RANKS * kind.stages_per_rank
        seconds = arguments.milliseconds / 1e3 * 2 / kind.stages_per_rank
        meta = torch.empty(1, 8, device="meta", requires_grad=True)
        stages = [
            PipelineStage(TimedStage(seconds), index, count, device, input_args=meta, output_args=meta,
                          group=groups.pipeline)
            for index in kind.stages_of(groups.pipeline_rank, RANKS)
        ]  # fmt: skip
        schedule = make_schedule(schedule_name, stages, arguments.micro_batches, lambda y, _: y.square().sum())
        log = CommunicationLog(time.perf_counter)
        actions = OverlappedActions(schedule, log, device) if overlap else Actions(schedule, log)
        actions.register()
        steps, works = [], []
        for turn in range(arguments.rounds + 1):
            x = torch.ones(arguments.micro_batches, 8)
            log.take()
            dist.barrier()
            began = time.perf_counter()
            schedule.step(*([x] if 0 in kind.stages_of(groups.pipeline_rank, RANKS) else []), target=x,
                          return_outputs=False)  # fmt: skip
            dist.barrier()
            if turn:
                steps.append(time.perf_counter() - began)
                works.append(busy([(s.start, s.end) for s in log.take() if s.activity == "compute"]))
        if isinstance(actions, OverlappedActions):
            actions.close()
        order = {
            rank: [str(action) for action in row if action is not None and COMPUTES.search(str(action))]
            for rank, row in schedule.pipeline_order_with_comms.items()
        }
        measured[name] = {"stage_seconds": seconds, "step_seconds": steps, "busy_seconds": works, "order": order}
    return measured


def busy(spans: list[tuple[float, float]]) -> float:
    """Length of the union."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def closed_form(name: str, seconds: float) -> float | None:
    """The bubble of a rank by its formula; F = I = W = `seconds` of a stage."""
    forward, backward, weight = seconds, 2 * seconds, seconds
    if name == "1F1B":
        return (RANKS - 1) * (forward + backward)
    if name == "ZBVZeroBubble":
        return (RANKS - 1) * (forward + backward - 2 * weight)
    if name == "DualPipeV, overlapped":
        return (RANKS - 1) * (max(forward, backward) + backward - 3 * weight)
    return None


def replay(order: dict[int, list[str]], stage_seconds: float, *, overlap: bool) -> tuple[float, list[float]]:
    """The step and each rank's busy time if messages took none, by the order alone."""
    stages = 1 + max(int(part[0]) for row in order.values() for part in _parts_of_rows(row))
    done: dict[tuple[str, int, int], float] = {}
    clock, busy_seconds, at = dict.fromkeys(order, 0.0), dict.fromkeys(order, 0.0), dict.fromkeys(order, 0)
    while any(at[rank] < len(row) for rank, row in order.items()):
        moved = False
        for rank, row in order.items():
            while at[rank] < len(row):
                parts = _parts(row[at[rank]])
                ready = [_ready(part, done, stages) for part in parts]
                if None in ready:
                    break
                now = clock[rank]
                ends = []
                for (stage, kind, index), when in zip(parts, ready, strict=True):
                    start = max(now if overlap or not ends else ends[-1], when or 0.0)
                    ends.append(start + stage_seconds * (2 if kind == "B" else 1))
                    busy_seconds[rank] += ends[-1] - start
                    done[kind, stage, index] = ends[-1]
                if overlap and len(parts) > 1:  # the union of both
                    busy_seconds[rank] -= stage_seconds
                clock[rank] = max(ends)
                at[rank] += 1
                moved = True
        if not moved:
            sys.exit("the order waits for itself")
    return max(clock.values()), list(busy_seconds.values())


def _parts_of_rows(row: list[str]) -> list[tuple[int, str, int]]:
    return [part for action in row for part in _parts(action)]


def _parts(action: str) -> list[tuple[int, str, int]]:
    """Such as 0F3, or (0F3;7B1)OVERLAP_F_B."""
    texts = action[1 : action.index(")")].split(";") if action.startswith("(") else [action]
    parts = []
    for text in texts:
        letter = next(character for character in text if character.isalpha())
        stage, index = text.split(letter)
        parts.append((int(stage), letter, int(index)))
    return parts


def _ready(part: tuple[int, str, int], done: dict[tuple[str, int, int], float], stages: int) -> float | None:
    """When what it needs is there; None: not known yet."""
    stage, kind, index = part
    if kind == "F":
        return 0.0 if stage == 0 else done.get(("F", stage - 1, index))
    if kind == "W":
        return done.get(("I", stage, index))
    if stage == stages - 1:
        return done.get(("F", stage, index))
    return done.get(("B", stage + 1, index), done.get(("I", stage + 1, index)))


def run_rank(sender: Connection, place: Place, arguments: argparse.Namespace) -> None:
    """The life of one process."""
    torch.set_num_threads(1)
    with joined(place, torch.device("cpu"), deadline_seconds=DEADLINE_SECONDS):
        sender.send(measure(arguments))
        dist.barrier()


def run_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Start a process per rank by fork, and collect what they measured."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        for rank in range(RANKS):
            receiver, sender = context.Pipe(duplex=False)
            place = Place(rank, RANKS, rank, f"file://{folder}/meeting")
            process = context.Process(target=run_rank, args=(sender, place, arguments))
            process.start()
            sender.close()
            ranks.append((process, receiver))
        try:
            return [receiver.recv() for _, receiver in ranks]
        except EOFError:
            sys.exit("a rank has failed: see above")
        finally:
            for process, _ in ranks:
                process.join(timeout=10)
                process.kill()


def summarise(by_rank: list[dict[str, Any]]) -> dict[str, Any]:
    """Bubble of each variant, median over the rounds."""
    result = {}
    for name, (_, overlap) in VARIANTS.items():
        stage_seconds = by_rank[0][name]["stage_seconds"]
        steps = [max(each) for each in zip(*(rank[name]["step_seconds"] for rank in by_rank), strict=True)]
        works = [min(each) for each in zip(*(rank[name]["busy_seconds"] for rank in by_rank), strict=True)]
        measured = statistics.median(step - work for step, work in zip(steps, works, strict=True))
        ideal_step, ideal_busy = replay(by_rank[0][name]["order"], stage_seconds, overlap=overlap)
        replayed = ideal_step - min(ideal_busy)
        formula = closed_form(name, stage_seconds)
        step = statistics.median(steps)
        result[name] = {
            "step_seconds": step,
            "bubble_seconds": measured,
            "bubble_ratio": measured / step,
            "closed_form_seconds": formula,
            "replayed_order_seconds": replayed,
            "measured_over_closed_form": measured / formula if formula else None,
            "measured_over_replayed": measured / replayed if replayed else None,
        }
    return result


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milliseconds", type=float, default=20.0, help="of F, of I and of W, of a stage of a V")
    parser.add_argument("--micro-batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    conditions = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "torch": str(torch.__version__), "python": platform.python_version(), "cores": os.cpu_count(),
        "simulated": "computation: timed waits, F = I = W", "ranks": RANKS,
        "load_average_before": os.getloadavg(),
    }  # fmt: skip
    by_rank = run_all(arguments)
    conditions["load_average_after"] = os.getloadavg()
    result = summarise(by_rank)
    document = {"arguments": vars(arguments), "conditions": conditions, "result": result, "raw": by_rank}
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
