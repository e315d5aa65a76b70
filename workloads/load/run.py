"""A serving run: make the load of a spec, to the reference engine or to an endpoint, and return the facts."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from tokenstone.errors import InvalidValue
from tokenstone.latency import histogram
from tokenstone.run import InferenceSpec
from tokenstone.wire import InferenceFacts, Iterations
from workloads.load.client import Api, Endpoint, base_url
from workloads.load.engine_process import EngineProcess
from workloads.load.generator import Generator, Load
from workloads.load.outcome import Outcome, request_columns
from workloads.load.plan import Conversation, make_plan
from workloads.load.prompts import PromptSource, TextPrompts, TokenPrompts, WordPrompts, token_prompts
from workloads.load.trace import Trace, read_trace
from workloads.progress import Progress

_SAMPLE_CHARACTERS = 150
_WARM_UP_REQUESTS = 2


@dataclass(frozen=True, slots=True)
class Target:
    """Where an endpoint is and how it is spoken to. Without `url`, the reference engine is started."""

    url: str | None = None
    api: Api | None = None
    key: str | None = None
    tokenizer: Path | None = None
    devices: int | None = None
    timeout_seconds: float = 120.0
    most_seconds: float = 3600.0
    trace: Path | None = None


def infer(
    spec: InferenceSpec, target: Target, *, spec_path: Path, checkpoint: Path | None, threads: int | None,
    started: float, progress: Progress,
) -> InferenceFacts:  # fmt: skip
    """Make the load and return what happened. `started`: the monotonic clock when the allocation began.

    Raises InvalidFile for a trace or tokenizer that cannot be used, and what the engine's start raises. What happens
    to single requests is a fact and raises nothing.
    """
    trace = None if target.trace is None else read_trace(target.trace)
    if (spec.arrivals.arrival == "trace") != (trace is not None):
        raise InvalidValue("a spec of a trace needs the trace, and no other does", where="--trace")
    plan = make_plan(spec, trace)
    run = _Run(spec, target, plan, trace, started, progress)
    return run.of_endpoint() if target.url is not None else run.of_engine(spec_path, checkpoint, threads)


@dataclass(frozen=True, slots=True)
class _Run:
    spec: InferenceSpec
    target: Target
    plan: list[Conversation]
    trace: Trace | None
    started: float
    progress: Progress

    def of_endpoint(self) -> InferenceFacts:
        """Somebody's endpoint: nothing but the requests is known."""
        assert self.target.url is not None
        prompts: PromptSource = WordPrompts()
        if self.target.tokenizer is not None:
            prompts = TextPrompts(token_prompts(self.target.tokenizer))
        endpoint = self._endpoint(self.target.url, self.spec.endpoint_model)
        load = self._load(endpoint, prompts)
        return self._facts(load, iterations=None, expert_load=None, provenance={"api": load.api})

    def of_engine(self, spec_path: Path, checkpoint: Path | None, threads: int | None) -> InferenceFacts:
        """The reference engine, over HTTP too: its iterations come with the facts."""
        assert self.spec.model is not None
        context = max(conversation.longest_context for conversation in self.plan)
        with EngineProcess(spec_path, checkpoint, threads=threads, context=context, progress=self.progress) as engine:
            prompts = token_prompts(engine.tokenizer_path)
            endpoint = replace(
                self._endpoint(engine.url, self.spec.model.name), api="completions", token_ids=True, key=None
            )
            self._warm_up(endpoint, prompts)
            load = self._load(endpoint, prompts)
            ended = time.monotonic()
            record = engine.finish()
        iterations = Iterations.model_validate(record["iterations"])
        iterations = iterations.model_copy(
            update={"start_seconds": [max(0.0, start - self.started) for start in iterations.start_seconds]}
        )
        provenance = record["provenance"] | {"sample": _sample(self.spec, prompts, load.outcomes[0])}
        facts = self._facts(load, iterations=iterations, expert_load=record["expert_load"], provenance=provenance)
        # What the engine did after the last client had its answer is no part of the run.
        return facts.model_copy(update={"allocated_seconds": max(ended - self.started, _last_instant(iterations))})

    def _endpoint(self, url: str, model: str) -> Endpoint:
        return Endpoint(
            url=base_url(url), model=model, key=self.target.key, temperature=self.spec.temperature,
            api=self.target.api, timeout_seconds=self.target.timeout_seconds,
        )  # fmt: skip

    def _warm_up(self, endpoint: Endpoint, prompts: PromptSource) -> None:
        """The first request over a connection is the slowest, and nobody's latency."""
        spec = self.spec.model_copy(
            update={"requests": _WARM_UP_REQUESTS, "input_tokens": 1, "output_tokens": 1, "traffic": None}
        )
        Generator(endpoint, prompts, spec.arrivals, label="warm-up").run(make_plan(spec))

    def _load(self, endpoint: Endpoint, prompts: PromptSource) -> Load:
        self.progress.phase("serve")
        total, begin = sum(len(conversation.turns) for conversation in self.plan), time.monotonic()

        def tell(done: int, tokens: int) -> None:
            self.progress.progress(done, total, tokens_per_second=tokens / max(time.monotonic() - begin, 1e-9))

        generator = Generator(
            endpoint, prompts, self.spec.arrivals, seed=self.spec.seed, most_seconds=self.target.most_seconds,
            on_progress=tell,
        )  # fmt: skip
        return generator.run(self.plan)

    def _facts(
        self, load: Load, *, iterations: Iterations | None, expert_load: list[list[int]] | None,
        provenance: dict[str, str],
    ) -> InferenceFacts:  # fmt: skip
        now = time.monotonic()
        remote = self.target.url is not None
        # A remote endpoint is charged from the moment at which the first request was due: it ran already.
        started = load.began if remote else self.started
        requests = request_columns(load.outcomes, started)
        ends = [end for end in requests.end_seconds if end is not None]
        return InferenceFacts(
            started_unix_seconds=time.time() - (now - started),
            allocated_seconds=max([1e-9, *ends, *requests.arrival_seconds]),
            device_count=self.target.devices or 1,
            devices_known=not remote or self.target.devices is not None,
            startup_seconds=0.0 if remote else load.began - started,
            iterations=iterations or Iterations(),
            iterations_known=iterations is not None,
            requests=requests,
            inter_token=histogram(gap for o in load.outcomes if o.error is None for gap in o.gaps),
            client=load.lag,
            expert_load=expert_load,
            provenance=_provenance(load.outcomes, self.trace) | provenance,
        )


