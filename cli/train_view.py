"""How a training looks in a terminal beside its bill: its steps, its ranks, its communication, its experts."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tokenstone.evaluate import Evaluation
from tokenstone.training_detail import TrainingDetail

MOST_RANKS = 8
"""With more of them, only the extremes are shown."""


def print_training(evaluation: Evaluation, console: Console) -> None:
    """Print what was measured of a training's steps; what was not measured has no line."""
    detail = evaluation.training
    if detail is None:
        return
    console.print()
    lines = [_step(detail), _ranks(detail), _bubble(detail), _experts(evaluation, detail), _numbers(detail)]
    for line in [*lines, *_fp8(detail), _deaths(detail)]:
        if line:
            console.print(line, highlight=False)
    if detail.collectives:
        console.print()
        console.print(_collectives(detail))


def _step(detail: TrainingDetail) -> str:
    if not detail.step_seconds:
        return ""
    parts = sorted(detail.part_seconds.items(), key=lambda part: -part[1])
    shown = [f"{name.replace('_', ' ')} {_ms(seconds)}" for name, seconds in parts if seconds >= 1e-5]
    return f"[bold]Step[/] {_ms(detail.step_seconds)}: {', '.join(shown)}"


def _ranks(detail: TrainingDetail) -> str:
    """Each rank's waits as a share of its counted steps, and the memory of the fullest."""
    peak = "" if detail.peak_memory_bytes is None else f"peak memory {detail.peak_memory_bytes / 1e9:,.2f} GB"
    if len(detail.ranks) < 2:
        return f"[bold]Memory[/] {peak}" if peak else ""
    waits = [(rank.wait_seconds, rank.device) for rank in detail.ranks]
    if len(waits) > MOST_RANKS:
        waits = [min(waits), max(waits)]
    shown = ", ".join(f"{device} {seconds:,.2f} s" for seconds, device in waits)
    return f"[bold]Ranks[/] waited {shown}; {peak} on the fullest"


def _bubble(detail: TrainingDetail) -> str:
    if detail.bubble_ratio is None:
        return ""
    expected = (
        "" if detail.expected_bubble_ratio is None else f", {detail.expected_bubble_ratio:.1%} by its closed form"
    )
    return f"[bold]Pipeline bubble[/] {detail.bubble_ratio:.1%} of the schedule{expected}"


def _experts(evaluation: Evaluation, detail: TrainingDetail) -> str:
    if detail.dead_experts is None or evaluation.max_violation is None:
        return ""
    batch = "" if detail.max_violation_batch is None else f", {detail.max_violation_batch:.2f} by batch"
    return f"[bold]Experts[/] MaxVio {evaluation.max_violation:.2f} of all steps{batch}; {detail.dead_experts} dead"


def _numbers(detail: TrainingDetail) -> str:
    norm = detail.gradient_norm_mean
    shown = [] if norm is None else [f"mean norm {norm:.3g}, last {detail.gradient_norm_last or 0:.3g}"]
    if detail.recomputed_flops:
        shown.append(f"{detail.recomputed_flops / 1e12:,.3g} TFLOP computed again")
    return f"[bold]Gradients[/] {'; '.join(shown)}" if shown else ""


def _fp8(detail: TrainingDetail) -> list[str]:
    rows = []
    for operand in detail.fp8:
        lost = "" if operand.underflow_ratio is None else f", {operand.underflow_ratio:.2%} became zero"
        rows.append(f"{operand.operand} up to {operand.amax:.3g}{lost}")
    return [f"[bold]FP8[/] {'; '.join(rows)}"] if rows else []


def _deaths(detail: TrainingDetail) -> str:
    if not (detail.restarts or detail.failed_checkpoints):
        return ""
    return (
        f"[bold]Recovery[/] {detail.restarts} restarts, {detail.lost_steps} steps lost, "
        f"{detail.failed_checkpoints} checkpoints failed"
    )


def _collectives(detail: TrainingDetail) -> Table:
    table = Table(title="Communication", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    for name in ("calls a rank", "waited", "sent", "algbw"):
        table.add_column(name, justify="right")
    for each in sorted(detail.collectives, key=lambda collective: -collective.wait_seconds):
        rate = each.algorithm_bytes_per_second
        table.add_row(
            each.name.replace("_", " "), f"{each.count:,}", f"{each.wait_seconds:,.3f} s",
            f"{each.sent_bytes / 1e6:,.1f} MB", "" if rate is None else f"{rate / 1e9:,.2f} GB/s",
        )  # fmt: skip
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms"
