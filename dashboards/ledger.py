"""The ledger's categories: their colours, the same on every board, and which of them are work in counted steps."""

from __future__ import annotations

COLORS: dict[str, str] = {
    "ideal": "dark-green",
    "compute": "green",
    "recompute": "light-green",
    "kernel_inefficiency": "yellow",
    "exposed_communication": "orange",
    "pipeline_bubble": "dark-orange",
    "load_imbalance": "red",
    "input_stall": "dark-red",
    "checkpoint": "purple",
    "host_overhead": "blue",
    "startup": "light-blue",
    "recovery": "dark-purple",
    "idle": "#808080",
    "queue_idle": "#808080",
    "preemption": "light-purple",
    "slo_miss": "dark-red",
}
OUTSIDE_STEPS = "startup|recovery|checkpoint|idle"
"""Training: where no counted step ran."""
