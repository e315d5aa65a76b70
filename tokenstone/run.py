"""A run: one execution of one workload spec on named devices.

    created -> running -> complete | failed | invalid

`invalid` is a run that ended but whose facts contradict themselves (a ledger that does not balance).
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tokenstone.errors import Conflict
from tokenstone.model import ModelShape


class RunState(StrEnum):
    """Where a run is in its life."""

    CREATED = "created"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    INVALID = "invalid"

    @property
    def ended(self) -> bool:
        """Whether nothing can change any more."""
        return not _NEXT[self]


_NEXT: dict[RunState, frozenset[RunState]] = {
    RunState.CREATED: frozenset({RunState.RUNNING, RunState.FAILED}),
    RunState.RUNNING: frozenset({RunState.COMPLETE, RunState.FAILED, RunState.INVALID}),
    RunState.COMPLETE: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.INVALID: frozenset(),
}


def check_transition(run_id: str, present: RunState, wanted: RunState) -> None:
    """Raise Conflict unless a run may go from `present` to `wanted`."""
    if wanted not in _NEXT[present]:
        may = ", ".join(sorted(_NEXT[present])) or "nothing: it has ended"
        raise Conflict(f"run {run_id} is {present} and cannot become {wanted}", hint=f"it can become {may}")


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @property
    def spec_id(self) -> str:
        """Hash of everything that defines the work: only runs of one spec id compare as like with like."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


Positive = Annotated[int, Field(gt=0, le=2**53)]


Schedule = Literal["1F1B", "Interleaved1F1B", "ZBVZeroBubble", "DualPipeV"]


class TrainingLayout(_Spec):
    """How ranks share a training: pipeline stages x replicas of the experts x expert shards."""

    pipeline: Positive = 1
    replicas: Positive = 1
    experts: Positive = 1
    schedule: Schedule = "1F1B"
    micro_batches: Positive = 1
    overlap: bool = True
    """Whether DualPipeV runs the forward of one micro-batch with the backward of another at the same time."""
    data_parallel: Literal["ddp", "fsdp"] = "ddp"
    """Ranks with the same layers average their gradients, or shard the weights (FSDP2)."""

    @property
    def ranks(self) -> int:
        """Devices that the training needs."""
        return self.pipeline * self.replicas * self.experts


