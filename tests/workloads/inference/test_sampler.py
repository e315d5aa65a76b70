"""Draws follow the model's distribution, cut where asked, and repeat with their seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from tokenstone.errors import InvalidValue
from workloads.inference.request import Request, Sampling
from workloads.inference.sampler import Draw, choose, uniform

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -2.0])


def drawn(sampling: Sampling, count: int = 20_000) -> torch.Tensor:
    draws = [Draw(sampling, seed=3, position=position) for position in range(count)]
    return torch.bincount(torch.tensor(choose(LOGITS.expand(count, -1), draws)), minlength=6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_the_model_finds_them_likely(temperature: float) -> None:
    expected = (LOGITS.double() / temperature).softmax(0) * 20_000
    assert chisquare(drawn(Sampling(temperature)).numpy(), expected.numpy()).pvalue > 1e-4


def test_top_p_keeps_the_likeliest_tokens_that_reach_it() -> None:
    probabilities = LOGITS.double().softmax(0)  # 0.55, 0.20, 0.12, ...
    kept = drawn(Sampling(1.0, top_p=0.7))
    assert kept[2:].sum() == 0
    expected = probabilities[:2] / probabilities[:2].sum() * 20_000
    assert chisquare(kept[:2].numpy(), expected.numpy()).pvalue > 1e-4
    assert drawn(Sampling(1.0, top_p=0.01), 200)[0] == 200  # the likeliest one always stays


def test_a_temperature_near_zero_is_greedy() -> None:
    assert choose(LOGITS[None], [Draw(Sampling(1e-300), 1, 0)]) == [0]
    assert drawn(Sampling(2e-5), 200)[0] == 200


def test_greedy_and_drawn_rows_do_not_disturb_each_other() -> None:
    both = [Draw(Sampling(), 1, 0), Draw(Sampling(1.0), 1, 5), Draw(Sampling(), 2, 0)]
    assert choose(LOGITS.expand(3, -1), both) == [0, choose(LOGITS[None], both[1:2])[0], 0]


def test_uniform_numbers_are_uniform_over_positions_and_seeds() -> None:
    for numbers in ([uniform(1, p) for p in range(5000)], [uniform(s, 1) for s in range(5000)]):
        assert kstest(numbers, "uniform").pvalue > 1e-4


@given(seed=st.integers(-(2**63), 2**63), position=st.integers(0, 2**40))
def test_a_uniform_number_is_below_one_and_repeats(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1
    assert uniform(seed, position) == uniform(seed, position)


@pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}])
def test_wrong_sampling_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=next(iter(wrong))):
        Sampling(**wrong)


def test_a_seed_repeats_and_requests_without_one_differ(bench: Any) -> None:
    def answer(seed: int | None) -> list[int]:
        tokens: list[int] = bench.serve([Request(0, [5, 6, 7], 12, Sampling(1.5, seed=seed))]).tokens[0]
        return tokens

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)
    assert answer(None) != answer(None)
