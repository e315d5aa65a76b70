"""The load generator against real endpoints with a script: what it measures is what the script says."""

import socket
import time
from collections import Counter

import pytest

from tokenstone.latency import histogram, histogram_percentiles, latencies
from tokenstone.run import InferenceSpec, Lengths, Traffic
from workloads.load.client import Endpoint, base_url
from workloads.load.generator import Generator
from workloads.load.outcome import request_columns
from workloads.load.plan import make_plan
from workloads.load.prompts import WordPrompts


def spec(requests=8, output_tokens=4, **traffic):
    return InferenceSpec(
        preset="test", model=None, endpoint_model="m", dtype="unknown", requests=requests, input_tokens=12,
        output_tokens=output_tokens, max_batch=1, traffic=Traffic(**traffic),
    )  # fmt: skip


def load(url, wanted, *, timeout=5.0, most_seconds=60.0, **endpoint):
    generator = Generator(
        Endpoint(base_url(url), "m", timeout_seconds=timeout, **endpoint), WordPrompts(), wanted.arrivals,
        seed=wanted.seed, most_seconds=most_seconds,
    )  # fmt: skip
    return generator.run(make_plan(wanted))


def kinds(made):
    return Counter(outcome.error for outcome in made.outcomes)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_scripted_latencies_are_what_is_measured(served, api):
    with served([{"ttft_seconds": 0.2, "gap_seconds": 0.04}]) as (url, endpoint):
        made = load(url, spec(12, 6, arrival="poisson", rate=60), api=api)
    found = latencies(request_columns(made.outcomes, made.began), None)
    assert kinds(made) == {None: 12}
    # Wide enough for a busy machine; bench/loadgen.py measures how close it really is.
    assert found.ttft_seconds.p50 == pytest.approx(0.2, abs=0.05)
    assert found.tpot_seconds.p50 == pytest.approx(0.04, abs=0.01)
    assert found.e2e_seconds.p50 == pytest.approx(0.4, abs=0.06)
    gaps = histogram_percentiles(histogram(gap for o in made.outcomes for gap in o.gaps))
    assert gaps.count == 12 * 5
    assert {outcome.output_tokens for outcome in made.outcomes} == {6}
    assert endpoint.requests[0]["max_tokens"] == 6


FAULTS = {
    "rate_limited": {"status": 429, "retry_after": "0"},
    "server_error": {"status": 503},
    "wrong_model": {"status": 404, "message": "The model `m` does not exist.", "code": "model_not_found"},
    "context_exceeded": {"status": 400, "message": "This model's maximum context length is 4 tokens"},
    "refused": {"status": 401, "message": "no key"},
    "closed": {"stream": "cut"},
    "malformed": {"stream": "garbage"},
    "timeout": {"stream": "silent"},
    "empty": {"tokens": 0},
}


@pytest.mark.parametrize("arrival", [{"concurrency": 4}, {"arrival": "poisson", "rate": 200}], ids=["closed", "open"])
def test_every_fault_is_counted_by_its_kind_and_the_load_goes_on(served, arrival):
    with served([{}, *FAULTS.values()]) as (url, _):
        made = load(url, spec(2 * (len(FAULTS) + 1), **arrival), timeout=0.5)
    assert kinds(made) == {None: 2, **dict.fromkeys(FAULTS, 2)}
    for outcome in made.outcomes:
        assert (outcome.error is None) == (outcome.detail == "")
        assert outcome.end is not None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ({"stream": "json_garbage"}, "malformed"),
        ({"stream": "error", "message": "out of memory"}, "server_error"),
        ({"status": 413, "message": "too large"}, "refused"),
        ({"status": 404, "message": "no such route"}, "refused"),
    ],
)
def test_other_refusals(served, line, error):
    with served([line]) as (url, _):
        assert kinds(load(url, spec(2), api="completions")) == {error: 2}


def test_nobody_listens(served):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        made = load(f"http://127.0.0.1:{unused.getsockname()[1]}", spec(5, arrival="poisson", rate=100))
    assert kinds(made) == {"connect": 5}


def test_a_429_storm_ends_and_is_waited_out_between_tries(served):
    with served([{"status": 429, "retry_after": "0.05"}]) as (url, endpoint):
        began = time.monotonic()
        made = load(url, spec(6, concurrency=1))
    assert kinds(made) == {"rate_limited": 6}
    assert len(endpoint.requests) == 6
    assert time.monotonic() - began >= 5 * 0.05


