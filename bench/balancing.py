"""What each way of balancing does to expert load and loss on tokens as skewed as language: python bench/balancing.py

Tokens: half of them follow from the token before by a fixed rule, the others are drawn from Zipf's law, so there is
something to learn and a few tokens are most of the text. Each method trains the same model from the same seeds on
the same tokens. MaxVio is that of each step's batch, mean over layers and the last ten steps; the loss is the mean
of the last ten steps. Per figure: mean and standard deviation over the seeds; the loss also as the difference from
the same seed's without balancing, since seeds differ among themselves by more than methods do.

Writes bench/results/balancing.json; the same, without the single runs, is the last line of output.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tokenstone.run import TrainingSpec
from workloads.device import select_device
from workloads.moe.router import max_violation
from workloads.presets import training_spec
from workloads.training.data import Batches
from workloads.training.local import LocalTrainer

RESULT = Path(__file__).parent / "results" / "balancing.json"
LAST = 10
ZIPF_EXPONENT = 1.2


@dataclass(frozen=True)
class Method:
    """One way to balance."""

    name: str
    balancing: str = "none"
    alpha: float = 0.0
    bias_rate: float = 0.0


METHODS = (
    Method("none"),
    Method("bias 1e-3", bias_rate=1e-3),
    Method("bias 3e-3", bias_rate=3e-3),
    Method("bias 1e-2", bias_rate=1e-2),
    Method("sequence 1e-2", "sequence", alpha=1e-2),
    Method("auxiliary 1e-2", "auxiliary", alpha=1e-2),
    Method("forced", "forced"),
)


def zipf_tokens(vocabulary: int, count: int, seed: int) -> Tensor:
    """`count` tokens: every other one, on average, by rule from the one before, the rest by Zipf's law."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.arange(1, vocabulary + 1, dtype=torch.float64) ** -ZIPF_EXPONENT
    tokens = torch.multinomial(share, count, replacement=True, generator=generator).tolist()
    follows = torch.randperm(vocabulary, generator=generator).tolist()
    by_rule = (torch.rand(count, generator=generator) < 0.5).tolist()
    for i in range(1, count):
        if by_rule[i]:
            tokens[i] = follows[tokens[i - 1]]
    return torch.tensor(tokens)


def run(method: Method, spec: TrainingSpec, threads: int) -> dict[str, float]:
    """Train once; MaxVio and loss of the last steps."""
    device = select_device(threads)
    spec = spec.model_copy(
        update={
            "bias_update_rate": method.bias_rate, "balancing": method.balancing, "balance_alpha": method.alpha
        }
    )  # fmt: skip
    trainer = LocalTrainer(spec, device)
    tokens = zipf_tokens(spec.model.vocabulary, 200_000, seed=0)
    batches = Batches(tokens, spec.batch_sequences, spec.sequence_length, spec.seed)
    violations, losses = [], []
    for step in range(spec.steps):
        loss, load = trainer.step(step, *batches.at(step, device))
        violations.append(statistics.fmean(max_violation(load_E) for load_E in load))
        losses.append(float(loss))
    return {"max_violation": statistics.fmean(violations[-LAST:]), "loss": statistics.fmean(losses[-LAST:])}


def main() -> None:
    """Run every method with every seed, in turn, so that a drift of the machine meets all alike."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="cpu-tiny")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sequences", type=int, default=8, help="sequences per batch")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    spec = training_spec(asked.preset).model_copy(
        update={"steps": asked.steps, "batch_sequences": asked.sequences, "warm_up_steps": 10}
    )
    began = time.monotonic()
    runs: dict[str, list[dict[str, float]]] = {method.name: [] for method in METHODS}
    for seed in range(asked.seeds):
        for method in METHODS:
            figures = run(method, spec.model_copy(update={"seed": seed}), asked.threads)
            figures["loss_above_none"] = figures["loss"] - runs["none"][seed]["loss"] if runs["none"][seed:] else 0.0
            runs[method.name].append(figures)
            print(f"seed {seed}  {method.name:15}", runs[method.name][-1], flush=True)
    methods = {
        name: {
            f"{figure}_{kind}": round(of([one[figure] for one in of_method]), 4)
            for figure in ("max_violation", "loss", "loss_above_none")
            for kind, of in (("mean", statistics.fmean), ("deviation", statistics.stdev))
        }
        for name, of_method in runs.items()
    }
    none = methods["none"]["max_violation_mean"]
    result = {
        "bench": "balancing",
        "conditions": {
            "preset": asked.preset, "steps": asked.steps, "tokens_per_step": spec.tokens_per_step,
            "learning_rate": spec.learning_rate, "seeds": asked.seeds, "threads": asked.threads,
            "zipf_exponent": ZIPF_EXPONENT, "torch": torch.__version__, "machine": platform.machine(),
        },
        "methods": methods,
        "times_less_violation_than_none": {
            name: round(none / figures["max_violation_mean"], 2)
            for name, figures in methods.items()
            if figures["max_violation_mean"] > 0
        },
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    RESULT.write_text(json.dumps({**result, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
