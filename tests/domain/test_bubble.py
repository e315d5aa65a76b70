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


@given(st.integers(2, 64), MORE)
def test_zero_bubble_keeps_a_third_of_1f1b_where_all_parts_take_as_long(ranks, more):
    micro_batches = 2 * ranks + more
    zero = expected_bubble_ratio("ZBVZeroBubble", ranks, micro_batches)
    plain = expected_bubble_ratio("Interleaved1F1B", ranks, micro_batches)
    assert zero / (1 - zero) == pytest.approx(plain / (1 - plain) / 3)


@given(RANKS, MORE, SECONDS, SECONDS, SECONDS)
def test_dualpipev_is_the_published_formula(ranks, more, forward, inward, weight):
    times, micro_batches = StageTimes(forward, inward, weight), 2 * ranks + more
    backward = inward + weight
    for overlap, pair in ((False, forward + backward), (True, max(forward, backward))):
        bubble = max(0.0, (ranks - 1) * (pair + backward - 3 * weight))
        work = 2 * micro_batches * (forward + backward)
        work -= overlap * (2 * (micro_batches - ranks) - 1) * min(forward, backward)
        ratio = expected_bubble_ratio("DualPipeV", ranks, micro_batches, times, overlap=overlap)
        assert ratio == pytest.approx(bubble / (bubble + work))


def test_one_rank_never_waits():
    for schedule in ("1F1B", "Interleaved1F1B", "ZBVZeroBubble", "DualPipeV"):
        assert expected_bubble_ratio(schedule, 1, 4, StageTimes(1, 2, 3)) == 0
