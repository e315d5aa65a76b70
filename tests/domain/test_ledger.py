"""The ledger balances, whatever happened; and each second goes where the definition says."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstone.ledger import PRIORITY, Interval, exclusive_seconds, inference_ledger, training_ledger
from tokenstone.record import Recorder
from tokenstone.roofline import Roofline
from tokenstone.wire import DevicePhases, InferenceFacts, Iterations, Phase, RequestTimes, TrainingFacts

ROOF = Roofline(
    "test", "fp32", peak_flops_per_second=100.0, memory_bytes_per_second=50.0, provenance="probe", source=""
)

seconds = st.floats(min_value=0, max_value=1000, allow_nan=False)
intervals = st.lists(st.builds(lambda a, b, n: Interval(a, a + b, n), seconds, seconds, st.sampled_from(PRIORITY)))


@given(intervals, seconds, seconds)
def test_exclusive_seconds_cover_the_interval_once(given_intervals, start, length):
    parts = exclusive_seconds(given_intervals, start, start + length, remainder="idle")
    assert math.fsum(parts.values()) == pytest.approx(length, abs=1e-6)
    assert all(value >= 0 for value in parts.values())


@given(intervals)
def test_compute_hides_everything_behind_it(given_intervals):
    """Computing throughout leaves nothing for anybody else, whatever else was recorded."""
    always = [*given_intervals, Interval(0, 100, "compute")]
    assert exclusive_seconds(always, 0, 100, remainder="idle") == {"compute": pytest.approx(100)}


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


phase_kinds = st.sampled_from(["startup", "warm_up", "step", "checkpoint", "recovery", "drain"])
steps = st.lists(st.tuples(phase_kinds, st.lists(st.tuples(st.sampled_from(PRIORITY), seconds)), seconds, seconds))


@settings(max_examples=200)
@given(st.lists(steps, min_size=1, max_size=3), st.floats(0, 1e6))
def test_ledger_balances_for_any_sequence_of_phases(devices, model_flops):
    recorded, longest = [], 1e-3
    for number, phases in enumerate(devices):
        clock = Clock()
        recorder = Recorder(f"d{number}", clock=clock)
        for kind, activities, before, between in phases:
            clock.now += before
            with recorder.phase(kind):
                for name, length in activities:
                    with recorder.activity(name):
                        clock.now += length
                    clock.now += between
        recorded.append(recorder.finish())
        longest = max(longest, recorder.elapsed_seconds())
    facts = TrainingFacts(started_unix_seconds=0, allocated_seconds=longest, devices=recorded, tokens=1)
    ledger = training_ledger(facts, model_flops, ROOF)
    assert ledger.allocated_seconds == pytest.approx(longest * len(devices))
    assert ledger.balanced
    assert math.fsum(ledger.seconds.values()) + ledger.residual_seconds == pytest.approx(ledger.allocated_seconds)
    assert all(value >= 0 for value in ledger.seconds.values())
    assert "peak_exceeded" in ledger.reasons or ledger.seconds["ideal"] == pytest.approx(model_flops / 100)


def training_facts(*phases: Phase, allocated: float) -> TrainingFacts:
    return TrainingFacts(
        started_unix_seconds=0,
        allocated_seconds=allocated,
        devices=[DevicePhases(device="d0", phases=list(phases))],
        tokens=10,
    )


def test_each_second_goes_where_it_was_spent():
    facts = training_facts(
        Phase(kind="startup", start_seconds=0, duration_seconds=10, activity_seconds={"startup": 10}),
        Phase(
            kind="step",
            start_seconds=12,
            duration_seconds=50,
            activity_seconds={"compute": 40, "exposed_communication": 5, "input_stall": 3, "host_overhead": 2},
        ),
        allocated=70,
    )
    ledger = training_ledger(facts, model_flops=1000, roofline=ROOF)
    assert ledger.seconds == {
        "ideal": 10,  # 1000 FLOPs at 100 a second
        "recompute": 0,
        "kernel_inefficiency": 30,
        "exposed_communication": 5,
        "pipeline_bubble": 0,
        "load_imbalance": 0,
        "input_stall": 3,
        "checkpoint": 0,
        "host_overhead": 2,
        "startup": 10,
        "recovery": 0,
        "idle": 2 + 8,  # between the phases, and after the last
    }
    assert ledger.reasons == []


def test_facts_that_contradict_themselves_are_told_by_the_residual():
    step = Phase(kind="step", start_seconds=0, duration_seconds=10, activity_seconds={"compute": 4})
    ledger = training_ledger(training_facts(step, allocated=10), 100, ROOF)
    assert ledger.residual_seconds == pytest.approx(6)
    assert ledger.reasons == ["ledger_residual"]


def test_overlapping_phases_do_not_balance():
    phases = [
        Phase(kind="step", start_seconds=start, duration_seconds=10, activity_seconds={"compute": 10})
        for start in (0, 5)
    ]
    ledger = training_ledger(training_facts(*phases, allocated=15), 100, ROOF)
    assert ledger.residual_seconds == pytest.approx(-5)
    assert not ledger.balanced


def test_work_faster_than_the_limit_means_the_limit_is_wrong():
    step = Phase(kind="step", start_seconds=0, duration_seconds=10, activity_seconds={"compute": 10})
    ledger = training_ledger(training_facts(step, allocated=10), model_flops=2000, roofline=ROOF)
    assert ledger.reasons == ["peak_exceeded"]
    assert ledger.ideal_seconds is None
    assert ledger.seconds["compute"] == 10


def test_without_a_limit_there_is_no_ideal():
    step = Phase(kind="step", start_seconds=0, duration_seconds=10, activity_seconds={"compute": 10})
    ledger = training_ledger(training_facts(step, allocated=10), 100, None)
    assert ledger.ideal_seconds is None
    assert ledger.reasons == ["unknown_peak"]
    assert ledger.balanced


def inference_facts(**changes) -> InferenceFacts:
    """Start-up 2 s, a prefill of 4 s for requests 0 and 1, a decode of 4 s, 1 s of silence, 1 s of waiting."""
    columns = {
        "start_seconds": [2, 6],
        "duration_seconds": [4, 4],
        "model_seconds": [3, 3],
        "communication_seconds": [0.5, 0.5],
        "host_seconds": [0.5, 0.5],
        "flops": [100, 10],
        "bytes": [10, 100],
        "prefill_flops": [100, 0],
        "recomputed_tokens": [0, 0],
        "requests": [[0, 1], [0, 1]],
        "request_tokens": [[8, 8], [1, 1]],
    }
    columns.update(changes)
    return InferenceFacts(
        started_unix_seconds=0,
        allocated_seconds=12,
        device_count=2,
        startup_seconds=2,
        iterations=Iterations(**columns),
        requests=RequestTimes(
            arrival_seconds=[2, 2],
            first_token_seconds=[6, 6],
            end_seconds=[10, 11],
            input_tokens=[8, 8],
            cached_input_tokens=[0, 0],
            output_tokens=[2, 2],
        ),
    )


def test_inference_ledger_by_hand():
    ledger = inference_ledger(inference_facts(), [False, False], ROOF)
    # Two devices. Ideal: prefill max(100/100, 10/50) = 1 s, decode max(10/100, 100/50) = 2 s.
    assert ledger.seconds == {
        "ideal": pytest.approx(2 * 3),
        "kernel_inefficiency": pytest.approx(2 * 3),
        "exposed_communication": pytest.approx(2 * 1),
        "host_overhead": pytest.approx(2 * (1 + 1)),  # in iterations, and from 10 to 11 with request 1 there
        "queue_idle": pytest.approx(2 * 1),
        "preemption": 0,
        "slo_miss": 0,
        "startup": pytest.approx(2 * 2),
    }
    assert ledger.prefill_ratio == pytest.approx(0.5)
    assert ledger.input_seconds["ideal"] == pytest.approx(2 * 1)
    assert ledger.input_seconds["startup"] == pytest.approx(2 * 2 * 0.5)
    assert ledger.balanced


def test_time_spent_on_a_request_that_missed_is_its_own_category():
    ledger = inference_ledger(inference_facts(), [False, True], ROOF)
    assert ledger.seconds["slo_miss"] == pytest.approx(2 * 8 / 2)
    assert ledger.seconds["ideal"] == pytest.approx(2 * 3 / 2)
    assert ledger.balanced


def test_recomputed_tokens_are_preemption():
    ledger = inference_ledger(inference_facts(recomputed_tokens=[8, 0]), [False, False], ROOF)
    assert ledger.seconds["preemption"] == pytest.approx(2 * 3 / 2)
    assert ledger.balanced


def test_an_iteration_faster_than_memory_allows_is_told():
    ledger = inference_ledger(inference_facts(bytes=[10, 500]), [False, False], ROOF)
    assert ledger.reasons == ["peak_exceeded"]
    assert "ideal" not in ledger.seconds
    assert ledger.balanced


@given(
    st.lists(st.tuples(*[st.floats(0, 100)] * 4, st.integers(1, 50), st.booleans()), max_size=12),
    st.booleans(),
    st.floats(0, 20),
)
def test_inference_ledger_balances_for_any_iterations(rows, missed, startup):
    start, columns = startup, {name: [] for name in Iterations.model_fields}
    for model, communication, host, gap, tokens, prefill in rows:
        duration = model + communication + host
        values = (start, duration, model, communication, host, tokens * 2.0, tokens * 1.0, tokens * 2.0 * prefill, 0)
        for name, value in zip(columns, values, strict=False):
            columns[name].append(value)
        columns["requests"].append([0])
        columns["request_tokens"].append([tokens])
        start += duration + gap
    facts = InferenceFacts(
        started_unix_seconds=0,
        allocated_seconds=start + 1,
        device_count=3,
        startup_seconds=startup,
        iterations=Iterations(**columns),
        requests=RequestTimes(
            arrival_seconds=[startup],
            first_token_seconds=[None],
            end_seconds=[None],
            input_tokens=[1],
            cached_input_tokens=[0],
            output_tokens=[0],
        ),
    )
    ledger = inference_ledger(facts, [missed], ROOF)
    assert ledger.balanced
    for name, value in (ledger.input_seconds or {}).items():
        assert -1e-6 <= value <= ledger.seconds[name] + 1e-6
