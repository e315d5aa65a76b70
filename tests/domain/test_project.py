"""Projections reproduce what was published, and other schedules follow from the closed forms."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.project import DEEPSEEK_V3, Chunks, chunk_seconds, closed_form_bubble, project


def test_the_published_step():
    result = project("deepseek-v3")
    assert f"{result.step_seconds:.3f}" == "19.926"
    assert f"{result.tokens_per_day / 1e9:.2f}" == "272.80"
    assert f"{result.device_hours_per_trillion_tokens / 1e3:.0f}" == "180"
    assert (result.provenance, result.assumptions) == ("published", [])


def test_chunks_add_up_to_the_segments_when_dualpipe_runs_them():
    """Counted rank by rank as DualPipe does it: forwards alone, backwards alone, weights deferred, pairs."""
    chunks, half = chunk_seconds(DEEPSEEK_V3), 8
    seconds = dict.fromkeys(("forward", "backward", "weight", "pair"), 0.0)
    for h in range(half):
        first, second = half - 1 - h, h + 1
        forwards = 2 * first + 2 * second + first
        full, inputs_only = first + second, first + second + first
        weights = first + first + second
        pairs = DEEPSEEK_V3.micro_batches - forwards
        assert full + inputs_only == forwards
        seconds["forward"] += forwards * chunks.forward / half
        seconds["backward"] += (full * chunks.backward + inputs_only * (chunks.backward - chunks.weight)) / half
        seconds["weight"] += weights * chunks.weight / half
        seconds["pair"] += pairs * chunks.pair / half
    assert seconds["forward"] == pytest.approx(1.13)
    assert seconds["backward"] + seconds["weight"] == pytest.approx(1.99 + 0.48)
    assert seconds["pair"] == pytest.approx(13.95)


def test_a_pair_lasts_about_what_deepseeks_own_trace_shows():
    """The trace of one pair spans 129.0 ms; it is of other, balanced routing."""
    assert chunk_seconds(DEEPSEEK_V3).pair == pytest.approx(0.129, rel=0.1)


def test_other_schedules_cost_more():
    steps = [project("deepseek-v3"), project("deepseek-v3", overlap=False), project("deepseek-v3", schedule="ZB1P"),
             project("deepseek-v3", schedule="1F1B")]  # fmt: skip
    assert [step.step_seconds for step in steps] == sorted(step.step_seconds for step in steps)
    chunks = chunk_seconds(DEEPSEEK_V3)
    assert steps[3].segments["bubble"] == pytest.approx(15 * (chunks.forward + chunks.backward))
    assert {step.provenance for step in steps[1:]} == {"simulated"}
    assert all(step.assumptions for step in steps[1:])
    for step in steps:
        assert sum(step.segments.values()) == pytest.approx(step.step_seconds)


chunk = st.floats(0.001, 10)


@given(f=chunk, inputs=chunk, w=chunk, stages=st.integers(1, 32).map(lambda n: 2 * n))
def test_zero_bubble_saves_the_weights_gradients_twice_a_stage(f, inputs, w, stages):
    chunks = Chunks(forward=f, backward=inputs + w, weight=w, pair=f + inputs + w)
    plain = closed_form_bubble("1F1B", stages, chunks)
    assert closed_form_bubble("ZB1P", stages, chunks) == pytest.approx(plain - 2 * (stages - 1) * w)


def test_what_cannot_be():
    with pytest.raises(UnknownName, match="deepseek-v3"):
        project("gpt-5")
    with pytest.raises(InvalidValue, match="multiple of 16"):
        project("deepseek-v3", devices=100)


def test_the_command(tokenstone):
    code, out, err = tokenstone(
        "project", "deepseek-v3", "--schedule", "1F1B", "--price-per-device-hour", "2", "--json"
    )
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["usd_per_million_tokens"] == pytest.approx(result["device_hours_per_trillion_tokens"] * 2 / 1e6)
    code, out, _ = tokenstone("project", "deepseek-v3")
    assert code == 0
    assert "272.80 B on 2,048 devices" in out
    assert "180K" in out
    assert tokenstone("project", "other")[0] == 2
