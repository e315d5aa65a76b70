"""How fast the reference engine serves over HTTP, against Hugging Face's generate on the same shapes.

    python bench/serving.py

D256 L4 H8 q96 kv512 nope128 rope64 v128 E16 top-2, prompt 64, output 64, greedy, fp32, every core. Ours: the real
server in one process, the load generator in another, closed loop of 1, 8 and 32. Hugging Face: DeepseekV3 in one
process without HTTP, a batch of as many. Rounds of the two take turns. Writes bench/results/serving.json; the same is
the last line of output.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from tokenstone.model import Experts, LatentAttention, ModelShape
from tokenstone.run import InferenceSpec, Traffic
from workloads.load.client import Endpoint, base_url
from workloads.load.generator import Generator
from workloads.load.plan import make_plan
from workloads.load.prompts import token_prompts

RESULT = Path(__file__).parent / "results" / "serving.json"
PROMPT = OUTPUT = 64
CONCURRENCIES = (1, 8, 32)
REQUESTS = {1: 6, 8: 32, 32: 96}
SHAPE = ModelShape(
    name="bench-serving", dim=256, layers=4, vocabulary=2048, ffn_dim=512,
    attention=LatentAttention(heads=8, query_rank=96, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128),
    experts=Experts(routed=16, active=2, shared=1, dim=128, groups=4, active_groups=2, dense_layers=1),
)  # fmt: skip


def huggingface() -> Any:
    """transformers' DeepseekV3 of that shape."""
    a, e = SHAPE.attention, SHAPE.experts
    assert isinstance(a, LatentAttention)
    assert e is not None
    config = transformers.DeepseekV3Config(
        vocab_size=SHAPE.vocabulary, hidden_size=SHAPE.dim, intermediate_size=SHAPE.ffn_dim,
        moe_intermediate_size=e.dim, num_hidden_layers=SHAPE.layers, num_attention_heads=a.heads,
        num_key_value_heads=a.heads, n_shared_experts=e.shared, n_routed_experts=e.routed,
        kv_lora_rank=a.kv_rank, q_lora_rank=a.query_rank, qk_rope_head_dim=a.rope_dim, v_head_dim=a.value_dim,
        qk_nope_head_dim=a.nope_dim, n_group=e.groups, topk_group=e.active_groups, num_experts_per_tok=e.active,
        first_k_dense_replace=e.dense_layers, num_mtp_layers=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return transformers.DeepseekV3ForCausalLM(config).eval()


def huggingface_rate(model: Any, batch: int) -> float:
    """Output tokens a second of one batch."""
    ids = torch.randint(SHAPE.vocabulary, (batch, PROMPT))
    begin = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=OUTPUT, min_new_tokens=OUTPUT, do_sample=False
        )
    assert out.shape == (batch, PROMPT + OUTPUT)
    return batch * OUTPUT / (time.perf_counter() - begin)


@contextmanager
def served(threads: int) -> Iterator[tuple[str, Path]]:
    """The real server in a process of its own: its URL, and its tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        spec_path, tokenizer = Path(folder, "spec.json"), Path(folder, "tokenizer.json")
        spec_path.write_text(spec(32, 96).model_dump_json())
        command = [sys.executable, "-P", "-m", "workloads.main", "serve", "--spec", str(spec_path), "--context",
                   str(PROMPT + OUTPUT), "--record", str(Path(folder, "record.json")), "--tokenizer", str(tokenizer),
                   "--threads", str(threads), "--lifeline"]  # fmt: skip
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            url = ""
            for line in process.stdout:
                url = json.loads(line).get("url", "")
                if url:
                    break
            yield url, tokenizer
            process.stdin.close()
            process.wait(60)


def spec(concurrency: int, requests: int) -> InferenceSpec:
    """A closed loop."""
    return InferenceSpec(
        preset="bench", model=SHAPE, dtype="fp32", requests=requests, input_tokens=PROMPT, output_tokens=OUTPUT,
        max_batch=32, traffic=Traffic(concurrency=concurrency), seed=concurrency,
    )  # fmt: skip


def our_rate(url: str, prompts: Any, concurrency: int, seed: int) -> float:
    """Output tokens a second over HTTP, from the first request to the last token."""
    wanted = spec(concurrency, REQUESTS[concurrency]).model_copy(update={"seed": seed})
    endpoint = Endpoint(base_url(url), SHAPE.name, api="completions", token_ids=True)
    load = Generator(endpoint, prompts, wanted.arrivals, seed=seed).run(make_plan(wanted))
    assert all(outcome.error is None and outcome.output_tokens == OUTPUT for outcome in load.outcomes)
    return wanted.requests * OUTPUT / (max(o.end or 0.0 for o in load.outcomes) - load.began)


def main() -> None:
    """Measure in turns and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    rounds = parser.parse_args().rounds
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    peer = huggingface()
    rates: dict[str, dict[int, list[float]]] = {"served": {}, "huggingface": {}}
    with served(threads) as (url, tokenizer):
        prompts = token_prompts(tokenizer)
        for number in range(rounds + 1):
            for concurrency in CONCURRENCIES:
                ours = our_rate(url, prompts, concurrency, seed=1000 * concurrency + number)
                theirs = huggingface_rate(peer, concurrency)
                if number:  # the first round warms up
                    rates["served"].setdefault(concurrency, []).append(ours)
                    rates["huggingface"].setdefault(concurrency, []).append(theirs)
                    print(concurrency, round(ours, 1), round(theirs, 1), file=sys.stderr)
    ratios = {
        c: statistics.median(a / b for a, b in zip(rates["served"][c], rates["huggingface"][c], strict=True))
        for c in CONCURRENCIES
    }
    result = {
        "conditions": {
            "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version(),
            "threads": threads, "rounds": rounds, "shape": SHAPE.model_dump(mode="json"),
        },
        "output_tokens_per_second": rates,
        "summary": {
            str(c): {
                "served": statistics.median(rates["served"][c]),
                "huggingface": statistics.median(rates["huggingface"][c]),
                "ratio": ratios[c],
            }
            for c in CONCURRENCIES
        },
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["summary"]))


if __name__ == "__main__":
    main()
