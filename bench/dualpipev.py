"""What overlap is worth in DualPipeV: step time with it, without it, and of 1F1B, over a simulated slow link.

    python bench/dualpipev.py --latency-milliseconds 10

Four processes on this machine's CPU, one thread per operation each: 2 pipeline ranks x 2 expert-parallel ranks. Every
all-to-all between expert-parallel ranks arrives later by the latency (simulated: the rank sleeps); sends between
pipeline ranks do not. The three variants train the same model on the same batch, one step of each in turn, so that
other load on the machine hits all; their losses have to agree.

The last line of the output is the result as JSON; --output keeps it with the raw figures and the conditions
(default: bench/results/dualpipev-<latency>ms-<micro-batches>mb.json).
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenstone.ledger import Interval, exclusive_seconds
from tokenstone.model import MODELS, ModelShape
from workloads.moe.model import MoeModel
from workloads.training.parallel.communication import CommunicationLog, Span, totals
from workloads.training.parallel.exchange import AllToAll
from workloads.training.parallel.layout import Layout, make_groups
from workloads.training.parallel.pipeline import Pipeline, PipelinePlan
from workloads.training.parallel.processes import Place, joined

RESULTS = Path(__file__).parent / "results"
LAYOUT = Layout(pipeline=2, experts=2)
VARIANTS = {"overlap": ("DualPipeV", True), "serial": ("DualPipeV", False), "1F1B": ("1F1B", True)}
WARM_UP = 2
DEADLINE_SECONDS = 120.0
ACTIVITIES = ("compute", "exposed_communication", "pipeline_bubble", "host_overhead")


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the rounds on this rank; return one record per round and variant."""
    shape: ModelShape = MODELS[arguments.model].model_copy(update={"layers": arguments.layers})
    groups = make_groups(LAYOUT, deadline_seconds=DEADLINE_SECONDS)
    batch_sequences = arguments.micro_batches * arguments.micro_batch_sequences
    generator = torch.Generator().manual_seed(groups.data_rank)
    tokens = torch.randint(shape.vocabulary, (batch_sequences, arguments.sequence_length + 1), generator=generator)
    pipelines: dict[str, Pipeline] = {}
    for name, (schedule, overlap) in VARIANTS.items():
        log = CommunicationLog(time.perf_counter)
        exchange = AllToAll(
            groups.experts_forward, groups.experts_backward, log, latency_seconds=arguments.latency_milliseconds / 1e3
        )
        plan = PipelinePlan(schedule, arguments.micro_batches, batch_sequences, arguments.sequence_length, overlap)
        model = MoeModel(shape, seed=0)
        pipelines[name] = Pipeline(model, groups, torch.device("cpu"), plan, log, exchange=exchange)
    records = []
    for turn in range(WARM_UP + arguments.rounds):
        for name, pipeline in pipelines.items():
            pipeline.stages.zero_grad()
            pipeline.log.take()
            dist.barrier()
            began = time.perf_counter()
            loss = pipeline.step(tokens[:, :-1], tokens[:, 1:])
            own_end = time.perf_counter()
            dist.barrier()
            ended = time.perf_counter()
            if turn >= WARM_UP:
                record = {"variant": name, "round": turn - WARM_UP, "seconds": ended - began}
                record |= {"loss": None if loss is None else float(loss)}
                records.append(record | describe(pipeline.log.take(), began, own_end))
    for pipeline in pipelines.values():
        pipeline.close()
    return records


def describe(spans: list[Span], began: float, ended: float) -> dict[str, Any]:
    """Seconds of the rank by what it did, each instant once; and its all-to-alls, hidden or not."""
    intervals = [Interval(span.start, span.end, span.activity) for span in spans]
    seconds = exclusive_seconds(intervals, began, ended, remainder="host_overhead")
    by_name = totals(spans)
    return {
        "activity_seconds": {activity: seconds.get(activity, 0.0) for activity in ACTIVITIES},
        "all_to_all_wait_seconds": sum(by_name[name].seconds for name in ("counts", "dispatch", "combine")),
        "all_to_all_bytes": sum(by_name[name].sent_bytes for name in ("counts", "dispatch", "combine")),
    }


