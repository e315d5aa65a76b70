"""The closed forms of the bubble against a replay of the orders in which torch really works."""

from __future__ import annotations

import pytest
from torch.distributed.pipelining import ScheduleDualPipeV, ScheduleZBVZeroBubble

from tokenstone.score.bubble import StageTimes, expected_bubble_ratio
from workloads.training.parallel.schedules import _order_1f1b
from workloads.training.parallel.torch_private import Action

RUNTIMES = {"ZBVZeroBubble": ScheduleZBVZeroBubble, "DualPipeV": ScheduleDualPipeV}
EVEN = StageTimes()


def order(name: str, ranks: int, micro_batches: int) -> dict[int, list[Action]]:
    """Each rank's computing actions, without the processes that a schedule wants."""
    if name == "1F1B":
        rows = {rank: _order_1f1b(rank, ranks, micro_batches) for rank in range(ranks)}
    else:
        schedule = RUNTIMES[name].__new__(RUNTIMES[name])
        schedule.pp_group_size, schedule._n_microbatches, schedule.n_local_stages = ranks, micro_batches, 2
        schedule.num_stages = schedule._num_stages = 2 * ranks
        rows = {rank: schedule._calculate_single_rank_operations(rank) for rank in range(ranks)}
    return {rank: [action for action in row if action is not None] for rank, row in rows.items()}


def replayed_ratio(rows: dict[int, list[Action]], times: StageTimes, *, overlap: bool) -> float:
    """The bubble of the rank that waits most if messages took no time. A pair begins and ends as one."""
    seconds = {"F": times.forward, "B": times.backward, "I": times.backward_input, "W": times.backward_weight}
    last = max(part.stage_index for row in rows.values() for action in row for part in action.sub_actions or [action])
    done: dict[tuple[str, int, int], float] = {}

    def needs(part: Action) -> list[tuple[str, int, int]]:
        kind, stage, index = part.computation_type.value, part.stage_index, part.microbatch_index
        if kind == "F":
            return [("F", stage - 1, index)] if stage else []
        if kind == "W":
            return [("I", stage, index)]
        return [("F", stage, index) if stage == last else ("I", stage + 1, index)]

    clock, busy, left = (
        dict.fromkeys(rows, 0.0),
        dict.fromkeys(rows, 0.0),
        {rank: list(row) for rank, row in rows.items()},
    )
    while any(left.values()):
        rank = next(
            rank
            for rank, row in left.items()
            if row and all(need in done for part in row[0].sub_actions or [row[0]] for need in needs(part))
        )
        action = left[rank].pop(0)
        parts = action.sub_actions or [action]
        begin = max([clock[rank], *(done[need] for part in parts for need in needs(part))])
        takes = [seconds[part.computation_type.value] for part in parts]
        took = max(takes) if overlap else sum(takes)
        clock[rank], busy[rank] = begin + took, busy[rank] + took
        for part in parts:
            kind = part.computation_type.value.replace("B", "I")  # the whole holds what waits for I
            done[kind, part.stage_index, part.microbatch_index] = clock[rank]
    return 1 - min(busy.values()) / max(clock.values())


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize(
    ("name", "overlap", "times", "within"),
    [
        ("1F1B", False, EVEN, 1e-9),
        ("1F1B", False, StageTimes(1, 1.3, 0.8), 1e-9),
        ("ZBVZeroBubble", False, EVEN, 1e-9),
        ("ZBVZeroBubble", False, StageTimes(1, 1.2, 0.8), 1e-9),
        ("ZBVZeroBubble", False, StageTimes(1, 1.5, 0.7), 1e-9),
        ("ZBVZeroBubble", False, StageTimes(1, 0.9, 0.9), 0.2),
        ("DualPipeV", True, EVEN, 1e-9),
        ("DualPipeV", True, StageTimes(1, 1, 0.5), 1e-9),
        ("DualPipeV", True, StageTimes(1, 1.2, 0.8), 0.2),
        ("DualPipeV", False, EVEN, 1e-9),
        ("DualPipeV", False, StageTimes(1, 1.2, 0.8), 0.1),
    ],
)
def test_closed_forms_are_what_the_orders_take(ranks, name, overlap, times, within) -> None:
    for micro_batches in (2 * ranks, 4 * ranks):
        replayed = replayed_ratio(order(name, ranks, micro_batches), times, overlap=overlap)
        expected = expected_bubble_ratio(name, ranks, micro_batches, times, overlap=overlap)
        assert expected == pytest.approx(replayed, rel=within)
