"""The command that does a run's work again. The spec id says whether it did: the same id is the same work."""

from __future__ import annotations

import shlex

from tokenstone.run import InferenceSpec, Objective, Traffic, TrainingSpec

_SAME_DATA = "python-stdlib"


def command(spec: TrainingSpec | InferenceSpec) -> tuple[str, str]:
    """Return the command line, and what it leaves out (empty where it is whole).

    It is whole for what the named preset and the options of `tokenstone train` and `tokenstone infer` can say. Nobody
    here can know whether a preset of that name is still the same: the spec id can.
    """
    words, missing = _training(spec) if isinstance(spec, TrainingSpec) else _inference(spec)
    return shlex.join(words), "; ".join(missing)


def _training(spec: TrainingSpec) -> tuple[list[str], list[str]]:
    layout = spec.layout
    words = ["tokenstone", "train", "--preset", spec.preset, "--nproc", str(layout.ranks)]
    if layout.ranks > 1:
        words += ["--pipeline", str(layout.pipeline), "--experts", str(layout.experts)]
    if layout.pipeline > 1:
        words += ["--schedule", layout.schedule]
    words += ["--micro-batches", str(layout.micro_batches)]
    if not layout.overlap:
        words.append("--no-overlap")
    if layout.data_parallel != "ddp":
        words += ["--data-parallel", layout.data_parallel]
    words += ["--dtype", spec.dtype, "--steps", str(spec.steps), "--seed", str(spec.seed)]
    optional = {
        "--linear": (spec.linear_precision, "dtype"),
        "--dispatch": (spec.dispatch_precision, "dtype"),
        "--combine": (spec.combine_precision, "dtype"),
        "--recompute": (spec.recompute, "none"),
        "--balancing": (spec.balancing, "none"),
        "--balance-alpha": (spec.balance_alpha, 0.0),
        "--prediction-depths": (spec.prediction_depths, 0),
        "--redundant-experts": (spec.redundant_experts, 0),
        "--simulated-latency": (spec.simulated_latency_seconds, 0.0),
    }
    for option, (value, usual) in optional.items():
        if value != usual:
            words += [option, str(value)]
    if spec.redundant_experts:
        words += ["--redundant-experts-interval", str(spec.redundant_experts_interval)]
    words += ["--bias-update-rate", str(spec.bias_update_rate)]
    missing = []
    if spec.data != _SAME_DATA:
        words += ["--text", spec.data]
        missing.append("the text itself, whose hash is among what it was measured with")
    if spec.link_bits_per_second is not None:
        missing.append(f"the link of {spec.link_bits_per_second / 1e6:g} Mbit/s, which `tokenstone ablate` makes")
    return words, missing


def _inference(spec: InferenceSpec) -> tuple[list[str], list[str]]:
    if spec.traffic is None:  # as `tokenstone bench` serves; `infer` always spells the traffic out
        return ["tokenstone", "bench", "--preset", spec.preset], []
    words, missing = ["tokenstone", "infer"], []
    if spec.endpoint_model:
        words += ["--endpoint", "URL", "--model", spec.endpoint_model, "--dtype", spec.dtype]
        missing.append("the endpoint's address")
    else:
        words += ["--preset", spec.preset, "--max-batch", str(spec.max_batch)]
    traffic, lengths = spec.arrivals, spec.lengths
    words += ["--requests", str(spec.requests)]
    if traffic.lengths is None:
        words += ["--input-tokens", str(lengths.input_tokens), "--output-tokens", str(lengths.output_tokens)]
    else:
        words += ["--traffic", lengths.name]
        missing.append("--scale, if the lengths were scaled")
    words += _arrivals(traffic)
    if traffic.arrival == "trace":
        missing.append(f"the trace with SHA-256 {traffic.trace_sha256}")
    for option, value, usual in (
        ("--shared-prefix", traffic.shared_prefix_tokens, 0),
        ("--prefix-groups", traffic.prefix_groups, 1),
        ("--turns", traffic.turns, 1),
    ):
        if value != usual:
            words += [option, str(value)]
    if spec.objective is not None:
        words += ["--slo", _objective(spec.objective)]
    if spec.temperature:
        words += ["--temperature", f"{spec.temperature:g}"]
    return [*words, "--seed", str(spec.seed)], missing


def _arrivals(traffic: Traffic) -> list[str]:
    if traffic.arrival == "trace":
        return ["--trace", "FILE"]
    if traffic.rate is None:
        return ["--concurrency", str(traffic.concurrency)]
    words = ["--rate", f"{traffic.rate:g}"]
    return [*words, "--burstiness", f"{traffic.burstiness:g}"] if traffic.arrival == "gamma" else words


def _objective(objective: Objective) -> str:
    limits = {"ttft": objective.ttft_seconds, "tpot": objective.tpot_seconds, "e2e": objective.e2e_seconds}
    return ",".join(f"{name}={value * 1000:g}ms" for name, value in limits.items() if value is not None)
