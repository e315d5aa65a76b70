from __future__ import annotations

import pytest

from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.model import CPU_TINY
from workloads.moe.model import MoeModel
from workloads.training.parallel.layout import Layout
from workloads.training.parallel.schedules import (
    SCHEDULES,
    _order_1f1b,
    check_schedule,
    check_stages,
    schedule_kind,
)
from workloads.training.parallel.stages import cut, layers_of_stages


@pytest.mark.parametrize(
    ("name", "sizes", "says"),
    [
        ("DualPipeV", {"ranks": 2, "micro_batches": 3, "batch_sequences": 6, "layers": 4}, "at least 4 micro-batches"),
        ("DualPipeV", {"ranks": 2, "micro_batches": 4, "batch_sequences": 4, "layers": 3}, "at most 3 stages"),
        ("ZBVZeroBubble", {"ranks": 4, "micro_batches": 4, "batch_sequences": 4, "layers": 7}, "8 stages"),
        ("Interleaved1F1B", {"ranks": 2, "micro_batches": 3, "batch_sequences": 3, "layers": 4}, "multiple of 2"),
        ("1F1B", {"ranks": 2, "micro_batches": 3, "batch_sequences": 4, "layers": 4}, "multiple of 3 sequences"),
        ("1F1B", {"ranks": 2, "micro_batches": 0, "batch_sequences": 4, "layers": 4}, "1 or more"),
    ],
)
def test_impossible_sizes_are_refused_with_the_way_out(name: str, sizes: dict[str, int], says: str) -> None:
    with pytest.raises(InvalidValue, match=says) as caught:
        check_schedule(name, **sizes)
    assert name in caught.value.where


@pytest.mark.parametrize("name", SCHEDULES)
def test_possible_sizes_pass(name: str) -> None:
    check_schedule(name, ranks=2, micro_batches=4, batch_sequences=8, layers=4)


def test_an_unknown_schedule_names_the_known() -> None:
    with pytest.raises(UnknownName, match="DualPipeV"):
        schedule_kind("dualpipe")


@pytest.mark.parametrize("name", ["ZBVZeroBubble", "DualPipeV"])
@pytest.mark.parametrize("stages", [[1], [1, 3], [2, 1], [1, 2, 3]])
def test_v_schedules_hold_two_stages_that_form_a_v(name: str, stages: list[int]) -> None:
    check_stages(name, [1, 2], rank=1, ranks=2)
    with pytest.raises(InvalidValue, match=r"exactly \[1, 2\]"):
        check_stages(name, stages, rank=1, ranks=2)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_stage_is_on_one_rank(name: str, ranks: int) -> None:
    kind = schedule_kind(name)
    held = sorted(stage for rank in range(ranks) for stage in kind.stages_of(rank, ranks))
    assert held == list(range(ranks * kind.stages_per_rank))


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 8])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_1f1b_keeps_at_most_as_many_activations_as_ranks_follow(ranks: int, micro_batches: int) -> None:
    for rank in range(ranks):
        alive = most = 0
        seen: dict[str, list[int | None]] = {"F": [], "B": []}
        for action in _order_1f1b(rank, ranks, micro_batches):
            assert action is not None
            seen[action.computation_type.value].append(action.microbatch_index)
            alive += 1 if action.computation_type.value == "F" else -1
            most = max(most, alive)
        assert seen == {"F": list(range(micro_batches)), "B": list(range(micro_batches))}
        assert most <= min(ranks - rank, micro_batches)


def test_layers_are_shared_out_in_order() -> None:
    assert layers_of_stages(5, 2) == [range(3), range(3, 5)]
    assert layers_of_stages(4, 4) == [range(1), range(1, 2), range(2, 3), range(3, 4)]
    with pytest.raises(InvalidValue, match="2 layers do not fill 3"):
        layers_of_stages(2, 3)


def test_stages_together_are_the_model_by_name() -> None:
    model = MoeModel(CPU_TINY)
    stages = [cut(model, index, 2) for index in range(2)]
    names = [name for stage in stages for name in stage.state_dict()]
    assert sorted(names) == sorted(model.state_dict())


@pytest.mark.parametrize(
    ("layout", "world_size", "says"),
    [
        (Layout(pipeline=2, experts=2), 8, "4 ranks, but 8"),
        (Layout(experts=3), 3, "16 experts do not divide among 3"),
    ],
)
def test_an_impossible_layout_is_refused(layout: Layout, world_size: int, says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        layout.check(CPU_TINY, world_size)


def test_a_layout_has_no_empty_side() -> None:
    with pytest.raises(InvalidValue, match="1 or more"):
        Layout(pipeline=0)
