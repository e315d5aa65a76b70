"""What `tokenstone infer` is asked to do, checked before anything is started."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tokenstone import hardware as catalogue
from tokenstone.errors import InvalidValue, UsageError
from tokenstone.objectives import parse_objective
from tokenstone.run import InferenceSpec, Lengths, Traffic
from tokenstone.wire import RunDevice
from workloads.presets import inference_spec

ENDPOINT_REQUESTS, ENDPOINT_INPUT, ENDPOINT_OUTPUT, ENDPOINT_CLIENTS = 100, 256, 128, 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of a load, as they were typed."""

    preset: str
    endpoint: str | None
    model: str | None
    api: str | None
    tokenizer: Path | None
    devices: int | None
    dtype: str | None
    rate: float | None
    burstiness: float | None
    concurrency: int | None
    traffic: str | None
    scale: float
    requests: int | None
    input_tokens: int | None
    output_tokens: int | None
    shared_prefix: int
    prefix_groups: int
    turns: int
    trace: Path | None
    slo: str | None
    temperature: float
    seed: int | None
    max_batch: int | None
    request_timeout: float
    max_seconds: float


def make_spec(wanted: Wanted) -> InferenceSpec:
    """The spec of a load. Raises UsageError and its kin."""
    _check(wanted)
    if wanted.endpoint is None:
        base = inference_spec(wanted.preset)
    else:
        base = InferenceSpec(
            preset="endpoint", model=None, endpoint_model=str(wanted.model), dtype=wanted.dtype or "unknown",
            requests=ENDPOINT_REQUESTS, input_tokens=ENDPOINT_INPUT, output_tokens=ENDPOINT_OUTPUT,
            max_batch=ENDPOINT_CLIENTS,
        )  # fmt: skip
    lengths, group_size = _lengths(wanted)
    requests, sha = wanted.requests or base.requests, ""
    if wanted.trace is not None:
        from workloads.load.trace import read_trace  # noqa: PLC0415

        trace = read_trace(wanted.trace)
        sha = trace.sha256
        requests = min(wanted.requests or len(trace.requests), len(trace.requests))
    traffic = Traffic(
        arrival=_arrival(wanted), concurrency=wanted.concurrency or base.max_batch, rate=wanted.rate,
        burstiness=wanted.burstiness or 1.0, lengths=lengths, shared_prefix_tokens=wanted.shared_prefix,
        prefix_groups=wanted.prefix_groups, group_size=group_size, turns=wanted.turns, trace_sha256=sha,
    )  # fmt: skip
    changes = {
        "requests": requests,
        "input_tokens": lengths.input_tokens if lengths else wanted.input_tokens or base.input_tokens,
        "output_tokens": lengths.output_tokens if lengths else wanted.output_tokens or base.output_tokens,
        "traffic": traffic,
        "objective": parse_objective(wanted.slo) if wanted.slo else base.objective,
        "temperature": wanted.temperature,
        "seed": base.seed if wanted.seed is None else wanted.seed,
        "max_batch": wanted.max_batch or base.max_batch,
    }
    return base.model_copy(update=changes)


def _arrival(wanted: Wanted) -> str:
    if wanted.trace is not None:
        return "trace"
    if wanted.rate is None:
        return "closed"
    return "poisson" if wanted.burstiness is None else "gamma"


def _lengths(wanted: Wanted) -> tuple[Lengths | None, int]:
    """Lengths and size of a group; None for the spec's own, every request the same."""
    if wanted.traffic is None:
        return None, 1
    from workloads.load.distributions import distribution, scaled  # noqa: PLC0415

    named = distribution(wanted.traffic)
    return scaled(named.lengths, wanted.scale), named.group_size


def _check(wanted: Wanted) -> None:
    """Raise UsageError for options that contradict each other."""
    if wanted.endpoint is not None:
        endpoint_host(wanted.endpoint)
        if not wanted.model:
            raise UsageError(
                "--endpoint needs --model NAME", hint="GET /v1/models of the endpoint names what it serves"
            )
    else:
        for given, option in ((wanted.model, "--model"), (wanted.tokenizer, "--tokenizer"), (wanted.api, "--api"),
                              (wanted.devices, "--devices"), (wanted.dtype, "--dtype")):  # fmt: skip
            if given is not None:
                raise UsageError(f"{option} is for an --endpoint; without one the reference engine is served")
    given_arrivals = [name for name, value in (("--rate", wanted.rate), ("--concurrency", wanted.concurrency),
                                               ("--trace", wanted.trace)) if value is not None]  # fmt: skip
    if len(given_arrivals) > 1:
        raise UsageError(f"{' and '.join(given_arrivals)} contradict each other", hint="give one of them")
    if wanted.rate is not None and not (math.isfinite(wanted.rate) and 0 < wanted.rate <= 1e6):
        raise InvalidValue(f"{wanted.rate:g} requests a second", where="--rate", hint="give a number above 0")
    if wanted.burstiness is not None and wanted.rate is None:
        raise UsageError("--burstiness needs --rate")
    fixed = wanted.input_tokens is not None or wanted.output_tokens is not None
    if fixed and (wanted.traffic is not None or wanted.trace is not None):
        raise UsageError("--input-tokens and --output-tokens are for requests that are all the same",
                         hint="leave out --traffic and --trace, or use --scale")  # fmt: skip
    if wanted.trace is not None and (wanted.traffic is not None or wanted.turns > 1):
        raise UsageError("a --trace has lengths and turns of its own", hint="leave out --traffic and --turns")


def endpoint_host(url: str) -> str:
    """The host of an endpoint's URL. Raises InvalidValue for what is none."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in {"http", "https"} or not host:
        raise InvalidValue(f"{url!r} is no URL of an endpoint", where="--endpoint", hint="like http://host:8000/v1")
    if parts.username or parts.password:
        raise InvalidValue("a URL with a password in it", where="--endpoint",
                           hint="give a key by TOKENSTONE_ENDPOINT_API_KEY")  # fmt: skip
    return host


def endpoint_devices(url: str, count: int | None, hardware: str | None) -> list[RunDevice]:
    """Devices of an endpoint: those that were named, else one stand-in without a kind."""
    node = re.sub(r"[^A-Za-z0-9._:@/+-]", "-", endpoint_host(url)).lstrip(".:@/+-_") or "endpoint"
    name = catalogue.get(hardware).name if hardware else None
    return [RunDevice(id=f"endpoint:{i}", node=node, hardware=name) for i in range(count or 1)]


def workload_arguments(wanted: Wanted) -> list[str]:
    """What the load generator's process is told beside the spec."""
    given = {
        "--endpoint": wanted.endpoint, "--api": wanted.api, "--tokenizer": wanted.tokenizer,
        "--devices": wanted.devices, "--trace": None if wanted.trace is None else wanted.trace.absolute(),
        "--request-timeout": wanted.request_timeout, "--max-seconds": wanted.max_seconds,
    }  # fmt: skip
    return [part for name, value in given.items() if value is not None for part in (name, str(value))]
