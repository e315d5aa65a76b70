"""A service with something of everything in it, for the tests of its pages and for looking at them."""

from __future__ import annotations

import copy
import math
from typing import Any

from api import examples
from tokenstone.wire import Iterations, RequestTimes

START = 1.7e9
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
GPU = "NVIDIA H100 80GB HBM3"
MODEL = {
    "name": "mid-moe", "layers": 24, "dim": 2048, "vocabulary": 64_000, "ffn_dim": 8192,
    "attention": {"kind": "latent", "heads": 16, "query_rank": 768, "kv_rank": 256, "nope_dim": 64, "rope_dim": 32,
                  "value_dim": 64},
    "experts": {"routed": 16, "shared": 1, "active": 4, "dim": 2048, "groups": 4, "active_groups": 2},
}  # fmt: skip


def must(response: Any) -> Any:
    """The answer of a request that has to succeed."""
    assert response.status_code < 300, response.text
    return response.json()


def fill(api: Any, *, big: int = 0) -> None:
    """Fill an empty service: two clusters, runs in every state, prices, windows. `api`: a client with get, post, put.

    `big` more runs of the first spec make the list long.
    """
    must(api.post("/v1/price-books", json=examples.PRICE_BOOK))
    must(api.put("/v1/cluster-prices", json={"cluster": "gpu/east", "effective_from": "2023-11-01",
                                             "usd_per_device_hour": 2.0}))  # fmt: skip
    for node in range(2):
        must(api.post("/v1/windows", json=windows(f"gpu-{node}")))
    for number in range(5):
        finish(api, f"train-a{number}", training_run("gpu/east"), training_facts(1 + 0.01 * number), price=2.0)
        finish(api, f"train-b{number}", training_run("gpu-west"), training_facts(1.2 + 0.013 * number), price=2.0)
    finish(api, "serve-1", serving_run("gpu/east"), serving_facts(), price=2.0)
    finish(api, "unpriced", copy.deepcopy(examples.RUN), examples.FACTS)
    unknown = {**examples.FACTS, "probe": None}
    finish(api, "unknown-peak", {**examples.RUN, "cluster": "gpu-west"}, unknown)
    finish(api, "does-not-balance", copy.deepcopy(examples.RUN), {**examples.FACTS, "allocated_seconds": 60})
    for number in range(big):
        finish(api, f"more-{number:03d}", copy.deepcopy(examples.RUN), examples.FACTS)
    hostile = copy.deepcopy(examples.RUN)
    hostile["devices"][0]["model"] = hostile["spec"]["preset"] = HOSTILE
    finish(api, "hostile", hostile, {**examples.FACTS, "provenance": {HOSTILE: HOSTILE, "sample": HOSTILE}})
    must(api.post("/v1/runs", json={**examples.RUN, "run_id": "only-created"}))
    for name, state, reason in (("under-way", "running", ""), ("failed", "failed", HOSTILE)):
        must(api.post("/v1/runs", json={**hostile, "run_id": name, "lease_seconds": 86_400}))
        must(api.post(f"/v1/runs/{name}/state", json={"state": "running"}))
        must(api.post(f"/v1/runs/{name}/state", json={"state": state, "reason": reason}))


def finish(api: Any, run_id: str, run: dict[str, Any], facts: dict[str, Any], *, price: float | None = None) -> None:
    """Make a run, end it with facts, and score it with a price."""
    must(api.post("/v1/runs", json={**run, "run_id": run_id}))
    must(api.post(f"/v1/runs/{run_id}/state", json={"state": "running"}))
    must(api.put(f"/v1/runs/{run_id}/facts", json=facts))
    if price is not None:
        must(api.post(f"/v1/runs/{run_id}/scores", json={"usd_per_device_hour": price}))


