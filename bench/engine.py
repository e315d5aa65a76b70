"""How fast the inference engine is by itself: against Hugging Face, the roofline, and itself without its techniques.

    python bench/engine.py [--only speed|prefix|chunks|speculation|ranks] [--threads 2] [--cpu-time]

A mixture of experts with DeepSeek-V3's attention sizes, random weights, fp32: D256 L4 H8, kv 512, rope 64, nope 128,
value 128, query 96, E16 top-2 and one shared, vocabulary 2048.

speed: 1, 8 and 32 prompts of 64 random tokens, 64 tokens each, greedy, all submitted at once; tokens a second from
then to the last token, rounds of the contenders interleaved. Hugging Face is transformers' DeepseekV3 `generate` of the
same shapes on the same prompts. The roofline share is that of decode iterations with 32 requests: the least time that
their FLOPs and bytes take at the measured GEMM and memory rates, over what they took.
prefix: time to first token of a prompt of 1024 tokens of which 90 % are cached, over that with nothing cached.
chunks: seven requests answer while prompts of 1024 tokens arrive; gaps between tokens with prompts cut to 96 tokens an
iteration, and with prompts read whole.
speculation: cpu-small trained for 150 steps with multi-token prediction; acceptance, tokens a second with and without.
ranks: expert-parallel decode of cpu-small on two ranks of one thread, 16 requests each, with one and two micro-batches,
each exchange as fast as it is or 2 ms later (a simulated slow link).

Writes its part of bench/results/engine.json; the same is the last line of output.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers

from tokenstone.model import CPU_SMALL, Experts, LatentAttention, ModelShape
from workloads.device import Device, select_device
from workloads.inference.engine import Engine
from workloads.inference.expert_parallel import ExpertParallelEngine, serve_all
from workloads.inference.facts import iteration_work
from workloads.inference.iteration import Iteration
from workloads.inference.request import EngineLimits, Request
from workloads.moe.model import MoeModel
from workloads.presets import training_spec
from workloads.probes.gemm import gemm_rate
from workloads.probes.memory import memory_rate
from workloads.text import STANDARD_LIBRARY, encode, load_corpus, random_windows, train_tokenizer
from workloads.training.local import LocalTrainer
from workloads.training.parallel.processes import Place, joined

RESULT = Path(__file__).parent / "results" / "engine.json"
SHAPE = ModelShape(
    name="engine-bench", layers=4, dim=256, vocabulary=2048, ffn_dim=512,
    attention=LatentAttention(heads=8, query_rank=96, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128),
    experts=Experts(routed=16, shared=1, active=2, dim=128, groups=4, active_groups=2),
)  # fmt: skip
PROMPT, ANSWER = 64, 64
CLOCK: Callable[[], float] = time.perf_counter
"""Seconds; the processor time of this process with --cpu-time."""


def random_prompts(count: int, length: int, seed: int) -> list[list[int]]:
    """Random ids."""
    ids: list[list[int]] = torch.randint(
        SHAPE.vocabulary, (count, length), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return ids


def serve(engine: Engine, prompts: list[list[int]], answer: int) -> tuple[float, list[Iteration]]:
    """Seconds until all are answered, and the iterations."""
    engine.forget()
    begin, iterations = CLOCK(), []
    for number, prompt in enumerate(prompts):
        engine.submit(Request(number, prompt, answer))
    while engine.busy:
        iterations.append(engine.iterate())
    return CLOCK() - begin, iterations


def huggingface() -> Any:
    """transformers' model of the same shapes."""
    a, e = SHAPE.attention, SHAPE.experts
    assert a.kind == "latent"
    assert e is not None
    config = transformers.DeepseekV3Config(
        vocab_size=SHAPE.vocabulary, hidden_size=SHAPE.dim, intermediate_size=SHAPE.ffn_dim,
        moe_intermediate_size=e.dim, num_hidden_layers=SHAPE.layers, num_attention_heads=a.heads,
        num_key_value_heads=a.heads, n_shared_experts=e.shared, n_routed_experts=e.routed,
        kv_lora_rank=a.kv_rank, q_lora_rank=a.query_rank, qk_rope_head_dim=a.rope_dim, v_head_dim=a.value_dim,
        qk_nope_head_dim=a.nope_dim, n_group=e.groups, topk_group=e.active_groups, num_experts_per_tok=e.active,
        first_k_dense_replace=0, num_mtp_layers=0,
    )  # fmt: skip
    return transformers.DeepseekV3ForCausalLM(config).eval()


