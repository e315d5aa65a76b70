"""What FP8 changes: the loss of a training in it, and the time of a dispatch over a slow link.

    python bench/fp8.py training --preset cpu-small --steps 200
    python bench/fp8.py link --megabits-per-second 200        # as root, on Linux

training: the same batches in fp32 and in FP8, one step of each in turn, so that other load on the machine hits both;
    and once more in fp32 from weights that differ by rounding (1e-6), for how far two equal trainings drift apart.
link: an all-to-all of the rows of T tokens x K experts between two network namespaces, as fp32, BF16 and FP8 messages
    in turn; encoding and decoding count. The link is a veth pair whose both ends `tc tbf` limits. When one rank is a
    little ahead, gloo sends one direction after the other, for all formats alike: half the link's speed.

The last line of the output is the result as JSON; --output keeps it with the raw figures and the conditions.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli.slow_link import ADDRESSES, INTERFACE, slow_pair, why_not
from workloads.device import select_device
from workloads.presets import training_spec
from workloads.text import encode, load_corpus, train_tokenizer
from workloads.training.data import Batches
from workloads.training.local import LocalTrainer
from workloads.training.precision.convert import convert_to_fp8
from workloads.training.precision.dispatch import Codec, Fp8, bf16, fp32

WINDOW = 20
"""Steps over which losses are averaged: single batches differ by more than the precisions do."""
DEADLINE = datetime.timedelta(seconds=120)


def measure_training(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train twice, interleaved; compare losses and speed."""
    device = select_device(arguments.threads)
    spec = training_spec(arguments.preset)
    corpus = load_corpus(spec.data)
    tokens = encode(corpus, train_tokenizer(corpus, spec.model.vocabulary))
    batches = Batches(tokens, spec.batch_sequences, spec.sequence_length, spec.seed)
    trainers = {name: LocalTrainer(spec, device) for name in ("fp32", "fp8", "fp32_perturbed")}
    conversion = convert_to_fp8(trainers["fp8"].model)
    perturb(trainers["fp32_perturbed"].model)
    losses: dict[str, list[float]] = {name: [] for name in trainers}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for step in range(arguments.steps):
        batch = batches.at(step, device)
        for name, trainer in trainers.items():
            conversion.statistics.enabled = step == arguments.steps - 1
            began = time.perf_counter()
            loss = float(trainer.step(step, *batch)[0])
            seconds[name].append(time.perf_counter() - began)
            losses[name].append(loss)
        if step % WINDOW == WINDOW - 1:
            print(f"step {step + 1}: " + ", ".join(f"{name} {mean(losses[name][-WINDOW:]):.4f}" for name in losses))
    ends = range(WINDOW, arguments.steps + 1)
    differences = {
        name: [mean(losses[name][e - WINDOW : e]) / mean(losses["fp32"][e - WINDOW : e]) - 1 for e in ends]
        for name in ("fp8", "fp32_perturbed")
    }
    median = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "preset": spec.preset,
        "steps": arguments.steps,
        "mode": conversion.engine,
        "loss_last_window": {name: mean(each[-WINDOW:]) for name, each in losses.items()},
        "loss_relative_difference": {name: each[-1] for name, each in differences.items()},
        "loss_largest_relative_difference": {name: max(each, key=abs) for name, each in differences.items()},
        "loss_target": 0.01,
        "loss_target_met": abs(differences["fp8"][-1]) <= 0.01,
        "tokens_per_second": {name: spec.tokens_per_step / each for name, each in median.items()},
        "last_step": {operand: figures._asdict() for operand, figures in sorted(conversion.statistics.take().items())},
        "raw": {"losses": losses, "step_seconds": seconds},
    }


