"""The closed forms of the bubble against what is known of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstone.score.bubble import StageTimes, expected_bubble_ratio

RANKS = st.integers(1, 64)
MORE = st.integers(0, 200)
SECONDS = st.floats(1e-4, 10)


@given(RANKS, MORE)
def test_1f1b_has_p_minus_1_of_m_plus_p_minus_1(ranks, more):
    micro_batches = 2 * ranks + more
    expected = (ranks - 1) / (micro_batches + ranks - 1)
    assert expected_bubble_ratio("1F1B", ranks, micro_batches) == pytest.approx(expected)
    halved = (ranks - 1) / (2 * micro_batches + ranks - 1)
    assert expected_bubble_ratio("Interleaved1F1B", ranks, micro_batches) == pytest.approx(halved)


@given(RANKS, MORE, SECONDS)
def test_zero_bubble_has_none_where_all_parts_take_as_long(ranks, more, seconds):
    even = StageTimes(seconds, seconds, seconds)
    assert expected_bubble_ratio("ZBVZeroBubble", ranks, 2 * ranks + more, even) == pytest.approx(0, abs=1e-9)


@given(RANKS, MORE, SECONDS, SECONDS, SECONDS)
def test_dualpipev_is_the_published_formula_and_overlap_only_helps(ranks, more, forward, inward, weight):
    times, micro_batches = StageTimes(forward, inward, weight), 2 * ranks + more
    ratios = [
        expected_bubble_ratio("DualPipeV", ranks, micro_batches, times, overlap=overlap) for overlap in (True, False)
    ]
    assert 0 <= ratios[0] <= ratios[1] < 1
    bubble = max(0.0, (ranks - 1) * (forward + 2 * (inward + weight) - 3 * weight))
    assert ratios[1] == pytest.approx(bubble / (bubble + 2 * micro_batches * (forward + inward + weight)))


def test_one_rank_never_waits():
    for schedule in ("1F1B", "Interleaved1F1B", "ZBVZeroBubble", "DualPipeV"):
        assert expected_bubble_ratio(schedule, 1, 4, StageTimes(1, 2, 3)) == 0
