"""Arrivals, lengths, traces and event streams."""

import json
import statistics
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstone.errors import InvalidFile, UnknownName
from tokenstone.run import Traffic
from workloads.load.arrivals import arrival_seconds, draw_lengths
from workloads.load.distributions import DISTRIBUTIONS, distribution, scaled
from workloads.load.events import EventBuffer
from workloads.load.trace import read_trace


@pytest.mark.parametrize(
    ("arrival", "shape", "spread"), [("poisson", 1.0, 1.0), ("gamma", 0.25, 2.0), ("gamma", 4.0, 0.5)]
)
def test_gaps_have_the_mean_and_the_spread_that_were_asked_for(arrival, shape, spread):
    instants = arrival_seconds(Traffic(arrival=arrival, rate=20, burstiness=shape), 40_000, seed=3)
    gaps = [later - earlier for earlier, later in pairwise(instants)]
    assert instants[0] == 0
    assert statistics.mean(gaps) == pytest.approx(1 / 20, rel=0.05)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_named_lengths_have_their_medians_and_limits(name):
    lengths = distribution(name).lengths
    drawn = draw_lengths(lengths, 20_000, seed=0)
    for column, median, limit in ((0, lengths.input_tokens, lengths.input_limit),
                                  (1, lengths.output_tokens, lengths.output_limit)):  # fmt: skip
        values = [pair[column] for pair in drawn]
        assert statistics.median(values) == pytest.approx(median, rel=0.05)
        assert 1 <= min(values) <= max(values) <= limit
    short = scaled(lengths, 0.01)
    assert short.output_tokens == max(1, round(lengths.output_tokens * 0.01))


def test_reasoning_is_a_short_question_with_a_very_long_answer():
    lengths = distribution("reasoning").lengths
    assert lengths.output_tokens > 10 * lengths.input_tokens
    with pytest.raises(UnknownName, match="reasoning"):
        distribution("reasonin")


def test_a_trace_is_replayed_and_its_bad_lines_are_named(tmp_path):
    path = tmp_path / "trace.jsonl"
    lines = [
        '{"arrival_seconds": 5.5, "input_tokens": 10, "output_tokens": 2}',
        "not json",
        '{"timestamp": 5250, "input_length": 7, "output_length": 3, "hash_ids": [1]}',
        '{"arrival_seconds": -1, "input_tokens": 10, "output_tokens": 2}',
        "",
        '{"arrival_seconds": 1, "input_tokens": 10}',
        "[1, 2]",
        '{"arrival_seconds": 1, "input_tokens": 0, "output_tokens": true}',
        '{"arrival_seconds": NaN, "input_tokens": 1, "output_tokens": 1}',
    ]
    path.write_text("\n".join(lines))
    trace = read_trace(path)
    assert trace.requests == [(0.0, 7, 3), (0.25, 10, 2)]
    assert [line.split(":")[0] for line in trace.bad_lines] == [f"line {n}" for n in (2, 4, 6, 7, 8, 9)]
    path.write_text("nothing\n")
    with pytest.raises(InvalidFile, match="no line is a request"):
        read_trace(path)
    with pytest.raises(InvalidFile, match=r"gone\.jsonl"):
        read_trace(tmp_path / "gone.jsonl")


@settings(max_examples=50, deadline=None)
@given(
    messages=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=8), max_size=2), max_size=5),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_events_come_out_whole_however_the_network_cuts_them(messages, cuts, end):
    lines = [f": ping{end}", *(f"event: x{end}data: {json.dumps(m)}{end}{end}" for m in messages)]
    stream = "".join(lines).encode()
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    buffer = EventBuffer()
    found = [data for a, b in pairwise(places) for data in buffer.feed(stream[a:b])]
    assert [json.loads(data) for data in found] == messages


def test_what_is_no_event_stream_is_said():
    with pytest.raises(ValueError, match="html"):
        list(EventBuffer().feed(b"<html>\n"))