class TrainingSpec(_Spec):
    """A piece of training: model, shapes, precision, data, seed."""

    kind: Literal["training"] = "training"
    preset: str = Field(max_length=100)
    model: ModelShape
    dtype: str
    sequence_length: Positive
    batch_sequences: Positive
    steps: Positive
    warm_up_steps: Annotated[int, Field(ge=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    bias_update_rate: Annotated[float, Field(ge=0)]
    """Step of the balancing bias (auxiliary-loss-free balancing, arXiv 2408.15664); 0 switches it off."""
    balancing: Literal["none", "sequence", "auxiliary", "forced"] = "none"
    """What balances the experts beside the bias: a loss weighted by `balance_alpha`, or force (for measuring)."""
    balance_alpha: Annotated[float, Field(ge=0)] = 0.0
    linear_precision: Literal["dtype", "fp8"] = "dtype"
    """Precision of the matrix multiplications that DeepSeek-V3 runs in FP8; master weights stay in `dtype`."""
    dispatch_precision: Literal["dtype", "bf16", "fp8"] = "dtype"
    combine_precision: Literal["dtype", "bf16"] = "dtype"
    recompute: Literal["none", "cheap", "blocks"] = "none"
    prediction_depths: Annotated[int, Field(ge=0, le=8)] = 0
    """Depths of multi-token prediction; 0 is none."""
    redundant_experts: Annotated[int, Field(ge=0, le=4096)] = 0
    """Copies of experts in each layer, placed by load over the ranks that share the experts (EPLB); 0 is none."""
    redundant_experts_interval: Positive = 10
    """Steps after which the copies are placed anew."""
    simulated_latency_seconds: Annotated[float, Field(ge=0, le=10)] = 0.0
    """A link made slower on purpose: each exchange of tokens takes that much longer."""
    link_bits_per_second: Annotated[float, Field(gt=0)] | None = None
    """Rate to which the link between ranks is limited; None is as fast as it is."""
    link_simulated: bool = False
    """Whether the limit is only a wait in each exchange of tokens, for want of a network that can be limited."""
    layout: TrainingLayout = TrainingLayout()
    data: str = "python-stdlib"
    seed: int = 0

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step consumes."""
        return self.sequence_length * self.batch_sequences


class Objective(_Spec):
    """Latency objective of serving: a request that misses any of its limits does not count as goodput."""

    ttft_seconds: Annotated[float, Field(gt=0)] | None = None
    tpot_seconds: Annotated[float, Field(gt=0)] | None = None
    e2e_seconds: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.ttft_seconds is None and self.tpot_seconds is None and self.e2e_seconds is None:
            raise ValueError("an objective has at least one of ttft, tpot and e2e")
        return self


class Lengths(_Spec):
    """How long requests are, in tokens: every one the same, or drawn from a log-normal distribution and cut off."""

    name: str = Field(default="fixed", max_length=100)
    input_tokens: Positive
    """Median; the prompt as sent, shared prefix included."""
    output_tokens: Positive
    """Median."""
    input_sigma: Annotated[float, Field(ge=0, le=4)] = 0.0
    """Standard deviation of the logarithm; 0 is no spread."""
    output_sigma: Annotated[float, Field(ge=0, le=4)] = 0.0
    input_limit: Positive = 2**20
    output_limit: Positive = 2**20


class Traffic(_Spec):
    """How requests arrive and what they share.

    `closed`: `concurrency` clients, each of which asks again once it has its answer. `poisson` and `gamma`: an open
    loop of `rate` requests a second, whose gaps have the coefficient of variation 1 and 1 / sqrt(`burstiness`).
    `trace`: at the instants of a file.
    """

    arrival: Literal["closed", "poisson", "gamma", "trace"] = "closed"
    concurrency: Positive = 1
    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    burstiness: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Shape of the gamma distribution of gaps: 1 is Poisson, below 1 comes in bursts."""
    lengths: Lengths | None = None
    """Default: the spec's input and output tokens, every request the same."""
    shared_prefix_tokens: Annotated[int, Field(ge=0, le=2**20)] = 0
    """Tokens at the beginning of each prompt that all requests of its group share."""
    prefix_groups: Positive = 1
    group_size: Positive = 1
    """Requests with the very same prompt: roll-outs of one task in reinforcement learning."""
    turns: Positive = 1
    """Requests of one conversation; each sends all that was said before."""
    trace_sha256: str = Field(default="", max_length=64)


class InferenceSpec(_Spec):
    """A piece of serving: model, precision, requests, batch, traffic, objective, seed."""

    kind: Literal["inference"] = "inference"
    preset: str = Field(max_length=100)
    model: ModelShape | None
    """None for an endpoint, whose shape is not known."""
    endpoint_model: str = Field(default="", max_length=200)
    """The name under which an endpoint serves; empty for the reference engine."""
    dtype: str
    requests: Positive
    input_tokens: Positive
    output_tokens: Positive
    max_batch: Positive
    """Sequences that the reference engine decodes at once."""
    traffic: Traffic | None = None
    """Default: a closed loop of `max_batch` clients."""
    objective: Objective | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: int = 0

    @property
    def arrivals(self) -> Traffic:
        """The traffic, the default spelled out."""
        return self.traffic or Traffic(concurrency=self.max_batch)

    @property
    def lengths(self) -> Lengths:
        """The lengths, the default spelled out."""
        return self.arrivals.lengths or Lengths(input_tokens=self.input_tokens, output_tokens=self.output_tokens)


class JobSpec(_Spec):
    """Anyone's own job, of which we know what its owner says. Its facts are those of a training.

    With `flops_per_token`, or `model` and `sequence_length`, and a known peak of `dtype` it has a score.
    """

    kind: Literal["job"] = "job"
    preset: Annotated[str, Field(min_length=1, max_length=100)]
    """The job's name: runs of one name and the same figures compare as like with like."""
    model: ModelShape | None = None
    sequence_length: Positive | None = None
    flops_per_token: Annotated[float, Field(gt=0, le=1e30)] | None = None
    """Model FLOPs of a token, forward and backward where it trains, by the owner's own count."""
    dtype: str = Field(default="unknown", max_length=20)
    """Number format of the peak that the job is held against."""

    @model_validator(mode="after")
    def _counts_once(self) -> Self:
        if self.model is not None and self.flops_per_token is not None:
            raise ValueError("give either model or flops_per_token")
        if (self.model is None) != (self.sequence_length is None):
            raise ValueError("model and sequence_length go together")
        return self


ReferenceSpec = Annotated[TrainingSpec | InferenceSpec, Field(discriminator="kind")]
"""Specs that the reference workloads run."""
WorkloadSpec = Annotated[TrainingSpec | InferenceSpec | JobSpec, Field(discriminator="kind")]
AnySpec = TrainingSpec | InferenceSpec | JobSpec


def facts_kind(spec: AnySpec) -> Literal["training", "inference"]:
    """Kind of facts that a run of `spec` ends with."""
    return "inference" if spec.kind == "inference" else "training"
