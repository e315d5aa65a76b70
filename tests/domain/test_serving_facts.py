"""Latency, errors and cost of serving, from facts written by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstone.cost import rental
from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.evaluate import evaluate
from tokenstone.latency import histogram, histogram_percentiles, missed, percentile
from tokenstone.ledger import inference_ledger
from tokenstone.objectives import OBJECTIVES, describe, parse_objective
from tokenstone.run import InferenceSpec, Objective, RunState
from tokenstone.wire import ClientLag, InferenceFacts, Iterations, RequestTimes, RunDevice, RunView, WindowRow


@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=200), st.sampled_from(["p50", "p90", "p95", "p99"]))
def test_a_histogram_s_percentiles_are_within_half_a_bucket_of_an_order_statistic(values, name):
    found = getattr(histogram_percentiles(histogram(values)), name)
    rank = math.ceil(int(name[1:]) / 100 * len(values))
    assert found == pytest.approx(sorted(values)[rank - 1], rel=0.0051)
    assert histogram_percentiles(histogram(values)).count == len(values)


def test_nothing_has_no_percentiles():
    assert histogram_percentiles(None) is None
    assert histogram_percentiles(histogram([])) is None
    assert histogram_percentiles(histogram([0.0, 0.0])).p50 < 1e-8


REQUESTS = RequestTimes(
    arrival_seconds=[0, 1, 2, 6], first_token_seconds=[1, 2, None, 7], end_seconds=[3, 4, 4, 9],
    input_tokens=[10, 10, 0, 10], cached_input_tokens=[0] * 4, output_tokens=[3, 3, 0, 3],
    error=[None, None, "server_error", None],
)  # fmt: skip
SPEC = InferenceSpec(
    preset="endpoint", model=None, endpoint_model="m", dtype="unknown", requests=4, input_tokens=10, output_tokens=3,
    max_batch=1, objective=Objective(e2e_seconds=3.0),
)  # fmt: skip


def facts(**changes):
    values = {
        "started_unix_seconds": 1000, "allocated_seconds": 10, "device_count": 2, "startup_seconds": 0,
        "iterations": Iterations(), "iterations_known": False, "requests": REQUESTS,
    }  # fmt: skip
    return InferenceFacts(**(values | changes))


def run_view(devices=2):
    return RunView(
        run_id="r", cluster="lab", spec_id=SPEC.spec_id, spec=SPEC, state=RunState.COMPLETE, reason="",
        devices=[RunDevice(id=f"d{i}", node="n") for i in range(devices)],
        created_unix_seconds=1000, started_unix_seconds=1000, ended_unix_seconds=1010,
    )  # fmt: skip


def test_a_failed_request_has_missed_and_has_no_latency():
    assert missed(REQUESTS, None) == [False, False, True, False]
    assert missed(REQUESTS, Objective(ttft_seconds=0.5)) == [True] * 4
    assert missed(REQUESTS, Objective(tpot_seconds=1.0)) == [False, False, True, False]
    evaluation = evaluate(run_view(), facts(), windows=[], price=None)
    assert evaluation.latencies.e2e_seconds.count == 3
    assert evaluation.errors == {"server_error": 1}
    assert evaluation.goodput_ratio == 0.75
    assert evaluation.goodput_requests_per_second == pytest.approx(3 / 9)


def test_an_endpoint_s_ledger_balances_with_its_busy_time_whole():
    """Requests are there from 0 to 4 and from 6 to 9: 7 s busy, 3 s idle, on two devices."""
    late = [False, True, True, False]
    ledger = inference_ledger(facts(), late, None)
    assert ledger.reasons == ["no_iterations"]
    assert ledger.balanced
    assert ledger.seconds["queue_idle"] == pytest.approx(2 * 3)
    assert ledger.seconds["slo_miss"] == pytest.approx(2 * 7 * 13 / 39)
    assert ledger.seconds["compute"] == pytest.approx(2 * 7 * 26 / 39)
    assert ledger.prefill_ratio == pytest.approx(3 / 9)  # 1 s each up to the first token, 2 s each after it


def test_the_bills_of_an_endpoint_add_up_and_need_its_devices():
    price = rental(3.6)
    evaluation = evaluate(run_view(), facts(), windows=[], price=price)
    assert evaluation.validity == ["no_iterations"]
    assert evaluation.score is None
    paid = evaluation.input_bill.usd + evaluation.output_bill.usd
    assert paid == pytest.approx(evaluation.bill.usd) == pytest.approx(20 * 0.001)
    unknown = evaluate(run_view(1), facts(device_count=1, devices_known=False), windows=[], price=price)
    assert unknown.bill is unknown.output_bill is None
    assert "devices_unknown" in unknown.validity
    assert unknown.latencies.ttft_seconds.count == 3


def test_a_saturated_client_makes_the_run_invalid():
    lag = ClientLag(send_p99_seconds=0.02, loop_p99_seconds=0.001, limit_seconds=0.01)
    assert "client_saturated" in evaluate(run_view(), facts(client=lag), windows=[], price=None).validity
    calm = lag.model_copy(update={"send_p99_seconds": 0.01})
    assert "client_saturated" not in evaluate(run_view(), facts(client=calm), windows=[], price=None).validity


def energy(start, seconds, device):
    return WindowRow(
        node="n", device=device, metric="accel_energy_joules_total", labels={}, start_unix_seconds=start,
        duration_seconds=seconds, count=1, mean=None, minimum=None, maximum=None, delta=90.0,
    )  # fmt: skip


def test_energy_counts_only_where_its_readings_reach_both_ends():
    whole = [energy(1000 + i, 1, device) for i in range(10) for device in ("d0", "d1")]
    evaluation = evaluate(run_view(), facts(), windows=whole, price=None)
    assert evaluation.joules_per_token == pytest.approx(20 * 90 / 39)
    half = evaluate(run_view(), facts(), windows=whole[:10], price=None)
    assert half.joules_per_token is None
    assert "energy_not_bracketed" in half.validity
    assert "energy" in half.joules_reason


def test_errors_are_a_column_of_their_own_that_older_clients_leave_out():
    columns = REQUESTS.model_dump()
    columns.pop("error")
    assert RequestTimes(**columns).failed == [False] * 4
    with pytest.raises(ValueError, match="columns differ"):
        RequestTimes(**columns, error=[None])


def test_objectives_by_hand_and_by_name():
    assert parse_objective("ttft=2s, tpot=80ms") == OBJECTIVES["mlperf-r1"]
    assert parse_objective("MLPERF-R1-interactive").tpot_seconds == 0.015
    assert parse_objective("e2e=1500ms").e2e_seconds == 1.5
    assert describe(parse_objective("ttft=450ms")) == "TTFT ≤ 0.45 s"
    for text in ("ttft=2", "ttft=0s", "itl=2ms", "ttft=1s,ttft=2s", "ttft=2s;tpot=1s", "="):
        with pytest.raises(InvalidValue, match="--slo"):
            parse_objective(text)
    with pytest.raises(UnknownName, match="mlperf-r1"):
        parse_objective("mlperf")
    with pytest.raises(ValueError, match="at least one"):
        Objective()


@pytest.mark.parametrize(("name", "ttft", "tpot"), [
    ("mlperf-r1", 2.0, 0.080), ("mlperf-r1-interactive", 1.5, 0.015), ("mlperf-llama2-70b", 2.0, 0.200),
    ("mlperf-llama2-70b-interactive", 0.450, 0.040),
])  # fmt: skip
def test_mlperf_s_published_limits(name, ttft, tpot):
    assert (OBJECTIVES[name].ttft_seconds, OBJECTIVES[name].tpot_seconds) == (ttft, tpot)


def test_percentile_of_one():
    assert percentile([3.0], 0.99) == 3.0