def speed(device: Device, rounds: int) -> dict[str, Any]:
    """Against Hugging Face, and against the roofline."""
    limits = EngineLimits(max_batch=32, context=PROMPT + ANSWER, token_budget=2048)
    engine = Engine(MoeModel(SHAPE, seed=1), device, limits=limits, clock=CLOCK)
    other = huggingface()

    def generate(prompts: list[list[int]]) -> float:
        ids = torch.tensor(prompts)
        begin = CLOCK()
        with torch.inference_mode():
            made = other.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER, min_new_tokens=ANSWER,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip
        assert made.shape[1] == PROMPT + ANSWER
        return CLOCK() - begin

    raw: dict[str, Any] = {"tokenstone": {}, "huggingface": {}, "gemm": [], "memory": [], "decode": []}
    for batch in (1, 8, 32):
        prompts = random_prompts(batch, PROMPT, batch)
        serve(engine, prompts, ANSWER)
        generate(prompts)
        ours, theirs = [], []
        for _ in range(rounds):
            seconds, iterations = serve(engine, prompts, ANSWER)
            ours.append(batch * ANSWER / seconds)
            theirs.append(batch * ANSWER / generate(prompts))
            if batch == 32:
                raw["gemm"].append(gemm_rate("fp32", device, seconds=0.3)[0].best)
                raw["memory"].append(memory_rate(device, seconds=0.3).best)
                raw["decode"].append([decode_figures(it) for it in iterations if not any_prefill(it)])
        raw["tokenstone"][batch], raw["huggingface"][batch] = ours, theirs
    peak, bandwidth = statistics.median(raw["gemm"]), statistics.median(raw["memory"])
    steps = [step for round_ in raw["decode"] for step in round_]
    ideal = sum(max(flops / peak, moved / bandwidth) for flops, moved, *_ in steps)
    rates = {
        name: {str(batch): statistics.median(values) for batch, values in raw[name].items()}
        for name in ("tokenstone", "huggingface")
    }
    raw["decode"] = [[statistics.mean(column) for column in zip(*round_, strict=True)] for round_ in raw["decode"]]
    return {
        "tokens_per_second": rates,
        "times_huggingface": {n: rates["tokenstone"][n] / rates["huggingface"][n] for n in rates["tokenstone"]},
        "gemm_flops_per_second": peak,
        "memory_bytes_per_second": bandwidth,
        "decode_32_milliseconds": 1000 * statistics.mean(step[3] for step in steps),
        "decode_32_host_ratio": 1 - sum(step[2] for step in steps) / sum(step[3] for step in steps),
        "decode_32_roofline_share": ideal / sum(step[3] for step in steps),
        "decode_32_bound": {
            "flops_milliseconds": 1000 * statistics.mean(step[0] for step in steps) / peak,
            "bytes_milliseconds": 1000 * statistics.mean(step[1] for step in steps) / bandwidth,
        },
        "raw": raw,
    }


def any_prefill(iteration: Iteration) -> bool:
    """Whether it read any prompt."""
    return any(share.prefilled_tokens for share in iteration.shares)


def decode_figures(iteration: Iteration) -> tuple[float, float, float, float]:
    """FLOPs, bytes, seconds in the model, seconds."""
    work, _ = iteration_work(SHAPE, "fp32", iteration)
    return work.flops, work.bytes, iteration.model_seconds, iteration.duration_seconds


