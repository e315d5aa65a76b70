"""Which of two is worth the money: verdicts, refusals, the difference itemised, what is missing."""

import importlib.util
import math
import random
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstone.compare import compare_sides, make_side
from tokenstone.compare.noise import noise_floor
from tokenstone.compare.published import find_published, published_results
from tokenstone.compare.side import published_side
from tokenstone.errors import InvalidValue, UnknownName

_spec = importlib.util.spec_from_file_location("comparison_support", Path(__file__).with_name("comparison_support.py"))
support = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(support)
run, runs, side = support.run, support.runs, support.side


def test_a_dearer_side_is_found_with_its_sign_size_and_interval():
    found = compare_sides(side("a"), side("b", (1.2, 1.21, 1.19, 1.2)))
    v = found.verdict
    assert (v.answer, v.metric) == ("b_dearer", "usd_per_million_tokens")
    assert v.change_ratio == pytest.approx(0.2, abs=0.002)
    assert v.low < 0.2 < v.high
    assert v.sentence.startswith("A token on B costs 20.0% more than on A ($0.0667 against $0.0556 per million tokens)")
    assert compare_sides(side("b", (1.2, 1.21, 1.19, 1.2)), side("a")).verdict.answer == "b_cheaper"


def test_three_runs_a_side_are_never_a_difference():
    found = compare_sides(side("a", (1, 1.01, 0.99)), side("b", (9, 9.01, 9.02)))
    assert found.verdict.answer == "insufficient_data"
    assert "insufficient data" in found.verdict.sentence
    assert found.verdict.low is not None
    assert all(m.significant is None for m in found.metrics)
    assert all(floor.ratio is None for floor in found.noise_floor)


def test_a_a_comparisons_are_significant_in_5_of_100():
    """1,000 pairs of 4 and 5 runs of the same thing. Binomial: 95 % of such tests lie between 3.6 and 6.4 %."""
    random.seed(11)
    judged = {"b_cheaper": 0, "b_dearer": 0, "no_difference": 0}
    for _ in range(1000):
        a, b = ([math.exp(random.gauss(0, 0.05)) for _ in range(n)] for n in (4, 5))
        judged[compare_sides(side("a", a), side("b", b)).verdict.answer] += 1
    assert 30 <= judged["b_cheaper"] + judged["b_dearer"] <= 70, judged


@pytest.mark.parametrize(("factor", "answer"), [(1.1, "b_dearer"), (0.9, "b_cheaper")])
def test_known_differences_have_the_right_sign(factor, answer):
    random.seed(12)
    answers = []
    for _ in range(100):
        a, b = ([k * math.exp(random.gauss(0, 0.01)) for _ in range(5)] for k in (1, factor))
        answers.append(compare_sides(side("a", a), side("b", b)).verdict.answer)
    assert answers.count(answer) >= 99


def test_the_noise_floor_is_what_equal_groups_reach_in_5_of_100():
    random.seed(13)
    beyond = 0
    for _ in range(1000):
        drawn = [math.exp(random.gauss(0, 0.05)) for _ in range(12)]
        floor = noise_floor(drawn[:4], 4, 4)
        groups = [sum(math.log(v) for v in drawn[i : i + 4]) / 4 for i in (4, 8)]
        beyond += abs(groups[1] - groups[0]) > math.log(floor)
    assert 25 <= beyond <= 75


categories = st.sampled_from(["ideal", "kernel_inefficiency", "exposed_communication", "startup", "idle", "slo_miss"])
ledgers = st.dictionaries(categories, st.floats(0, 1e9).filter(lambda v: v == 0 or v > 1e-9), min_size=1).filter(
    lambda d: sum(d.values()) > 0
)
sides_of = st.lists(st.tuples(ledgers, st.integers(1, 10**12)), min_size=1, max_size=4)
prices = st.floats(0.05, 500)