def windows(node: str) -> dict[str, Any]:
    """Four minutes of two accelerators and their host, a window every ten seconds."""
    gauges = {
        "accel_busy_ratio": 0.9, "accel_memory_bandwidth_ratio": 0.4, "accel_power_watts": 540.0,
        "accel_power_limit_watts": 700.0, "accel_memory_used_bytes": 6e10, "accel_memory_total_bytes": 8e10,
    }  # fmt: skip
    host = {"host_memory_available_bytes": 4e11, "host_memory_total_bytes": 1e12}
    series = [{"metric": name, "device": f"GPU-{g}"} for g in range(2) for name in gauges]
    series += [{"metric": "accel_energy_joules_total", "device": f"GPU-{g}"} for g in range(2)]
    series += [{"metric": name, "device": "host"} for name in host]
    names = ("series_index", "start_unix_seconds", "duration_seconds", "count", "mean", "minimum", "maximum", "delta")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for k in range(24):
        for index, one in enumerate(series):
            value = (gauges | host).get(one["metric"])
            shaken = (
                None if value is None else min(value * (1 + 0.05 * math.sin(k + index)), 1.0 if value < 1 else 1e13)
            )
            row = (index, START + 10 * k, 10, 10, shaken, shaken, shaken, 5400.0 if value is None else None)
            for column, entry in zip(columns.values(), row, strict=True):
                column.append(entry)
    devices = [
        {"id": f"GPU-{g}", "kind": "accelerator", "vendor": "NVIDIA", "model": GPU, "index": g} for g in range(2)
    ]
    absences = [{"metric": "accel_tensor_active_ratio", "device": "GPU-0", "reason": f"not permitted {HOSTILE}"}]
    return {"cluster": "gpu/east", "node": node, "epoch": "e", "sequence": 0, "devices": devices, "series": series,
            "absences": absences, **columns}  # fmt: skip


def _devices() -> list[dict[str, Any]]:
    return [
        {"id": f"GPU-{g}", "node": f"gpu-{n}", "model": GPU, "hardware": "h100-sxm"} for n in range(2) for g in range(2)
    ]


def training_run(cluster: str) -> dict[str, Any]:
    """A training on four devices: two pipeline ranks, two expert shards."""
    spec = {**examples.RUN["spec"], "preset": "mid-moe", "model": MODEL, "dtype": "bf16", "sequence_length": 4096,
            "batch_sequences": 256, "linear_precision": "fp8", "data": HOSTILE,
            "layout": {"pipeline": 2, "experts": 2, "schedule": "ZBVZeroBubble", "micro_batches": 8}}  # fmt: skip
    return {"cluster": cluster, "spec": spec, "devices": _devices()}


