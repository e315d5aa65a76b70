"""The serving run: a closed loop of `max_batch` clients, each of which asks again once it has its answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from tokenstone.errors import InvalidFile, InvalidValue
from tokenstone.run import InferenceSpec
from tokenstone.wire import InferenceFacts, RequestTimes
from workloads import checkpoint as checkpoints
from workloads.device import Device, require_fp32
from workloads.inference.engine import Engine
from workloads.inference.facts import iteration_columns
from workloads.inference.iteration import Iteration
from workloads.inference.request import EngineLimits, Request
from workloads.moe.model import MoeModel
from workloads.progress import Progress, Silent
from workloads.provenance import provenance
from workloads.recorder import TorchRecorder
from workloads.text import STANDARD_LIBRARY, Corpus, encode, load_corpus, random_windows, train_tokenizer

_SAMPLE_CHARACTERS = 300


@dataclass(slots=True)
class ServingLog:
    """What happened: iterations, and per request the instants (seconds) of arrival, first token and end."""

    iterations: list[Iteration] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    first_tokens: dict[int, float] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)
    answers: dict[int, list[int]] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)


def infer(
    spec: InferenceSpec,
    checkpoint: Path | None = None,
    *,
    device: Device,
    started: float | None = None,
    progress: Progress | None = None,
) -> InferenceFacts:
    """Serve as `spec` says and return the facts. Without `checkpoint` the model is untrained.

    `started`: the monotonic clock when the device was taken (default: now); start-up counts from there. Prompts
    are stretches of the corpus that the model was trained on; outputs have exactly `spec.output_tokens` tokens.
    `provenance["sample"]` is the end of the first prompt and what the model made of it.

    Raises InvalidValue for a model or dtype that the workload does not have or a checkpoint of another model,
    InvalidFile for an unusable checkpoint or corpus.
    """
    require_fp32(spec.dtype)
    progress = progress or Silent()
    recorder = TorchRecorder(device, started=started)
    started_unix_seconds = time.time() - recorder.elapsed_seconds()

    progress.phase("startup")
    model, tokenizer, corpus = _load(spec, checkpoint)
    model.to(device.torch)
    context = spec.input_tokens + spec.output_tokens
    limits = EngineLimits(
        max_batch=spec.max_batch, context=context, token_budget=max(512, spec.max_batch), page_tokens=16
    )
    engine = Engine(model, device, limits=limits, clock=recorder.elapsed_seconds)
    prompts = random_windows(encode(corpus, tokenizer), spec.requests, spec.input_tokens, seed=spec.seed).tolist()
    progress.phase("warm_up")
    warm_up = [Request(i, prompt, min(4, spec.output_tokens)) for i, prompt in enumerate(prompts[: spec.max_batch])]
    serve(engine, warm_up, spec.max_batch, Silent())
    engine.forget()

    progress.phase("serve")
    startup_seconds = recorder.elapsed_seconds()
    requests = [Request(i, prompt, spec.output_tokens) for i, prompt in enumerate(prompts)]
    log = serve(engine, requests, spec.max_batch, progress)
    allocated_seconds = recorder.elapsed_seconds()

    facts = provenance(device, model.parameter_count(), corpus, spec.dtype)
    facts["checkpoint"] = "trained" if checkpoint is not None else "untrained"
    facts["sample"] = _sample(prompts[0], log.answers[0], tokenizer)
    order = range(len(requests))
    return InferenceFacts(
        started_unix_seconds=started_unix_seconds,
        allocated_seconds=allocated_seconds,
        device_count=1,
        startup_seconds=startup_seconds,
        iterations=iteration_columns(spec.model, spec.dtype, log.iterations, pages=limits.total_pages),
        requests=RequestTimes(
            arrival_seconds=log.arrivals,
            first_token_seconds=[log.first_tokens[i] for i in order],
            end_seconds=[log.ends[i] for i in order],
            input_tokens=[len(request.prompt) for request in requests],
            cached_input_tokens=[log.cached[i] for i in order],
            output_tokens=[len(log.answers[i]) for i in order],
        ),
        expert_load=engine.statistics().expert_load,
        provenance=facts,
    )


def serve(engine: Engine, requests: list[Request], clients: int, progress: Progress) -> ServingLog:
    """Keep `clients` of `requests` in the engine until all are answered. A request's id must be its index."""
    log = ServingLog()
    begin, generated, in_flight = engine.now(), 0, 0
    while len(log.ends) < len(requests):
        while in_flight < clients and len(log.arrivals) < len(requests):
            log.arrivals.append(engine.now())
            engine.submit(requests[len(log.arrivals) - 1])
            in_flight += 1
        iteration = engine.iterate()
        log.iterations.append(iteration)
        end = iteration.start_seconds + iteration.duration_seconds
        for output in iteration.outputs:
            request = output.request_id
            generated += len(output.token_ids)
            log.answers.setdefault(request, []).extend(output.token_ids)
            log.first_tokens.setdefault(request, end)
            log.cached[request] = output.cached_prompt_tokens
            if output.finish_reason is not None:
                log.ends[request] = end
                in_flight -= 1
        progress.progress(len(log.ends), len(requests), tokens_per_second=generated / (end - begin))
    return log


def _load(spec: InferenceSpec, checkpoint: Path | None) -> tuple[MoeModel, Tokenizer, Corpus]:
    if checkpoint is None:
        untrained = MoeModel(spec.model, seed=spec.seed)
        corpus = load_corpus(STANDARD_LIBRARY)
        return untrained, train_tokenizer(corpus, spec.model.vocabulary), corpus
    loaded = checkpoints.load(checkpoint)
    if loaded.shape != spec.model:
        raise InvalidValue(
            f"the checkpoint holds {loaded.shape.name}, the spec asks for {spec.model.name}", where=str(checkpoint),
            hint="serve the model that was trained",
        )  # fmt: skip
    corpus = load_corpus(loaded.data)
    if corpus.sha256 != loaded.data_sha256:
        raise InvalidFile(
            "the text has changed since the model was trained on it", where=loaded.data, hint="train again"
        )
    return loaded.model, loaded.tokenizer, corpus


def _sample(prompt_ids: list[int], answer_ids: list[int], tokenizer: Tokenizer) -> str:
    prompt: str = tokenizer.decode(prompt_ids)
    answer: str = tokenizer.decode(answer_ids)
    return prompt[-_SAMPLE_CHARACTERS // 2 :] + answer[: _SAMPLE_CHARACTERS // 2]