@settings(deadline=None)  # the first comparison imports scipy
@given(sides_of, sides_of, prices, prices)
def test_the_itemised_difference_adds_up_exactly(a, b, price_a, price_b):
    left = make_side([run(f"a-{i}", s, t, price_a) for i, (s, t) in enumerate(a)], title="A")
    right = make_side([run(f"b-{i}", s, t, price_b) for i, (s, t) in enumerate(b)], title="B")
    found = compare_sides(left, right).itemised
    total = found.total
    for column in ("a", "b", "difference"):
        exact = sum(Fraction(getattr(line, column)) for line in found.lines)
        assert Fraction(getattr(total, column)) == exact
        assert sum(getattr(line, column) for line in found.lines) == getattr(total, column)  # in this order, too
    assert total.b - total.a == total.difference
    for line in [*found.lines, total]:
        assert line.b - line.a == line.difference
        if price_a != price_b:
            assert line.time_effect + line.price_effect == line.difference
    for column, one in (("a", left), ("b", right)):
        bills = [r.bill.usd_per_million_tokens for r in one.runs]
        largest = max(total.a, total.b)
        assert getattr(total, column) == pytest.approx(sum(bills) / len(bills), rel=1e-9, abs=1e-11 * largest)


def test_a_difference_is_split_into_time_and_price():
    """A: 3,240 s/M at $2 = $1.80. B: 2,700 s/M at $2.40 = $1.80: less time, dearer time, the same cost."""
    a = make_side([run("a", {"ideal": 2160.0, "idle": 1080.0})], title="A")
    b = make_side([run("b", {"ideal": 2400.0, "idle": 300.0}, price=2.4)], title="B")
    found = compare_sides(a, b)
    assert found.itemised.total.difference == pytest.approx(0, abs=1e-12)
    assert found.itemised.total.time_effect == pytest.approx(-0.33)
    assert found.itemised.total.price_effect == pytest.approx(0.33)
    assert [line.difference for line in found.itemised.lines] == pytest.approx([0.4, -0.4])
    assert found.break_even.usd_per_device_hour == pytest.approx(2.4)
    assert found.tokens_per_dollar == pytest.approx({"a": 1e6 / 1.8, "b": 1e6 / 1.8})


@settings(deadline=None)
@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.01, 100))
def test_at_the_break_even_price_both_cost_the_same(slow_a, slow_b, price):
    a = side("a", (slow_a, slow_a * 1.1), price=price)
    even = compare_sides(a, side("b", (slow_b, slow_b * 1.3))).break_even
    again = compare_sides(a, side("b", (slow_b, slow_b * 1.3), price=even.usd_per_device_hour))
    assert again.verdict.change_ratio == pytest.approx(0, abs=1e-9)
    assert even.low <= even.usd_per_device_hour <= even.high


def test_different_work_gets_no_verdict_and_says_field_by_field_what_differs():
    other = {"spec_id": "s2", "spec": {"seed": 1, "model": {"layers": 6}}}
    found = compare_sides(side("a"), side("b", **other))
    assert (found.verdict.answer, found.like_with_like, found.spec_id) == ("refused", False, None)
    assert "2 specs (s1, s2)" in found.verdict.sentence
    assert {(d.field, *d.a, *d.b) for d in found.spec_differences} == {("seed", "0", "1"), ("model.layers", "4", "6")}
    assert all(m.ratio is None for m in found.metrics)
    assert all(m.mean_a and m.mean_b for m in found.metrics)  # each side is shown all the same
    assert found.itemised is None
    without = compare_sides(side("a"), side("b", **other | {"spec": None}))
    assert any("does not hold its spec" in text for text in without.missing)


def test_other_hardware_is_named_and_still_compared():
    found = compare_sides(side("a"), side("b", environment={"hardware": "mi300x"}, cluster="lab-b"))
    assert [(d.field, d.a, d.b) for d in found.environment_differences] == [("hardware", ["h100-sxm"], ["mi300x"])]
    assert found.verdict.answer == "no_difference"
    assert any("different clusters" in note for note in found.notes)


def test_without_a_price_device_time_is_compared():
    found = compare_sides(side("a"), side("b", (2, 2.01, 1.99, 2), price=None))
    assert found.verdict.metric == "device_seconds_per_million_tokens"
    assert "takes 100.0% more device time" in found.verdict.sentence
    assert found.itemised.unit == "device-seconds"
    assert any(text.startswith("side B: no price") for text in found.missing)
    assert found.break_even.usd_per_device_hour == pytest.approx(1.0, rel=1e-3)  # what B may cost is known all the same
    assert compare_sides(side("a", price=None), side("b")).break_even is None


