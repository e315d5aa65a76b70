"""Each rule fires where the data show it, and not where they do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstone.advice import RULES, advise

BY_NAME = {rule.name: rule for rule in RULES}


def ledger(category: str, share: float) -> dict[str, float]:
    return {"ideal": 1000 * (1 - share), category: 1000 * share}


def inside(rule) -> dict[str, float]:
    return {name: (low + high) / 2 for name, (low, high) in rule.ratios.items()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_it_fires_above_its_threshold_and_says_what_it_rests_on(rule):
    share = rule.threshold * 1.01
    found = {a.rule: a for a in advise(ledger(rule.category, share), ratios=inside(rule), usd_per_million_tokens=2.0)}
    advice = found[rule.name]
    assert f"{rule.category} takes {share:.1%}" in advice.rests_on
    assert all(name in advice.rests_on for name in rule.ratios)
    assert advice.saving_ratio == pytest.approx(share - rule.floor)
    assert advice.saving_usd_per_million_tokens == pytest.approx(2.0 * (share - rule.floor))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_it_is_silent_below_its_threshold(rule):
    found = advise(ledger(rule.category, rule.threshold * 0.99), ratios=inside(rule))
    assert rule.name not in {advice.rule for advice in found}


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.ratios], ids=lambda rule: rule.name)
def test_it_is_silent_where_what_it_needs_was_not_measured_or_is_otherwise(rule):
    seconds = ledger(rule.category, rule.threshold * 1.5)
    for name, (low, high) in rule.ratios.items():
        others = [value for value in (low - 0.05, high + 0.05) if 0 <= value <= 1]
        assert others
        for value in (None, *others):
            found = advise(seconds, ratios=inside(rule) | {name: value})
            assert rule.name not in {advice.rule for advice in found}
    assert rule.name not in {advice.rule for advice in advise(seconds)}


categories = st.dictionaries(
    st.sampled_from(["ideal", *sorted({rule.category for rule in RULES})]), st.floats(0, 1e9), max_size=12
)


@given(categories, st.none() | st.floats(0, 1e3))
def test_no_more_is_promised_than_the_category_costs(seconds, bill):
    total = sum(seconds.values())
    found = advise(seconds, usd_per_million_tokens=bill)
    assert [a.saving_ratio for a in found] == sorted((a.saving_ratio for a in found), reverse=True)
    for advice in found:
        assert 0 <= advice.saving_ratio <= seconds[advice.category] / total * (1 + 1e-9)
        assert (advice.saving_usd_per_million_tokens is None) == (bill is None)
    assert len({advice.category for advice in found}) == len(found)  # nothing is saved twice


def test_the_example_of_the_docs():
    [found] = advise({"ideal": 40, "kernel_inefficiency": 29, "exposed_communication": 31}, usd_per_million_tokens=0.80)
    assert found.saving_usd_per_million_tokens == pytest.approx(0.2224)
    assert "DualPipe" in found.hint
