"""The serving run: a closed loop of `max_batch` clients, each of which asks again once it has its answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from tokenstone.errors import InvalidFile, InvalidValue
from tokenstone.run import InferenceSpec
from tokenstone.wire import InferenceFacts
from workloads import checkpoint as checkpoints
from workloads.device import Device, require_fp32
from workloads.inference.engine import Engine, Iteration, Sequence
from workloads.inference.facts import iteration_columns, request_columns
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
    engine = Engine(model, device, max_batch=spec.max_batch, context=context, clock=recorder.elapsed_seconds)
    prompts = random_windows(encode(corpus, tokenizer), spec.requests, spec.input_tokens, seed=spec.seed).tolist()
    progress.phase("warm_up")
    warm_up = [Sequence(i, prompt, min(4, spec.output_tokens)) for i, prompt in enumerate(prompts[: spec.max_batch])]
    serve(engine, warm_up, spec.max_batch, Silent())

    progress.phase("serve")
    startup_seconds = recorder.elapsed_seconds()
    sequences = [Sequence(i, prompt, spec.output_tokens) for i, prompt in enumerate(prompts)]
    log = serve(engine, sequences, spec.max_batch, progress)
    allocated_seconds = recorder.elapsed_seconds()

    facts = provenance(device, model.parameter_count(), corpus, spec.dtype)
    facts["checkpoint"] = "trained" if checkpoint is not None else "untrained"
    facts["sample"] = _sample(sequences[0], tokenizer)
    order = range(len(sequences))
    return InferenceFacts(
        started_unix_seconds=started_unix_seconds,
        allocated_seconds=allocated_seconds,
        device_count=1,
        startup_seconds=startup_seconds,
        iterations=iteration_columns(spec, log.iterations),
        requests=request_columns(
            sequences, log.arrivals, [log.first_tokens[i] for i in order], [log.ends[i] for i in order]
        ),
        provenance=facts,
    )


def serve(engine: Engine, sequences: list[Sequence], clients: int, progress: Progress) -> ServingLog:
    """Keep `clients` of `sequences` in the engine until all are answered.

    A sequence's `request` must be its index.
    """
    log = ServingLog()
    begin, generated, in_flight = engine.now(), 0, 0
    while len(log.ends) < len(sequences):
        while in_flight < clients and len(log.arrivals) < len(sequences):
            log.arrivals.append(engine.now())
            engine.submit(sequences[len(log.arrivals) - 1])
            in_flight += 1
        iteration = engine.iterate()
        log.iterations.append(iteration)
        end = iteration.start_seconds + iteration.duration_seconds
        generated += len(iteration.sequences)
        for sequence in iteration.sequences:
            log.first_tokens.setdefault(sequence.request, end)
        for sequence in iteration.finished:
            log.ends[sequence.request] = end
            in_flight -= 1
        progress.progress(len(log.ends), len(sequences), tokens_per_second=generated / (end - begin))
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


def _sample(sequence: Sequence, tokenizer: Tokenizer) -> str:
    prompt: str = tokenizer.decode(sequence.prompt)
    answer: str = tokenizer.decode(sequence.generated)
    return prompt[-_SAMPLE_CHARACTERS // 2 :] + answer[: _SAMPLE_CHARACTERS // 2]
