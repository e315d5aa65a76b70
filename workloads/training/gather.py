"""From what every rank has counted to the facts of the run, which rank 0 writes."""

from __future__ import annotations

import platform
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenstone.wire import CollectiveTotal, DevicePhases, OperandFigures, Part, RankFigures, StepColumns
from workloads.device import Device
from workloads.recorder import TorchRecorder
from workloads.training.parallel.communication import collective
from workloads.training.precision.statistics import Figures, Operand, Statistics
from workloads.training.tally import PARTS, StepFigures, Tally, Waited, largest_violation

T = TypeVar("T")


class Gathered(NamedTuple):
    """What all ranks of a training did in the counted steps."""

    devices: list[DevicePhases]
    held_seconds: float
    """The longest wall time for which a device was held."""
    ranks: list[RankFigures]
    steps: StepColumns | None
    communication: list[CollectiveTotal]
    expert_load: list[list[int]]
    max_violation: float
    schedule_seconds: float
    recomputed_flops: float
    fp8: list[OperandFigures]


class _Rank(NamedTuple):
    phases: DevicePhases
    held_seconds: float
    figures: RankFigures
    collectives: dict[str, Waited]
    loads: dict[int, list[int]]
    recomputed_flops: float
    fp8: dict[Operand, Figures]


def gather(
    tally: Tally, recorder: TorchRecorder, device: Device, layers: list[int], fp8: dict[Operand, Figures]
) -> Gathered | None:
    """Bring everything to rank 0; None on the others. `layers`: that of each row of the tally's load."""
    counted = tally.counted()
    columns, makespans = _columns(counted, device.torch)
    rows = [] if tally.load_LE is None or not layers else tally.load_LE.tolist()
    mine = _Rank(
        recorder.finish(),
        recorder.elapsed_seconds(),
        _rank_figures(counted, device),
        _collectives(counted),
        dict(zip(layers, rows, strict=True)) if rows else {},
        sum(figures.recomputed_flops for figures in counted),
        fp8,
    )
    ranks = gathered(mine)
    if ranks is None:
        return None
    loads = {layer: load for rank in ranks for layer, load in rank.loads.items()}
    expert_load = [loads[layer] for layer in sorted(loads)]
    return Gathered(
        devices=[rank.phases for rank in ranks],
        held_seconds=max(rank.held_seconds for rank in ranks),
        ranks=[rank.figures for rank in ranks],
        steps=columns,
        communication=_communication([rank.collectives for rank in ranks]),
        expert_load=expert_load,
        max_violation=max((largest_violation(torch.tensor([load])) for load in expert_load), default=0.0),
        schedule_seconds=makespans,
        recomputed_flops=sum(rank.recomputed_flops for rank in ranks),
        fp8=_operands([rank.fp8 for rank in ranks]),
    )


def gathered(mine: T) -> list[T] | None:
    """Every rank's object, in order, on rank 0; None on the others."""
    if not dist.is_initialized():
        return [mine]
    everyone: list[T] | None = [mine] * dist.get_world_size() if dist.get_rank() == 0 else None
    with collective("gathering the facts"):
        dist.gather_object(mine, everyone)
    return everyone


def _columns(counted: list[StepFigures], device: torch.device) -> tuple[StepColumns | None, float]:
    """The steps as columns, means over the ranks; and the seconds of all schedules, each as long as its longest rank.

    No columns where ranks know of different steps: one has lost its journal.
    """
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    sizes = torch.tensor([len(counted), -len(counted)], device=device)
    _reduce(sizes, "MIN")
    if not counted or int(sizes[0]) != -int(sizes[1]):
        return None, 0.0
    own = [[f.duration_seconds, *(f.parts.get(part, 0.0) for part in PARTS)] for f in counted]
    means = torch.tensor(own, dtype=torch.float64, device=device)
    _reduce(means, "SUM")
    longest = torch.tensor([[f.schedule_seconds, f.max_violation] for f in counted], dtype=torch.float64, device=device)
    _reduce(longest, "MAX")
    durations, *parts = (means / ranks).T.tolist()
    makespans, violations = longest.T.tolist()
    columns = StepColumns(
        duration_seconds=durations,
        loss=[f.loss for f in counted],
        gradient_norm=[f.gradient_norm for f in counted],
        max_violation=violations,
        part_seconds={part: column for part, column in zip(PARTS, parts, strict=True) if any(column)},
    )
    return columns, sum(makespans)


def _reduce(x: Tensor, how: str) -> None:
    if dist.is_initialized():
        with collective("reducing the facts"):
            dist.all_reduce(x, op=getattr(dist.ReduceOp, how))


def _rank_figures(counted: list[StepFigures], device: Device) -> RankFigures:
    parts: dict[Part, float] = {}
    for figures in counted:
        for part, seconds in figures.parts.items():
            parts[part] = parts.get(part, 0.0) + seconds
    return RankFigures(
        device=device.id,
        node=platform.node() or None,
        part_seconds=parts,
        wait_seconds=sum(waited.seconds for f in counted for waited in f.collectives.values()),
        busy_seconds=sum(f.busy_seconds for f in counted),
        peak_memory_bytes=device.peak_memory_bytes(),
    )


def _collectives(counted: list[StepFigures]) -> dict[str, Waited]:
    sums: dict[str, Waited] = {}
    for figures in counted:
        for name, waited in figures.collectives.items():
            sums[name] = sums.get(name, Waited()) + waited
    return sums


def _communication(ranks: list[dict[str, Waited]]) -> list[CollectiveTotal]:
    """Waits and bytes by kind, summed over the ranks."""
    sums: dict[str, Waited] = {}
    for rank in ranks:
        for name, waited in rank.items():
            sums[name] = sums.get(name, Waited()) + waited
    return [
        CollectiveTotal(
            name=name,
            count=waited.count,
            seconds=waited.seconds,
            sent_bytes=waited.sent_bytes,
            buffer_bytes=waited.buffer_bytes,
            transfer_seconds=waited.transfer_seconds,
        )
        for name, waited in sorted(sums.items())
    ]


def _operands(ranks: list[dict[Operand, Figures]]) -> list[OperandFigures]:
    """The largest amax, and the mean of the shares that were lost."""
    kinds = sorted({kind for rank in ranks for kind in rank})
    merged = []
    for kind in kinds:
        figures = [rank[kind] for rank in ranks if kind in rank]
        lost = [f.underflow_ratio for f in figures if f.underflow_ratio is not None]
        merged.append(
            OperandFigures(
                operand=kind,
                amax=max(f.amax for f in figures),
                underflow_ratio=sum(lost) / len(lost) if lost else None,
            )
        )
    return merged


def statistics_of(module: nn.Module) -> Statistics | None:
    """The counter that the FP8 modules of `module` share; None where there are none."""
    for part in module.modules():
        for holder in (part, getattr(part, "multiply", None)):
            found = getattr(holder, "statistics", None)
            if isinstance(found, Statistics):
                return found
    return None