def _last_instant(iterations: Iterations) -> float:
    pairs = zip(iterations.start_seconds, iterations.duration_seconds, strict=True)
    return max((start + duration for start, duration in pairs), default=0.0)


def _provenance(outcomes: Sequence[Outcome], trace: Trace | None) -> dict[str, str]:
    """Who counted the tokens, and an example of each kind of failure."""
    counted = Counter(outcome.counted_by for outcome in outcomes if outcome.counted_by)
    facts = {
        "load_client": f"aiohttp {aiohttp.__version__}, python {platform.python_version()}",
        "tokens_counted_by": ", ".join(f"{name} {number}" for name, number in counted.most_common()) or "nobody",
    }
    for outcome in outcomes:
        if outcome.error is not None:
            facts.setdefault(f"error_{outcome.error}", outcome.detail)
    if trace is not None and trace.bad_lines:
        examples = "; ".join(trace.bad_lines[:3])
        facts["trace_bad_lines"] = f"{len(trace.bad_lines)}: {examples}"[:500]
    return facts


def _sample(spec: InferenceSpec, prompts: TokenPrompts, first: Outcome) -> str:
    """The end of the first prompt and what the model made of it."""
    prompt = prompts.stretch(spec.input_tokens, (spec.seed, 3, 0))
    text: str = prompts.tokenizer.decode([token for token in prompt if isinstance(token, int)])
    return (text[-_SAMPLE_CHARACTERS:] + first.text[:_SAMPLE_CHARACTERS])[:500]
