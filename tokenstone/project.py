"""What if: the step of a published training under another pipeline schedule, from its published segments.

DeepSeek published what DeepSeek-V3's step on 2,048 H800 is made of. The durations of single chunks follow from how
often DualPipe runs each kind, and from them the step under another schedule by the closed forms of its bubble. What
is calculated so is `simulated`; the published step itself is `published`.

Source: "Insights into DeepSeek-V3", ISCA'25, arXiv 2505.09343; schedule and bubbles: DeepSeek-V3 technical report,
arXiv 2412.19437, section 3.2.1, and the repository deepseek-ai/DualPipe.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from tokenstone.errors import InvalidValue, UnknownName

PipelineSchedule = Literal["DualPipe", "ZB1P", "1F1B"]
SECONDS_PER_DAY = 86_400
TRILLION = 1e12


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedStep(_Row):
    """A measured step. `..._seconds` are a mean device's seconds in each segment of it."""

    model: str
    hardware: str
    devices: int
    pipeline: int
    sequences: int
    sequence_length: int
    forward_seconds: float
    """Forward chunks with nothing else at the same time."""
    backward_seconds: float
    """Backward chunks alone; in part only for the inputs."""
    weight_seconds: float
    """Gradients of weights alone."""
    pair_seconds: float
    """A forward and a backward chunk at once, each behind the other's communication."""
    bubble_seconds: float
    optimizer_seconds: float
    unlisted_seconds: float
    source: str

    @property
    def step_seconds(self) -> float:
        """The whole step."""
        return (
            self.forward_seconds + self.backward_seconds + self.weight_seconds + self.pair_seconds
            + self.bubble_seconds + self.optimizer_seconds + self.unlisted_seconds
        )  # fmt: skip

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one sequence that a pipeline takes a step."""
        return self.sequences * self.pipeline // self.devices


DEEPSEEK_V3 = PublishedStep(
    model="deepseek-v3",
    hardware="h800-sxm",
    devices=2048,
    pipeline=16,
    sequences=15_360,
    sequence_length=4096,
    forward_seconds=1.13,
    backward_seconds=1.99,
    weight_seconds=0.48,
    pair_seconds=13.95,
    bubble_seconds=2.06,
    optimizer_seconds=0.29,
    unlisted_seconds=0.026,
    source="Insights into DeepSeek-V3, ISCA'25, arXiv 2505.09343",
)
PUBLISHED: dict[str, PublishedStep] = {DEEPSEEK_V3.model: DEEPSEEK_V3}


class Chunks(_Row):
    """Seconds of one chunk (one micro-batch through one device's layers)."""

    forward: float
    backward: float
    """For inputs and weights."""
    weight: float
    """The part of `backward` that is for weights alone."""
    pair: float
    """Forward and backward at once."""


class Projection(_Row):
    """A step and what follows from it. `segments` add up to `step_seconds`."""

    model: str
    schedule: PipelineSchedule
    overlap: bool
    devices: int
    provenance: Literal["published", "simulated"]
    segments: dict[str, float]
    step_seconds: float
    tokens_per_step: int
    tokens_per_day: float
    device_hours_per_trillion_tokens: float
    usd_per_million_tokens: float | None
    bubble_closed_form_seconds: float
    chunks: Chunks
    assumptions: list[str]
    source: str


def chunk_seconds(step: PublishedStep) -> Chunks:
    """Durations of single chunks, from how often a mean rank of DualPipe runs each kind alone or in pairs.

    With h from 0 to P/2 - 1 counting ranks from the end, DualPipe runs 3P/2 - 1 - h forwards alone, as many backwards,
    of which P - 1 - h leave the weights for later, and pairs for the rest of its micro-batches.
    """
    half = step.pipeline // 2
    mean_h = (half - 1) / 2
    alone = 3 * half - 1 - mean_h
    deferred = 2 * half - 1 - mean_h
    weight = step.weight_seconds / deferred
    inputs = (step.backward_seconds - (alone - deferred) * weight) / alone
    return Chunks(
        forward=step.forward_seconds / alone,
        backward=inputs + weight,
        weight=weight,
        pair=step.pair_seconds / (step.micro_batches - alone),
    )


def closed_form_bubble(schedule: PipelineSchedule, pipeline: int, chunks: Chunks, *, overlap: bool = True) -> float:
    """Seconds a device waits for other stages, all stages being even (arXiv 2412.19437, section 3.2.1).

    >>> even = Chunks(forward=1.0, backward=2.0, weight=1.0, pair=3.0)
    >>> [closed_form_bubble(schedule, 8, even) for schedule in ("1F1B", "ZB1P", "DualPipe")]
    [21.0, 7.0, 6.0]
    """
    f, b, w = chunks.forward, chunks.backward, chunks.weight
    if schedule == "1F1B":
        return (pipeline - 1) * (f + b)
    if schedule == "ZB1P":
        return (pipeline - 1) * (f + b - 2 * w)
    pair = chunks.pair if overlap else f + b
    return (pipeline // 2 - 1) * (pair + b - 3 * w)


def project(
    model: str,
    *,
    schedule: PipelineSchedule = "DualPipe",
    overlap: bool = True,
    devices: int | None = None,
    usd_per_device_hour: float | None = None,
) -> Projection:
    """The step of a published training, as it was or under another schedule or number of devices.

    Raises UnknownName for a model without published segments, InvalidValue for what no such training can be.
    """
    if model not in PUBLISHED:
        raise UnknownName("published training", model, PUBLISHED)
    if schedule not in get_args(PipelineSchedule):
        raise UnknownName("schedule", schedule, get_args(PipelineSchedule))
    step = PUBLISHED[model]
    count = step.devices if devices is None else devices
    if count < step.pipeline or count % step.pipeline:
        raise InvalidValue(
            f"{count} devices do not hold whole pipelines of {step.pipeline}", where="--devices",
            hint=f"use a multiple of {step.pipeline}",
        )  # fmt: skip
    chunks = chunk_seconds(step)
    bubble = closed_form_bubble(schedule, step.pipeline, chunks, overlap=overlap)
    segments, assumptions = _segments(step, schedule, chunks, bubble, overlap=overlap)
    if count != step.devices:
        assumptions.append(f"{count:,} devices instead of {step.devices:,}: sequences in proportion, the step as long")
    seconds = sum(segments.values())
    tokens = step.sequences * step.sequence_length * count // step.devices
    rate = tokens / seconds
    hours = count * TRILLION / rate / 3600
    return Projection(
        model=model,
        schedule=schedule,
        overlap=overlap and schedule == "DualPipe",
        devices=count,
        provenance="simulated" if assumptions else "published",
        segments=segments,
        step_seconds=seconds,
        tokens_per_step=tokens,
        tokens_per_day=rate * SECONDS_PER_DAY,
        device_hours_per_trillion_tokens=hours,
        usd_per_million_tokens=None if usd_per_device_hour is None else hours * usd_per_device_hour / 1e6,
        bubble_closed_form_seconds=bubble,
        chunks=chunks,
        assumptions=assumptions,
        source=step.source,
    )


def _segments(
    step: PublishedStep, schedule: PipelineSchedule, chunks: Chunks, bubble: float, *, overlap: bool
) -> tuple[dict[str, float], list[str]]:
    fixed = {"optimizer": step.optimizer_seconds, "unlisted": step.unlisted_seconds}
    if schedule == "DualPipe" and overlap:
        published = {
            "forward": step.forward_seconds, "bubble": step.bubble_seconds, "backward": step.backward_seconds,
            "weight": step.weight_seconds, "forward and backward together": step.pair_seconds,
        }  # fmt: skip
        return published | fixed, []
    other = step.bubble_seconds - closed_form_bubble("DualPipe", step.pipeline, chunks)
    forward, backward = step.micro_batches * chunks.forward, step.micro_batches * chunks.backward
    segments = {"forward": forward, "backward": backward, "bubble": bubble, "other waiting": other} | fixed
    return segments, [
        f"micro-batches of one sequence, {step.micro_batches} a pipeline; chunks last as they do alone in DualPipe: "
        f"forward {chunks.forward:.4f} s, backward {chunks.backward:.4f} s, {chunks.weight:.4f} s of it weights",
        "forward and backward do not run at once, so all communication that they expose alone is exposed",
        f"the bubble is the closed form's for even stages; the {other:.2f} s by which DualPipe's measured bubble "
        "exceeds its own closed form are kept",
        "optimizer and what the source does not list stay as they are; memory is not checked",
    ]