def run_rank(sender: Connection, place: Place, arguments: argparse.Namespace) -> None:
    """The life of one process."""
    torch.set_num_threads(1)
    with joined(place, torch.device("cpu"), deadline_seconds=DEADLINE_SECONDS):
        sender.send(measure(arguments))
        dist.barrier()


def run_all(arguments: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """Start a process per rank by fork, and collect their records."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        for rank in range(LAYOUT.size):
            receiver, sender = context.Pipe(duplex=False)
            place = Place(rank, LAYOUT.size, rank, f"file://{folder}/meeting")
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


def summarise(by_rank: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians and spreads over the rounds; ratios round by round, so that load hits both sides."""
    seconds = {name: [record["seconds"] for record in by_rank[0] if record["variant"] == name] for name in VARIANTS}
    for name in VARIANTS:
        check_losses(by_rank, name)
    ratios = {
        f"overlap_over_{name}": [base / fast for base, fast in zip(seconds[name], seconds["overlap"], strict=True)]
        for name in ("serial", "1F1B")
    }
    everything = [record for records in by_rank for record in records]
    return {
        "step_seconds": {name: spread(values) for name, values in seconds.items()},
        "speedup": {name: spread(values) for name, values in ratios.items()},
        "mean_rank_seconds": {
            name: {
                activity: statistics.fmean(
                    record["activity_seconds"][activity] for record in everything if record["variant"] == name
                )
                for activity in ACTIVITIES
            }
            | {
                "all_to_all_wait": statistics.fmean(
                    record["all_to_all_wait_seconds"] for record in everything if record["variant"] == name
                )
            }
            for name in VARIANTS
        },
    }


def check_losses(by_rank: list[list[dict[str, Any]]], name: str) -> None:
    """End if a variant computes something else than 1F1B does."""

    def mean_loss(variant: str) -> float:
        losses = [record["loss"] for records in by_rank for record in records if record["variant"] == variant]
        return statistics.fmean(loss for loss in losses if loss is not None)

    if not math.isclose(mean_loss(name), mean_loss("1F1B"), rel_tol=1e-5):
        sys.exit(f"the loss of {name} is {mean_loss(name)}, that of 1F1B {mean_loss('1F1B')}")


def spread(values: list[float]) -> dict[str, float]:
    """Median, quartiles, extremes."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "median": statistics.median(values), "lower_quartile": quartiles[0], "upper_quartile": quartiles[2],
        "least": min(values), "most": max(values),
    }  # fmt: skip


def conditions() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "cores": os.cpu_count(),
        "backend": "gloo on loopback",
        "link_latency": "simulated: each all-to-all of expert-parallel ranks sleeps after it is done",
        "ranks": f"pipeline {LAYOUT.pipeline} x experts {LAYOUT.experts}, one thread per operation each",
        "load_average_before": os.getloadavg(),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cpu-small", choices=["cpu-tiny", "cpu-small"])
    parser.add_argument("--layers", type=int, default=4, help="at least 4: one for each stage")
    parser.add_argument("--latency-milliseconds", type=float, default=10.0, help="of each all-to-all, simulated")
    parser.add_argument("--micro-batches", type=int, default=8, help="at least 4: twice the pipeline ranks")
    parser.add_argument("--micro-batch-sequences", type=int, default=1)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15, help="counted steps of each variant, at least 2")
    parser.add_argument("--output", type=Path, help="JSON file for result, raw figures and conditions")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds: give 2 or more")
    return arguments


def main() -> None:
    """Measure, write, print."""
    arguments = parse()
    surroundings = conditions()
    by_rank = run_all(arguments)
    surroundings["load_average_after"] = os.getloadavg()
    result = summarise(by_rank)
    given = {name: value for name, value in vars(arguments).items() if name != "output"}
    output = (
        arguments.output or RESULTS / f"dualpipev-{arguments.latency_milliseconds:g}ms-{arguments.micro_batches}mb.json"
    )
    document = {"arguments": given, "conditions": surroundings, "result": result, "raw": by_rank}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