def test_different_currencies_are_named_and_money_is_not_compared():
    euros = make_side(runs("b", (1, 1.01, 0.99, 1.0)), title="B", currency="EUR")
    found = compare_sides(side("a"), euros)
    usd = next(m for m in found.metrics if m.metric == "usd_per_million_tokens")
    assert (usd.ratio, usd.reason) == (None, "different currencies: USD and EUR")
    assert found.verdict.metric == "device_seconds_per_million_tokens"
    assert (found.itemised.unit, found.break_even) == ("device-seconds", None)
    assert any("USD and EUR" in text for text in found.missing)


def test_several_prices_on_one_side_are_said():
    mixed = make_side([run("b-0"), run("b-1", price=3.0)], title="B")
    found = compare_sides(side("a"), mixed)
    assert any("different prices" in text for text in found.missing)
    assert found.itemised.unit == "device-seconds"


def test_runs_that_measured_nothing_are_left_out_by_name():
    bad = run("b-9", validity=["client_saturated"])
    found = compare_sides(side("a"), make_side([*runs("b", (1, 1.01, 1, 1)), bad], title="B"))
    assert [out.run_id for out in found.b.left_out] == ["b-9"]
    assert any("b-9 is left out: the load generator could not keep up" in text for text in found.missing)
    assert found.verdict.answer == "no_difference"


def test_one_run_a_side_shows_figures_and_says_what_it_lacks():
    found = compare_sides(side("a", (1,)), side("b", (1.5,)))
    assert found.verdict.answer == "insufficient_data"
    assert (found.verdict.low, found.verdict.change_ratio) == (None, pytest.approx(0.5))
    assert sum("one run says nothing" in text for text in found.missing) == 2


def test_training_is_not_compared_with_serving():
    found = compare_sides(side("a"), side("b", kind="inference"))
    assert found.verdict.sentence == "No verdict: one side trained and the other served."


def test_what_cannot_be_a_comparison_is_refused():
    with pytest.raises(InvalidValue, match="both sides"):
        compare_sides(side("a"), side("a"))
    with pytest.raises(InvalidValue, match="2 clusters"):
        make_side([run("a"), run("b", cluster="other")])
    with pytest.raises(InvalidValue, match="twice"):
        make_side([run("a"), run("a")])


def test_a_published_result_stands_as_a_side_without_interval_and_verdict():
    published = published_side(find_published("published:deepseek-v3-training"))
    found = compare_sides(published, side("b"))
    assert found.verdict.answer == "published"
    assert found.verdict.sentence.startswith("No verdict, because side A is a published result")
    usd = next(m for m in found.metrics if m.metric == "usd_per_million_tokens")
    assert (usd.mean_a, usd.ratio.low, usd.ratio.p_value) == (0.36, None, None)
    assert [floor.side for floor in found.noise_floor] == ["B"]
    assert found.itemised is None
    assert compare_sides(published, side("b", kind="inference")).verdict.answer == "refused"


def test_published_figures_follow_from_what_was_printed():
    training = find_published("deepseek-v3-training").figures
    assert training["usd_per_million_tokens"] == pytest.approx(5.328e6 / 14.8e6)
    assert training["device_seconds_per_million_tokens"] == pytest.approx(2664e3 * 3600 / 14.8e6)
    step = find_published("deepseek-v3-step").figures
    assert step["tokens_per_second"] == pytest.approx(272.80e9 / 86400)
    assert step["device_seconds_per_million_tokens"] == pytest.approx(2048 * 86400 / 272.80e3, rel=1e-6)
    serving = find_published("deepseek-v3-serving").figures
    assert serving["usd_per_million_tokens"] == pytest.approx(87072 / 776e3, rel=1e-5)
    assert serving["device_seconds_per_million_tokens"] == pytest.approx(226.75 * 8 * 86400 / 776e3, rel=1e-5)
    for result in published_results().values():
        assert set(result.derivations) == set(result.figures), result.key
    with pytest.raises(UnknownName, match="deepseek-v3-training"):
        find_published("published:deepseek")
