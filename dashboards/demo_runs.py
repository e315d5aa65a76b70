"""Trainings of the demonstration's H100 node: their facts are made up, their telemetry is what the agent played.

They stand on the cluster `recorded` and say so in their provenance. Each is a little different, as runs are.
"""

from __future__ import annotations

import random
from typing import Any

from tokenstone import hardware
from tokenstone.flops import AttentionCount, training_flops
from tokenstone.model import MOE_16B
from tokenstone.run import TrainingLayout, TrainingSpec
from tokenstone.wire import RunCreate, RunDevice, TrainingFacts

SECONDS = 8.0
STEPS = 20
_SHARES = {
    "compute": 0.70, "exposed_communication": 0.11,
    "pipeline_bubble": 0.06, "load_imbalance": 0.05, "input_stall": 0.02,
    "host_overhead": 0.06,
}  # fmt: skip
"""Of a step's time."""
_PARTS = {
    "forward": 0.24,
    "backward": 0.46,
    "dispatch": 0.09,
    "combine": 0.07,
    "optimizer": 0.05,
    "pipeline_wait": 0.06,
}
_COLLECTIVES = (("all_to_all", 0.16), ("all_reduce", 0.05), ("send_recv", 0.07))
_SPEC = TrainingSpec(
    preset="moe-16b", model=MOE_16B, dtype="bf16", sequence_length=4096, batch_sequences=96, steps=STEPS,
    warm_up_steps=2,
    learning_rate=3e-4, bias_update_rate=1e-3, layout=TrainingLayout(pipeline=2, experts=3, micro_batches=8),
)  # fmt: skip


def make(devices: list[str], number: int, *, now: float) -> tuple[RunCreate, TrainingFacts]:
    """A run that has just ended on those devices of h100-node, and what it did."""
    luck = random.Random(number)  # noqa: S311  no secret
    model, peak = "NVIDIA H100 80GB HBM3", hardware.get("h100-sxm").peak("bf16").value
    held = [RunDevice(id=name, node="h100-node", model=model, hardware="h100-sxm") for name in devices]
    run = RunCreate(run_id=f"simulated-{number:03}", cluster="recorded", spec=_SPEC, devices=held)
    startup, checkpoint = 0.08 * SECONDS * luck.uniform(0.8, 1.3), 0.03 * SECONDS
    step = (SECONDS - startup - checkpoint) / STEPS
    worse = luck.uniform(0.85, 1.25)
    shares = {name: share * (worse if name == "exposed_communication" else 1.0) for name, share in _SHARES.items()}
    shares["compute"] += 1 - sum(shares.values())
    phases: list[dict[str, Any]] = [_phase("startup", 0.0, startup, {"startup": 1.0})]
    for i in range(STEPS):
        phases.append(_phase("step", startup + i * step, step, shares) | {"steps": 1})
    phases.append(_phase("checkpoint", startup + STEPS * step, checkpoint, {"checkpoint": 1.0}))
    flops = training_flops(_SPEC.model, _SPEC.sequence_length, AttentionCount.CAUSAL).flops_per_token
    tokens = int(0.36 / worse * SECONDS * len(devices) * peak / flops)
    facts = {
        "started_unix_seconds": now - SECONDS, "allocated_seconds": SECONDS, "tokens": tokens,
        "devices": [{"device": name, "phases": phases} for name in devices],
        "communication": [_collective(*part) for part in _COLLECTIVES],
        "loss_first": 2.31, "loss_last": 2.30, "max_violation": luck.uniform(0.3, 0.8),
        "steps": {
            "duration_seconds": [step] * STEPS, "loss": [2.3] * STEPS, "gradient_norm": [1.1] * STEPS,
            "max_violation": [luck.uniform(0.6, 1.3) for _ in range(STEPS)],
            "part_seconds": {name: [share * step] * STEPS for name, share in _PARTS.items()},
        },
        "expert_load": [[luck.randint(800, 1200) for _ in range(64)] for _ in range(4)],
        "provenance": {"facts": "simulated by the demonstration", "telemetry": "a recorded machine, played back"},
    }  # fmt: skip
    return run, TrainingFacts.model_validate(facts)


def _phase(kind: str, start: float, length: float, shares: dict[str, float]) -> dict[str, Any]:
    seconds = {name: share * length for name, share in shares.items()}
    return {"kind": kind, "start_seconds": start, "duration_seconds": length, "activity_seconds": seconds}


def _collective(name: str, share: float) -> dict[str, Any]:
    seconds = share * SECONDS * 6
    moved = int(6 * 4e10 * share * SECONDS)
    return {"name": name, "count": 6 * 8 * STEPS, "seconds": seconds, "sent_bytes": moved, "buffer_bytes": moved,
            "transfer_seconds": 0.8 * seconds}  # fmt: skip