def prefix(device: Device, rounds: int) -> dict[str, Any]:
    """Time to first token with nine tenths of the prompt cached."""
    length, shared = 1024, 928  # 58 whole pages of 16: 90.6 %
    limits = EngineLimits(max_batch=4, context=length + 8, token_budget=1024)
    engine = Engine(MoeModel(SHAPE, seed=1), device, limits=limits)
    cold, warm = [], []
    for number in range(rounds):
        [one, other] = random_prompts(2, length, number)
        cold.append(serve(engine, [one], 1)[0])
        begin = CLOCK()
        engine.submit(Request(1, one[:shared] + other[shared:], 1))
        [output] = engine.iterate().outputs
        warm.append(CLOCK() - begin)
        assert output.cached_prompt_tokens == shared
    return {
        "prompt_tokens": length, "cached_tokens": shared,
        "ttft_cold_seconds": statistics.median(cold), "ttft_cached_seconds": statistics.median(warm),
        "ratio": statistics.median(warm) / statistics.median(cold),
        "raw": {"cold": cold, "cached": warm},
    }  # fmt: skip


def chunks(device: Device, rounds: int) -> dict[str, Any]:
    """Gaps between tokens of answers while long prompts arrive."""
    model = MoeModel(SHAPE, seed=1)
    gaps: dict[str, list[float]] = {"chunked": [], "whole": []}
    seconds: dict[str, list[float]] = {"chunked": [], "whole": []}
    for number in range(rounds):
        for name, mine in gaps.items():
            limits = EngineLimits(
                max_batch=8, context=1100, token_budget=96, chunked_prefill=name == "chunked", prefix_caching=False
            )
            engine = Engine(model, device, limits=limits)
            for request, prompt in enumerate(random_prompts(7, PROMPT, number)):
                engine.submit(Request(request, prompt, 200))
            last: dict[int, float] = {}
            arrivals = iter(random_prompts(4, 1024, 100 + number))
            begin = CLOCK()
            step = 0
            while engine.busy:
                if step in {20, 50, 80, 110} or (step > 110 and step % 30 == 20):
                    prompt_ids = next(arrivals, None)
                    if prompt_ids is not None:
                        engine.submit(Request(100 + step, prompt_ids, 8))
                for output in engine.iterate().outputs:
                    now = CLOCK()
                    if output.request_id < 100:
                        if output.request_id in last and step > 10:
                            mine.append(now - last[output.request_id])
                        last[output.request_id] = now
                step += 1
            seconds[name].append(CLOCK() - begin)
    p99 = {name: statistics.quantiles(values, n=100)[98] for name, values in gaps.items()}
    return {
        "itl_p99_seconds": p99,
        "itl_p50_seconds": {name: statistics.median(values) for name, values in gaps.items()},
        "itl_max_seconds": {name: max(values) for name, values in gaps.items()},
        "ratio": p99["chunked"] / p99["whole"],
        "run_seconds": seconds,
        "gaps": {name: len(values) for name, values in gaps.items()},
    }


