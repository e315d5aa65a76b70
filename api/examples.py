"""Examples of the main request bodies, for the description of the API. A test sends them."""

from __future__ import annotations

from typing import Any

from fastapi.openapi.models import Example

_MODEL = {
    "name": "cpu-tiny", "layers": 2, "dim": 128, "vocabulary": 512, "ffn_dim": 256,
    "attention": {"kind": "latent", "heads": 4, "query_rank": 48, "kv_rank": 32, "nope_dim": 16, "rope_dim": 8,
                  "value_dim": 16},
    "experts": {"routed": 16, "shared": 1, "active": 2, "dim": 64, "groups": 4, "active_groups": 2},
}  # fmt: skip

BATCH: dict[str, Any] = {
    "schema_version": 1, "cluster": "default", "node": "node-1", "epoch": "e1", "sequence": 0,
    "devices": [{"id": "GPU-0", "kind": "accelerator", "vendor": "NVIDIA", "model": "NVIDIA H100 80GB HBM3"}],
    "series": [
        {"metric": "accel_busy_ratio", "device": "GPU-0"},
        {"metric": "network_receive_bytes_total", "device": "host", "labels": {"interface": "eth0"}},
    ],
    "series_index": [0, 1], "start_unix_seconds": [1.7e9, 1.7e9], "duration_seconds": [10, 10], "count": [10, 10],
    "mean": [0.97, None], "minimum": [0.9, None], "maximum": [1.0, None], "delta": [None, 1.25e9],
}  # fmt: skip

RUN: dict[str, Any] = {
    "run_id": "train-1",
    "cluster": "default",
    "spec": {
        "kind": "training", "preset": "cpu-tiny", "model": _MODEL, "dtype": "fp32", "sequence_length": 128,
        "batch_sequences": 8, "steps": 20, "warm_up_steps": 2, "learning_rate": 0.003, "bias_update_rate": 0.001,
    },
    "devices": [{"id": "cpu", "node": "node-1", "model": "a processor"}],
    "lease_seconds": 60,
}  # fmt: skip

CHANGE: dict[str, Any] = {"state": "running"}

FACTS: dict[str, Any] = {
    "kind": "training", "started_unix_seconds": 1.7e9, "allocated_seconds": 100, "tokens": 20480,
    "devices": [{"device": "cpu", "phases": [
        {"kind": "startup", "start_seconds": 0, "duration_seconds": 20, "activity_seconds": {"startup": 20}},
        {"kind": "step", "start_seconds": 20, "duration_seconds": 80, "steps": 20,
         "activity_seconds": {"compute": 70, "input_stall": 6, "host_overhead": 4}},
    ]}],
    "probe": {"device_id": "cpu", "device_name": "a processor", "device_type": "cpu", "dtype": "fp32",
              "gemm_flops_per_second": 2e9,
              "memory_bytes_per_second": 2e10, "repetitions": 10, "gemm_spread_ratio": 0.02,
              "memory_spread_ratio": 0.03},
}  # fmt: skip

PRICE: dict[str, Any] = {"usd_per_device_hour": 2.0}

PRICE_BOOK: dict[str, Any] = {
    "name": "ours", "version": "2026-11",
    "rows": [{"key": "h100", "hardware": "h100-sxm", "basis": "rental", "usd_per_device_hour": 2.1,
              "effective_from": "2026-01-01", "source": "our contract"}],
}  # fmt: skip


CLUSTER_PRICE: dict[str, Any] = {"cluster": "default", "effective_from": "2023-11-01", "usd_per_device_hour": 2.0}

KEY: dict[str, Any] = {"name": "agents of lab-1", "scopes": ["ingest"], "cluster": "lab-1"}


def one(value: dict[str, Any], summary: str) -> dict[str, Example]:
    """One example, for `openapi_examples=`."""
    return {"example": {"summary": summary, "value": value}}
