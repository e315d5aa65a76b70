"""Run against run: ratios with honest intervals."""

import math
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tokenstone.compare import compare_runs, holm
from tokenstone.errors import InvalidValue

values = st.integers(1, 10**9).map(lambda thousandths: thousandths / 1000)
samples = st.lists(values, min_size=4, max_size=12)
probabilities = st.lists(st.floats(0, 1), max_size=8)


@given(samples)
def test_runs_against_themselves_show_no_difference(a):
    found = compare_runs(a, a)
    assert found.ratio == pytest.approx(1)
    assert found.low <= 1 <= found.high
    assert found.p_value == pytest.approx(1)


@given(samples, samples, st.floats(1e-3, 1e3))
def test_the_ratio_scales_with_b(a, b, k):
    plain, scaled = compare_runs(a, b), compare_runs(a, [k * value for value in b])
    assert scaled.ratio == pytest.approx(k * plain.ratio)
    assert scaled.high / scaled.low == pytest.approx(plain.high / plain.low)


@given(samples, samples)
def test_swapping_the_sides_inverts_the_answer(a, b):
    there, back = compare_runs(a, b), compare_runs(b, a)
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert back.low == pytest.approx(1 / there.high)
    assert back.high == pytest.approx(1 / there.low)
    assert back.p_value == pytest.approx(there.p_value)


@given(st.lists(values, min_size=4, max_size=12, unique=True), st.lists(values, min_size=4, max_size=7, unique=True))
def test_it_is_welch_on_logarithms_as_scipy_has_it(a, b):
    found = compare_runs(a, b, confidence=0.9)
    welch = stats.ttest_ind([math.log(v) for v in b], [math.log(v) for v in a], equal_var=False)
    interval = welch.confidence_interval(0.9)
    assert found.p_value == pytest.approx(welch.pvalue, rel=1e-6, abs=1e-12)
    assert math.log(found.low) == pytest.approx(interval.low, rel=1e-6, abs=1e-9)
    assert math.log(found.high) == pytest.approx(interval.high, rel=1e-6, abs=1e-9)


def test_sides_of_different_spread_are_not_pooled():
    steady, wild = [100, 101, 99, 100, 100, 101, 99, 100], [80, 120, 100, 150]
    pooled = stats.ttest_ind([math.log(v) for v in wild], [math.log(v) for v in steady]).pvalue
    assert compare_runs(steady, wild).p_value > 1.5 * pooled


@pytest.mark.parametrize(
    ("runs", "has_interval", "has_p"), [(1, False, False), (2, True, False), (3, True, False), (4, True, True)]
)
def test_few_runs_are_called_insufficient(runs, has_interval, has_p):
    """Even where they could not differ more clearly."""
    found = compare_runs([100, 101, 102, 103][:runs], [200, 201, 202, 203])
    assert (found.low is not None, found.p_value is not None) == (has_interval, has_p)
    assert found.reason == ("" if has_p else "insufficient data")
    assert (found.runs_a, found.runs_b) == (runs, 4)
    assert found.ratio == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize(("b", "p"), [(5.0, 1.0), (6.0, 0.0)])
def test_without_variation_the_interval_has_no_width(b, p):
    found = compare_runs([5.0] * 4, [b] * 4)
    assert found.low == found.ratio == found.high == pytest.approx(b / 5)
    assert found.p_value == p


def test_two_runs_that_differ_beyond_measure_bound_nothing():
    found = compare_runs([1e-150, 1.0], [1.0, 1e150])
    assert found.low < 1e-300
    assert found.high == math.inf


@pytest.mark.parametrize(
    ("a", "b"), [([], [1]), ([1], []), ([1, 0], [1, 1]), ([1, 1], [1, -2]), ([math.nan], [1]), ([1], [math.inf])]
)
def test_what_has_no_ratio_is_refused(a, b):
    with pytest.raises(InvalidValue):
        compare_runs(a, b)


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_a_confidence_is_between_0_and_1(confidence):
    with pytest.raises(InvalidValue, match="confidence"):
        compare_runs([1, 2], [1, 2], confidence)


def test_19_of_20_intervals_hold_the_truth():
    """Sides of 4 and 5 runs whose spreads differ threefold; the binomial's own noise is 0.7 % at 1,000 draws."""
    random.seed(3)
    truth, held = 1.3, 0
    for _ in range(1000):
        a = [100 * math.exp(random.gauss(0, 0.03)) for _ in range(4)]
        b = [100 * truth * math.exp(random.gauss(0, 0.09)) for _ in range(5)]
        found = compare_runs(a, b)
        held += found.low <= truth <= found.high
    assert 0.93 <= held / 1000 <= 0.975


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(InvalidValue):
        holm([0.5, 1.2])


@given(probabilities)
def test_holm_never_lowers_nor_reorders(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    in_order = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert in_order == sorted(in_order)
    assert not p_values or min(adjusted) == pytest.approx(min(1, len(p_values) * min(p_values)))


def test_the_domain_stays_light():
    code = "import sys, tokenstone.compare; assert 'scipy' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