def test_a_load_ends_at_its_time_whatever_the_endpoint_does(served):
    with served([{"stream": "silent"}]) as (url, _):
        made = load(url, spec(40, concurrency=2), most_seconds=0.4, timeout=60)
        also = load(url, spec(40, arrival="poisson", rate=20), most_seconds=0.4, timeout=60)
    assert kinds(made) == kinds(also) == {"stopped": 40}


def test_an_open_loop_does_not_wait_for_answers_and_counts_from_the_schedule(served):
    with served([{"ttft_seconds": 0.5}]) as (url, _):
        made = load(url, spec(30, 1, arrival="poisson", rate=300))
    due = [outcome.due - made.began for outcome in made.outcomes]
    assert max(due) < 0.4  # all were sent before the first was answered
    for outcome in made.outcomes:
        assert outcome.sent >= outcome.due
        assert outcome.first - outcome.due >= 0.49


def test_a_closed_loop_keeps_so_many_in_flight_and_no_more(served):
    with served([{"ttft_seconds": 0.02, "gap_seconds": 0.01}]) as (url, _):
        made = load(url, spec(20, 3, concurrency=4))
    edges = sorted([(o.sent, 1) for o in made.outcomes] + [(o.end, -1) for o in made.outcomes])
    flying = most = 0
    for _, step in edges:
        flying += step
        most = max(most, flying)
    assert most == 4


def test_chat_is_used_where_there_are_no_completions(served):
    with served([{}], routes=("chat/completions",)) as (url, endpoint):
        made = load(url, spec(4, concurrency=1))
    assert kinds(made) == {None: 4}
    assert made.api == "chat"
    assert all("messages" in request for request in endpoint.requests)


def test_turns_send_what_was_said_before(served):
    with served([{"tokens": 2}]) as (url, endpoint):
        load(url, spec(6, 2, concurrency=1, turns=3), api="chat")
    said = [[message["content"] for message in request["messages"]] for request in endpoint.requests]
    assert [len(messages) for messages in said] == [1, 3, 5, 1, 3, 5]
    assert said[2][:3] == said[1]
    assert said[1][1] == " word word"
    assert [message["role"] for message in endpoint.requests[2]["messages"]] == ["user", "assistant"] * 2 + ["user"]


def test_prefixes_and_groups_are_shared_as_planned(served):
    with served([{}]) as (url, endpoint):
        load(url, spec(8, concurrency=1, shared_prefix_tokens=5, prefix_groups=2))
        grouped = len(endpoint.requests)
        load(url, spec(8, concurrency=1, group_size=4))
    prefixes = [" ".join(request["prompt"].split()[:5]) for request in endpoint.requests[:grouped]]
    assert Counter(prefixes) == {prefixes[0]: 4, prefixes[1]: 4}
    assert len({request["prompt"] for request in endpoint.requests[:grouped]}) == 8
    assert Counter(Counter(r["prompt"] for r in endpoint.requests[grouped:]).values()) == {4: 2}


def test_without_usage_the_events_are_counted_and_it_says_so(served):
    with served([{"stream": "no_usage"}]) as (url, _):
        made = load(url, spec(2, 5))
    assert {(o.output_tokens, o.counted_by) for o in made.outcomes} == {(5, "events")}


def test_a_key_is_sent_and_never_told(served):
    with served([{"status": 401, "message": "no such key: sk-secret-1"}]) as (url, _):
        made = load(url, spec(1), key="sk-secret-1")
    assert "sk-secret-1" not in made.outcomes[0].detail
    assert "***" in made.outcomes[0].detail


def test_the_plan_is_a_function_of_the_seed():
    wanted = spec(50, arrival="gamma", rate=10, burstiness=0.2,
                  lengths=Lengths(input_tokens=100, output_tokens=50, input_sigma=1, output_limit=60))  # fmt: skip
    assert make_plan(wanted) == make_plan(wanted)
    assert make_plan(wanted) != make_plan(wanted.model_copy(update={"seed": 1}))
    assert max(turn.output_tokens for conversation in make_plan(wanted) for turn in conversation.turns) <= 60
