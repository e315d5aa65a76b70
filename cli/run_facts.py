"""What is known of a command without its help: how long its devices were held, and how busy they were."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from cli.bracket import Outcome
from tokenstone import hardware as catalogue
from tokenstone.score.panel import weighted_mean
from tokenstone.wire import Device, DevicePhases, Phase, RunDevice, TrainingFacts, WindowRow

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")


def devices_of(
    node: str, known: Sequence[Device], environment: Mapping[str, str], *, hardware: str | None
) -> list[RunDevice]:
    """The accelerators of this node that the command may see, or the host where there is none.

    What it may see is what its environment says (CUDA_VISIBLE_DEVICES and its kin), else all of them.
    """
    accelerators = sorted((device for device in known if device.kind == "accelerator"), key=lambda d: d.index)
    for name in _VISIBLE:
        if name in environment:
            wanted = [entry.strip() for entry in environment[name].split(",") if entry.strip()]
            accelerators = [
                device
                for device in accelerators
                if any(entry == str(device.index) or device.id.startswith(entry) for entry in wanted)
            ]
    if not accelerators:
        return [RunDevice(id="host", node=node, model="the host's processors", hardware=hardware)]
    return [
        RunDevice(id=d.id, node=node, model=d.model, hardware=hardware or catalogue.identify(d.model))
        for d in accelerators
    ]


def bracketed_facts(
    outcome: Outcome, devices: Sequence[RunDevice], windows: Sequence[WindowRow], *, tokens: int
) -> TrainingFacts:
    """The ledger from outside: a device that its driver calls busy computes, or communicates; else it is idle."""
    phases, grounds = [], []
    for device in devices:
        share, ground = _busy(device, outcome, windows)
        grounds.append(ground)
        busy = share * outcome.wall_seconds
        seconds = {"compute": busy, "idle": outcome.wall_seconds - busy}
        whole = Phase.model_validate(
            {
                "kind": "step",
                "start_seconds": 0.0,
                "duration_seconds": outcome.wall_seconds,
                "activity_seconds": seconds,
            }
        )
        phases.append(DevicePhases(device=device.id, phases=[whole]))
    return TrainingFacts(
        started_unix_seconds=outcome.started_unix_seconds,
        allocated_seconds=max(outcome.wall_seconds, 1e-9),
        devices=phases,
        tokens=tokens,
        provenance={"recorded": "from outside (tokenstone run)", "busy": "; ".join(dict.fromkeys(grounds))[:500]},
    )


def _busy(device: RunDevice, outcome: Outcome, windows: Sequence[WindowRow]) -> tuple[float, str]:
    if device.id == "host":
        cores = len(os.sched_getaffinity(0))
        share = outcome.cpu_seconds / (cores * outcome.wall_seconds) if outcome.wall_seconds else 0.0
        return min(1.0, share), f"processor time of the command over {cores} processors"
    mean = weighted_mean(
        (window.mean, window.duration_seconds)
        for window in windows
        if window.metric == "accel_busy_ratio" and window.device == device.id and window.mean is not None
    )
    if mean is None:
        return 1.0, "no utilization was measured: all of the time counts as computation"
    return min(1.0, mean), "utilization by the driver: a kernel ran, be it computation or communication"


def joules(devices: Sequence[RunDevice], windows: Sequence[WindowRow]) -> float | None:
    """Energy of the devices by their own counters; None unless each of them reported it."""
    by_device: dict[str, float] = {}
    for window in windows:
        if window.metric == "accel_energy_joules_total" and window.delta is not None:
            by_device[window.device] = by_device.get(window.device, 0.0) + window.delta
    if not all(device.id in by_device for device in devices):
        return None
    return sum(by_device[device.id] for device in devices)