def training_facts(slower: float = 1.0) -> dict[str, Any]:
    """What it did: everything that a training can tell."""
    step = 8.0 * slower

    def phases(rank: int) -> list[dict[str, Any]]:
        parts = {"compute": step * (0.7 - 0.02 * rank), "exposed_communication": step * 0.1,
                 "pipeline_bubble": step * (0.12 + 0.02 * rank), "load_imbalance": step * 0.05,
                 "host_overhead": step * 0.03}  # fmt: skip
        made, at = [], 0.0
        for kind, seconds, told, steps in (
            ("startup", 30.0, {"startup": 30.0}, 0), ("step", step * 5, {k: v * 5 for k, v in parts.items()}, 5),
            ("checkpoint", 4.0, {"checkpoint": 4.0}, 0), ("recovery", 20.0, {"recovery": 20.0}, 0),
            ("step", step * 15, {k: v * 15 for k, v in parts.items()}, 15), ("drain", 1.0, {"idle": 1.0}, 0),
        ):  # fmt: skip
            made.append({"kind": kind, "start_seconds": at, "duration_seconds": seconds, "activity_seconds": told,
                         "steps": steps})  # fmt: skip
            at += seconds
        return made

    shares = {
        "data": 0.01, "forward": 0.24, "backward_input": 0.24, "backward_weight": 0.2, "optimizer": 0.05,
        "dispatch": 0.05, "combine": 0.05, "gradient_reduction": 0.03, "pipeline_wait": 0.12, "other_work": 0.01,
    }  # fmt: skip
    durations = [step * (1 + 0.02 * math.sin(k)) for k in range(20)]
    ranks = [
        {
            "device": f"GPU-{rank % 2}", "wait_seconds": 20 * step * 0.15, "peak_memory_bytes": 6 * 10**10 + rank,
            "part_seconds": {name: 20 * step * share for name, share in shares.items()},
            "busy_seconds": 20 * step * (0.86 - 0.02 * rank),
        }
        for rank in range(4)
    ]  # fmt: skip
    collectives = [
        ("all-to-all, dispatch", 320, 30.0, 4.0e11, 4.1e11, 24.0),
        ("all-to-all, combine", 320, 28.0, 8.0e11, 8.2e11, 24.0),
        ("all-reduce", 80, 9.0, 1.2e11, 1.2e11, 8.0),
        ("send and receive", 1280, 40.0, 6.0e10, 0, 0.0),
    ]
    return {
        "kind": "training", "started_unix_seconds": START, "allocated_seconds": 55.0 + step * 20, "tokens": 20_000_000,
        "devices": [{"device": f"GPU-{rank % 2}", "phases": phases(rank)} for rank in range(4)],
        "recomputed_flops": 1e15, "loss_first": 7.6, "loss_last": 3.2, "max_violation": 1.4,
        "communication": [
            {"name": name, "count": count, "seconds": seconds, "sent_bytes": int(sent), "buffer_bytes": int(buffer),
             "transfer_seconds": transfer} for name, count, seconds, sent, buffer, transfer in collectives
        ],
        "steps": {"duration_seconds": durations, "loss": [7.6 - 0.22 * k for k in range(20)],
                  "gradient_norm": [1.5 - 0.03 * k for k in range(20)],
                  "max_violation": [2.0 - 0.05 * k for k in range(20)],
                  "part_seconds": {name: [d * share for d in durations] for name, share in shares.items()}},
        "ranks": ranks,
        "expert_load": [[1000 + 300 * ((e * 7 + layer) % 5) if e else 0 for e in range(16)] for layer in range(2)],
        "schedule_seconds": 20 * step * 0.97,
        "fp8": [{"operand": "activation", "amax": 31.0, "underflow_ratio": 0.002},
                {"operand": "gradient", "amax": 0.02, "underflow_ratio": None}],
        "restarts": 1, "lost_steps": 2, "failed_checkpoints": 0, "probe": None,
        "provenance": {"torch": "2.13.0", "driver": "575.12", "backend": "nccl 2.27", "parameters": "5123456"},
    }  # fmt: skip


def serving_run(cluster: str) -> dict[str, Any]:
    """A serving on four devices with an objective."""
    spec = {"kind": "inference", "preset": "mid-moe", "model": MODEL, "dtype": "bf16",
            "requests": 40, "input_tokens": 64, "output_tokens": 64, "max_batch": 4,
            "traffic": {"arrival": "poisson", "rate": 4.0},
            "objective": {"ttft_seconds": 0.5, "tpot_seconds": 0.1}}  # fmt: skip
    return {"cluster": cluster, "spec": spec, "devices": _devices()}


def serving_facts() -> dict[str, Any]:
    """Forty requests, four at a time."""
    rows: dict[str, list[Any]] = {name: [] for name in (*list(Iterations.model_fields)[:11], "cache_used_ratio")}
    requests: dict[str, list[Any]] = {name: [] for name in list(RequestTimes.model_fields)[:6]}
    now = 6.0
    for group in range(10):
        members, begun = list(range(4 * group, 4 * group + 4)), now
        for k in range(64):
            seconds, flops, moved = (0.05 + 0.002 * group, 6e12 * (1 + group / 5), 5e10) if k else (0.4, 2e14, 6e10)
            row = (now, seconds, seconds * 0.85, seconds * 0.05, seconds * 0.1, flops, moved, 0.0 if k else flops, 0,
                   members, [1 if k else 64] * 4, min(1.0, 0.2 + k / 100))  # fmt: skip
            for column, value in zip(rows.values(), row, strict=True):
                column.append(value)
            now += seconds
        for n in members:
            entry = (begun - 0.03 * (n % 4) * group, begun + 0.4, now, 64, 16, 64)
            for column, value in zip(requests.values(), entry, strict=True):
                column.append(value)
        now += 0.3
    return {"kind": "inference", "started_unix_seconds": START, "allocated_seconds": now + 1.0, "device_count": 4,
            "startup_seconds": 6.0, "iterations": rows, "requests": requests,
            "expert_load": [[500 + 90 * (e % 4) for e in range(16)] for _ in range(2)],
            "provenance": {"torch": "2.13.0", "driver": "575.12"}}  # fmt: skip