@torch.no_grad()
def perturb(model: torch.nn.Module) -> None:
    """Change every weight by about a millionth of itself."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.mul_(1 + 1e-6 * torch.randn(parameter.shape, generator=generator).to(parameter.device))


def measure_link(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start one process in each namespace; compare the formats."""
    if (reason := why_not()) is not None:
        return {"skipped": f"{reason}: a limited link needs network namespaces and tc"}
    with slow_pair(arguments.megabits_per_second * 1e6) as namespaces, tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "seconds.json")
        sizes = [f"--{name}={vars(arguments)[name]}" for name in ("repetitions", "tokens", "active", "dim")]
        workers = [
            subprocess.Popen(
                [
                    *f"ip netns exec {namespace}".split(),
                    sys.executable,
                    __file__,
                    "worker",
                    f"--rank={rank}",
                    f"--output={result}",
                    *sizes,
                ],
                env={**os.environ, "GLOO_SOCKET_IFNAME": INTERFACE},
            )
            for rank, namespace in enumerate(namespaces)
        ]
        try:
            codes = [worker.wait(timeout=600) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
        if any(codes):
            raise SystemExit(f"a worker ended with exit codes {codes}")
        measured: dict[str, dict[str, list[float]]] = json.loads(result.read_text(encoding="utf-8"))
    median, coding = ({n: statistics.median(each) for n, each in measured[what].items()} for what in ("all", "coding"))
    speedup = median["fp32"] / median["fp8"]
    rows = arguments.tokens * arguments.active
    row_bytes = {name: codec.row_bytes for name, codec in codecs(arguments.dim).items()}
    away_bits = {name: 8 * each * (rows - rows // 2) for name, each in row_bytes.items()}
    return {
        "megabits_per_second": arguments.megabits_per_second,
        "rows_per_rank": rows,
        "dim": arguments.dim,
        "row_bytes": row_bytes,
        "median_seconds": median,
        "median_coding_seconds": coding,
        "link_megabits_per_second": {name: away_bits[name] / median[name] / 1e6 for name in median},
        "fp8_over_bf16": median["bf16"] / median["fp8"],
        "fp8_over_fp32": speedup,
        "target": 3.5,
        "target_met": speedup >= 3.5,
        "raw": {"seconds": measured},
    }


def codecs(dim: int) -> dict[str, Codec]:
    """The formats that are compared."""
    return {"fp32": fp32(dim), "bf16": bf16(dim), "fp8": Fp8(dim)}


def work(arguments: argparse.Namespace) -> None:
    """One rank of the link's measurement; rank 0 writes the slower rank's seconds: in all, and coding."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://{ADDRESSES[0]}:29531", rank=arguments.rank, world_size=2, timeout=DEADLINE
    )
    rows = torch.randn(arguments.tokens * arguments.active, arguments.dim)
    half = len(rows) // 2
    splits = [half, len(rows) - half]
    received = [splits[arguments.rank]] * 2
    seconds: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in codecs(arguments.dim)} for what in ("all", "coding")
    }
    for repetition in range(arguments.repetitions + 3):
        for name, codec in codecs(arguments.dim).items():
            dist.barrier()
            began = time.perf_counter()
            message = codec.encode(rows)
            encoded = time.perf_counter()
            arrived = message.new_empty(sum(received), codec.row_bytes)
            dist.all_to_all_single(arrived, message, received, splits)
            came = time.perf_counter()
            codec.decode(arrived, torch.float32)
            ended = time.perf_counter()
            slowest = torch.tensor((ended - began, ended - came + encoded - began))
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            if repetition >= 3:  # the first ones open the window of the connection
                for what, figure in zip(seconds, slowest.tolist(), strict=True):
                    seconds[what][name].append(figure)
    dist.destroy_process_group()
    if arguments.rank == 0:
        arguments.output.write_text(json.dumps(seconds), encoding="utf-8")


def conditions() -> dict[str, Any]:
    """What the figures were measured with."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_average_before": os.getloadavg(),
    }


def mean(values: list[float]) -> float:
    """Arithmetic."""
    return sum(values) / len(values)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    training = parts.add_parser("training", help="loss and speed of a training in fp32 and FP8")
    training.add_argument("--preset", default="cpu-small")
    training.add_argument("--steps", type=int, default=200, help=f"at least {WINDOW}")
    training.add_argument("--threads", type=int, default=1, help="CPU threads")
    link = parts.add_parser("link", help="all-to-all over a limited link")
    link.add_argument("--megabits-per-second", type=float, default=200.0)
    worker = parts.add_parser("worker")  # what `link` starts in each namespace
    worker.add_argument("--rank", type=int, required=True)
    for part in (link, worker):
        part.add_argument("--repetitions", type=int, default=50)
        part.add_argument("--tokens", type=int, default=1024, help="tokens of each rank")
        part.add_argument("--active", type=int, default=2, help="experts of a token")
        part.add_argument("--dim", type=int, default=256)
    for part in (training, link, worker):
        part.add_argument("--output", type=Path, help="JSON file for result, raw figures and conditions")
    arguments = parser.parse_args()
    if arguments.part == "training" and arguments.steps < WINDOW:
        parser.error(f"--steps: give {WINDOW} or more")
    return arguments


def main() -> None:
    """Measure one part."""
    arguments = parse()
    if arguments.part == "worker":
        work(arguments)
        return
    surroundings = conditions()
    result = measure_training(arguments) if arguments.part == "training" else measure_link(arguments)
    surroundings["load_average_after"] = os.getloadavg()
    given = {name: value for name, value in vars(arguments).items() if name != "output"}
    raw = result.pop("raw", {})
    if arguments.output is not None:
        document = {"arguments": given, "conditions": surroundings, "result": result, "raw": raw}
        arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