def speculation(device: Device, rounds: int, steps: int = 150) -> dict[str, Any]:
    """Acceptance of a short training's guesses, and what they are worth."""
    spec = training_spec("cpu-small").model_copy(update={"prediction_depths": 1})
    corpus = load_corpus(STANDARD_LIBRARY)
    tokenizer = train_tokenizer(corpus, spec.model.vocabulary)
    tokens = encode(corpus, tokenizer)
    trainer = LocalTrainer(spec, device)
    windows = random_windows(tokens, steps * spec.batch_sequences, spec.sequence_length + 1, seed=1)
    for step, batch in enumerate(windows.split(spec.batch_sequences)):
        loss, _ = trainer.step(step, batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
    prompts = random_windows(tokens, 32, PROMPT, seed=2).tolist()
    figures: dict[str, Any] = {"training_steps": steps, "loss": float(loss), "preset": "cpu-small"}
    for batch_size in (1, 8):
        rates: dict[int, list[float]] = {0: [], 1: []}
        answers: dict[int, list[list[int]]] = {}
        for depth in (0, 1):
            limits = EngineLimits(max_batch=batch_size, context=PROMPT + ANSWER, speculative_depth=depth)
            engine = Engine(trainer.model, device, limits=limits, prediction=trainer.prediction)
            for number in range(rounds):
                mine = prompts[number * batch_size % 24 :][:batch_size]
                seconds, iterations = serve(engine, mine, ANSWER)
                rates[depth].append(batch_size * ANSWER / seconds)
                answers.setdefault(depth, []).append([t for it in iterations for o in it.outputs for t in o.token_ids])
            statistics_ = engine.statistics()
            if depth:
                figures[f"acceptance_{batch_size}"] = statistics_.accepted_tokens / statistics_.drafted_tokens
        assert [sorted(a) for a in answers[0]] == [sorted(a) for a in answers[1]]
        figures[f"tokens_per_second_{batch_size}"] = {str(d): statistics.median(r) for d, r in rates.items()}
    return figures


def _rank(rank: int, meeting: str, micro_batches: int, latency: float, queue: Any) -> None:
    torch.set_num_threads(1)
    device = Device(torch.device("cpu"), "host", "cpu", 1)
    with joined(Place(rank, 2, rank, meeting), device.torch):
        group = dist.group.WORLD
        assert group is not None
        engine = ExpertParallelEngine(
            MoeModel(CPU_SMALL, seed=1), device, group=group, micro_batches=micro_batches, latency_seconds=latency,
            limits=EngineLimits(max_batch=16, context=PROMPT + ANSWER),
        )  # fmt: skip
        iterations: list[Iteration] = []
        for number, prompt in enumerate(random_prompts(16, PROMPT, rank)):
            engine.submit(Request(number, prompt, 32))
        serve_all(engine, iterations.append)
        decode = [it for it in iterations if not any_prefill(it)][4:]
        queue.put((rank, statistics.median(it.duration_seconds for it in decode),
                   statistics.median(it.communication_seconds for it in decode)))  # fmt: skip


def ranks(device: Device, rounds: int) -> dict[str, Any]:  # noqa: ARG001
    """What two micro-batches hide of a slow link."""
    context = multiprocessing.get_context("fork")
    raw: dict[str, list[float]] = {}
    for _ in range(rounds):
        for latency in (0.0, 0.002):
            for micro_batches in (1, 2):
                queue = context.Queue()
                with tempfile.TemporaryDirectory() as folder:
                    arguments = (f"file://{folder}/meeting", micro_batches, latency, queue)
                    processes = [context.Process(target=_rank, args=(rank, *arguments)) for rank in range(2)]
                    for process in processes:
                        process.start()
                    results = [queue.get(timeout=120) for _ in processes]
                    for process in processes:
                        process.join()
                raw.setdefault(f"latency {latency:g} s, micro-batches {micro_batches}", []).append(
                    max(seconds for _, seconds, _ in results)
                )
    medians = {name: statistics.median(values) for name, values in raw.items()}
    return {
        "decode_seconds": medians,
        "two_over_one": {
            latency: medians[f"latency {latency} s, micro-batches 1"] / medians[f"latency {latency} s, micro-batches 2"]
            for latency in ("0", "0.002")
        },
        "raw": raw,
    }


PARTS = {"speed": speed, "prefix": prefix, "chunks": chunks, "speculation": speculation, "ranks": ranks}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu-time", action="store_true", help="on a busy machine: one thread, its processor time")
    arguments = parser.parse_args()
    if arguments.cpu_time:
        global CLOCK
        CLOCK, arguments.threads = time.process_time, 1
    transformers.logging.set_verbosity_error()
    device = select_device(threads=arguments.threads)
    result: dict[str, Any] = {}
    names = arguments.only or list(PARTS)
    if "ranks" in names:  # first, since it forks: afterwards torch's threads run
        names = ["ranks", *(name for name in names if name != "ranks")]
    for name in names:
        load = os.getloadavg()
        figures = PARTS[name](device, arguments.rounds)
        figures["conditions"] = {
            "dtype": "fp32", "threads": device.threads, "torch": str(torch.__version__), "device": device.name,
            "transformers": transformers.__version__, "rounds": arguments.rounds, "load_average_before": load,
            "load_average_after": os.getloadavg(),
            "clock": CLOCK.__name__,
        }  # fmt: skip
        result = json.loads(RESULT.read_text()) if RESULT.exists() else {"bench": "engine"}
        result[name] = figures
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps({key: value for key, value in figures.items() if key not in {"raw", "conditions"}}))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
