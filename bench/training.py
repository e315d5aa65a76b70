"""How fast the reference training is: against this machine's GEMM peak, against Hugging Face, and on two ranks.

    python bench/training.py

cpu-small, fp32, random tokens, one thread, forward, backward and update; rounds of the contenders are interleaved, and
the medians of their step times are compared. Two ranks share the experts, one thread each, started by torchrun.
Writes bench/results/training.json; the same is the last line of output.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy

from tokenstone.flops import AttentionCount, training_flops
from tokenstone.run import TrainingLayout, TrainingSpec
from workloads.device import select_device
from workloads.presets import training_spec
from workloads.probes.gemm import gemm_rate
from workloads.training.local import LocalTrainer

RESULT = Path(__file__).parent / "results" / "training.json"
STEPS_A_ROUND = 4


def huggingface_step(spec: TrainingSpec) -> Callable[[], None]:
    """A training step of transformers' DeepseekV3 with the same shapes, clipping and optimizer."""
    shape = spec.model
    a, e = shape.attention, shape.experts
    assert a.kind == "latent"
    assert e is not None
    config = transformers.DeepseekV3Config(
        vocab_size=shape.vocabulary, hidden_size=shape.dim, intermediate_size=shape.ffn_dim,
        moe_intermediate_size=e.dim, num_hidden_layers=shape.layers, num_attention_heads=a.heads,
        num_key_value_heads=a.heads, n_shared_experts=e.shared, n_routed_experts=e.routed,
        kv_lora_rank=a.kv_rank, q_lora_rank=a.query_rank, qk_rope_head_dim=a.rope_dim, v_head_dim=a.value_dim,
        qk_nope_head_dim=a.nope_dim, n_group=e.groups, topk_group=e.active_groups, num_experts_per_tok=e.active,
        first_k_dense_replace=e.dense_layers, num_mtp_layers=0,
    )  # fmt: skip
    model = transformers.DeepseekV3ForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, fused=True)
    ids, targets = batch(spec)

    def step() -> None:
        logits = model(input_ids=ids, use_cache=False).logits
        optimizer.zero_grad()
        cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def batch(spec: TrainingSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and targets."""
    generator = torch.Generator().manual_seed(0)
    size = (spec.batch_sequences, spec.sequence_length + 1)
    ids = torch.randint(spec.model.vocabulary, size, generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def timed(step: Callable[[], Any]) -> float:
    """Seconds a step, mean of a round."""
    begin = time.perf_counter()
    for _ in range(STEPS_A_ROUND):
        step()
    return (time.perf_counter() - begin) / STEPS_A_ROUND


def tokens_per_second(spec: TrainingSpec, folder: Path) -> float:
    """Tokens a second over the counted steps of a run in processes of its own, one thread each."""
    ranks = spec.layout.ranks
    spec_path, out = folder / "spec.json", folder / "facts.json"
    spec_path.write_text(spec.model_dump_json())
    torchrun = (
        ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--module"] if ranks > 1 else []
    )
    command = [sys.executable, "-m", *torchrun, "workloads.main", "train", "--spec", str(spec_path), "--out", str(out)]
    subprocess.run(
        [*command, "--threads", "1"], check=True, capture_output=True, env={**os.environ, "PYTHONSAFEPATH": "1"}
    )
    facts = json.loads(out.read_text())
    steps = [phase for phase in facts["devices"][0]["phases"] if phase["kind"] == "step"]
    return float(facts["tokens"] / sum(phase["duration_seconds"] for phase in steps))


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=4, help="of one rank and of two, each in new processes")
    arguments = parser.parse_args()
    spec = training_spec("cpu-small")
    device = select_device(threads=1)
    load = os.getloadavg()
    trainer = LocalTrainer(spec, device)
    ids, targets = batch(spec)
    contenders = {"tokenstone": lambda: trainer.step(1000, ids, targets), "huggingface": huggingface_step(spec)}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks = []
    for step in contenders.values():
        step()
    for _ in range(arguments.rounds):
        peaks.append(gemm_rate(spec.dtype, device, seconds=0.5)[0].best)
        for name, step in contenders.items():
            seconds[name].append(timed(step))
    flops = training_flops(spec.model, spec.sequence_length, AttentionCount.CAUSAL).flops_per_token
    rates = {name: spec.tokens_per_step / statistics.median(values) for name, values in seconds.items()}
    short = spec.model_copy(update={"steps": 40, "warm_up_steps": 4})
    scaled: dict[str, list[float]] = {"1": [], "2": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.runs):
            for name, layout in (("1", TrainingLayout()), ("2", TrainingLayout(experts=2))):
                wanted = short.model_copy(update={"layout": layout})
                scaled[name].append(tokens_per_second(wanted, Path(folder)))
    result = {
        "bench": "training",
        "conditions": {
            "preset": "cpu-small", "dtype": "fp32", "threads": 1, "torch": str(torch.__version__),
            "device": device.name,
            "rounds": arguments.rounds, "steps_a_round": STEPS_A_ROUND, "load_average_before": load,
            "load_average_after": os.getloadavg(),
        },
        "tokens_per_second": rates,
        "gemm_flops_per_second": statistics.median(peaks),
        "model_flops_over_gemm_peak": flops * rates["tokenstone"] / statistics.median(peaks),
        "times_huggingface": rates["tokenstone"] / rates["huggingface"],
        "ranks_tokens_per_second": {name: statistics.median(values) for name, values in scaled.items()},
        "two_ranks_over_one": statistics.median(scaled["2"]) / statistics.median(scaled["1"]),
        "raw": {"step_seconds": seconds, "gemm": peaks, "ranks": scaled},
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
