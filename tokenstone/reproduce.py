"""The exact command that does the work of a run again: every option spelled out, so that defaults may change.

The same command gives the same spec id; `tests/domain/test_reproduce.py` proves it for every preset. What a command
line cannot say (a file that was read, an endpoint's address) stands as a capital word, and `note` says which.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from tokenstone.cost import Price
from tokenstone.model import CPU_SMALL, CPU_TINY, DEEPSEEK_V3, MOE_16B, ModelShape
from tokenstone.run import AnySpec, InferenceSpec, JobSpec, TrainingSpec

MODELS: dict[str, ModelShape] = {
    "cpu-tiny": CPU_TINY, "cpu-small": CPU_SMALL, "gpu-1": MOE_16B, "gpu-8": MOE_16B, "deepseek-v3": DEEPSEEK_V3,
    "gpu-1-80gb": MOE_16B.model_copy(update={"layers": 6, "name": "moe-16b, 6 layers"}),
}  # fmt: skip
"""Presets that `tokenstone train` and `infer` know, and their models."""
_MOST_PROCESSES = 1024
"""Of `--nproc`; larger trainings are the preset's own layout, on many nodes."""


class Reproduction(BaseModel):
    """How to do it again."""

    model_config = ConfigDict(frozen=True)

    command: str | None
    note: str = ""
    """What the command does not say, or why there is none."""


def reproduction(spec: AnySpec, price: Price | None = None) -> Reproduction:
    """Return the command for a spec, scored at the same price.

    >>> spec = InferenceSpec(preset="cpu-tiny", model=CPU_TINY, dtype="fp32", requests=6, input_tokens=16,
    ...                      output_tokens=8, max_batch=4)
    >>> reproduction(spec).command
    'tokenstone bench --preset cpu-tiny'
    """
    if isinstance(spec, JobSpec):
        return Reproduction(command=None, note="a job of its owner's: its command is not recorded")
    endpoint = isinstance(spec, InferenceSpec) and bool(spec.endpoint_model)
    if not endpoint and spec.preset not in MODELS:
        return Reproduction(command=None, note=f"not a reference workload: {spec.preset!r} was run by its own program")
    if not endpoint and spec.model != MODELS[spec.preset]:
        return Reproduction(command=None, note=f"a variant of {spec.preset}, as `tokenstone ablate` makes them")
    if isinstance(spec, TrainingSpec):
        name, (options, note) = "train", _training(spec)
    elif spec.traffic is None:
        name, options, note = "bench", {"--preset": spec.preset}, "`bench` trains before it serves"
    else:
        name, (options, note) = "infer", _inference(spec)
    if price is not None:
        options["--price-per-device-hour"] = f"{price.usd_per_device_hour:.10g}"
    words = ["tokenstone", name]
    for option, value in options.items():
        words += [option] if value == "" else [option, value]
    return Reproduction(command=shlex.join(words), note=note)


def _given(options: Mapping[str, object]) -> dict[str, str]:
    """Options that have a value, as text."""
    return {name: str(value) for name, value in options.items() if value is not None}


def _training(spec: TrainingSpec) -> tuple[dict[str, str], str]:
    layout, note = spec.layout, ""
    options: dict[str, object] = {
        "--preset": spec.preset,
        "--nproc": layout.ranks if layout.ranks <= _MOST_PROCESSES else None,
        "--pipeline": layout.pipeline,
        "--experts": layout.experts,
        "--schedule": layout.schedule,
        "--micro-batches": layout.micro_batches,
        "--overlap" if layout.overlap else "--no-overlap": "",
        "--dtype": spec.dtype,
        "--linear": spec.linear_precision,
        "--dispatch": spec.dispatch_precision,
        "--combine": spec.combine_precision,
        "--recompute": spec.recompute,
        "--balancing": spec.balancing,
        "--balance-alpha": spec.balance_alpha,
        "--bias-update-rate": spec.bias_update_rate,
        "--prediction-depths": spec.prediction_depths,
        "--data-parallel": layout.data_parallel,
        "--redundant-experts": spec.redundant_experts,
        "--redundant-experts-interval": spec.redundant_experts_interval,
        "--simulated-latency": spec.simulated_latency_seconds,
        "--steps": spec.steps,
        "--seed": spec.seed,
    }
    if spec.data != "python-stdlib":
        options["--text"] = spec.data
    if spec.link_bits_per_second is not None:
        note = f"the link was limited to {spec.link_bits_per_second:g} bit/s, as `tokenstone ablate --link-rate` does"
    return _given(options), note


def _inference(spec: InferenceSpec) -> tuple[dict[str, str], str]:
    traffic, notes = spec.arrivals, []
    options: dict[str, object] = {"--preset": spec.preset}
    if spec.endpoint_model:
        options = {"--endpoint": "URL", "--model": spec.endpoint_model, "--dtype": spec.dtype}
        notes.append("URL is the endpoint's address")
    options |= {
        "--requests": spec.requests, "--max-batch": spec.max_batch, "--shared-prefix": traffic.shared_prefix_tokens,
        "--prefix-groups": traffic.prefix_groups,
    }  # fmt: skip
    if traffic.arrival == "closed":
        options["--concurrency"] = traffic.concurrency
    elif traffic.arrival == "trace":
        options["--trace"] = "FILE"
        notes.append(f"FILE is the trace whose SHA-256 is {traffic.trace_sha256}")
    else:
        options["--rate"] = traffic.rate
        options["--burstiness"] = traffic.burstiness if traffic.arrival == "gamma" else None
    if traffic.lengths is not None:
        options["--traffic"] = traffic.lengths.name
        medians = f"{traffic.lengths.input_tokens} and {traffic.lengths.output_tokens}"
        notes.append(f"give --scale again if it was given: the median lengths were {medians} tokens")
    elif traffic.arrival != "trace":
        options |= {"--input-tokens": spec.input_tokens, "--output-tokens": spec.output_tokens}
    if traffic.arrival != "trace":
        options["--turns"] = traffic.turns
    if spec.objective is not None:
        limits = spec.objective.model_dump(exclude_none=True)
        options["--slo"] = ",".join(f"{name.removesuffix('_seconds')}={value:.10g}s" for name, value in limits.items())
    return _given(options | {"--temperature": spec.temperature, "--seed": spec.seed}), "; ".join(notes)
