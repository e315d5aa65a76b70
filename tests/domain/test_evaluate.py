"""From facts to score, bill, panel and report: what a user reads off a run."""

import math

import pytest

from tokenstone.cost import OwnedCost, Price, rental
from tokenstone.errors import InvalidValue
from tokenstone.evaluate import evaluate
from tokenstone.flops import AttentionCount, training_flops
from tokenstone.model import CPU_TINY
from tokenstone.report import build_report
from tokenstone.run import InferenceSpec, Objective, RunState, TrainingSpec
from tokenstone.wire import (
    DevicePhases,
    InferenceFacts,
    Iterations,
    Phase,
    Probe,
    RequestTimes,
    RunDevice,
    RunView,
    TrainingFacts,
    WindowRow,
)

TRAINING = TrainingSpec(
    preset="test", model=CPU_TINY, dtype="fp32", sequence_length=64, batch_sequences=4, steps=10, warm_up_steps=1,
    learning_rate=1e-3, bias_update_rate=0.01,
)  # fmt: skip
SERVING = InferenceSpec(
    preset="test", model=CPU_TINY, dtype="fp32", requests=2, input_tokens=8, output_tokens=2, max_batch=2,
    objective=Objective(ttft_seconds=5, tpot_seconds=3),
)  # fmt: skip
FLOPS = training_flops(CPU_TINY, 64, AttentionCount.CAUSAL).flops_per_token
TOKENS = 2560
STEPS_OF_13_SECONDS = [Phase(kind="step", start_seconds=6, duration_seconds=13, activity_seconds={"compute": 13})]


def probe(peak: float = 2 * FLOPS * TOKENS / 10, **changes) -> Probe:
    """A device that would need 5 s for the tokens of the training."""
    values = {
        "device_id": "host", "device_name": "test cpu", "device_type": "cpu", "dtype": "fp32",
        "gemm_flops_per_second": peak, "memory_bytes_per_second": 1e9, "repetitions": 5,
        "gemm_spread_ratio": 0.01, "memory_spread_ratio": 0.01,
    }  # fmt: skip
    return Probe(**(values | changes))


def run_view(spec, hardware: str | None = None, devices: int = 1) -> RunView:
    return RunView(
        run_id=f"run-{spec.kind}", cluster="lab", spec_id=spec.spec_id, spec=spec, state=RunState.COMPLETE, reason="",
        devices=[RunDevice(id=f"d{i}", node="n0", hardware=hardware) for i in range(devices)],
        created_unix_seconds=1000, started_unix_seconds=1000, ended_unix_seconds=1020,
    )  # fmt: skip


def training_facts(**changes) -> TrainingFacts:
    """20 s: 4 s start-up, 15 s of steps of which 12 s compute, 1 s idle."""
    phases = [
        Phase(kind="startup", start_seconds=0, duration_seconds=4, activity_seconds={"startup": 4}),
        Phase(
            kind="step", start_seconds=4, duration_seconds=15, steps=10,
            activity_seconds={"compute": 12, "exposed_communication": 2, "input_stall": 1},
        ),
    ]  # fmt: skip
    values = {
        "started_unix_seconds": 1000, "allocated_seconds": 20, "tokens": TOKENS, "probe": probe(), "loss_first": 7.0,
        "devices": [DevicePhases(device="d0", phases=phases)], "loss_last": 5.0, "max_violation": 0.5,
    }  # fmt: skip
    return TrainingFacts(**(values | changes))


def serving_facts(**changes) -> InferenceFacts:
    values = {
        "started_unix_seconds": 1000, "allocated_seconds": 12, "device_count": 1, "startup_seconds": 2,
        "probe": probe(100.0, memory_bytes_per_second=50.0),
        "iterations": Iterations(
            start_seconds=[2, 6], duration_seconds=[4, 4], model_seconds=[3, 3], communication_seconds=[0.5, 0.5],
            host_seconds=[0.5, 0.5], flops=[100, 10], bytes=[10, 100], prefill_flops=[100, 0],
            recomputed_tokens=[0, 0], requests=[[0, 1], [0, 1]], request_tokens=[[8, 8], [1, 1]],
        ),
        "requests": RequestTimes(
            arrival_seconds=[2, 2], first_token_seconds=[6, 6], end_seconds=[8, 10], input_tokens=[8, 8],
            cached_input_tokens=[0, 4], output_tokens=[2, 2],
        ),
    }  # fmt: skip
    return InferenceFacts(**(values | changes))


def window(metric: str, second: int, *, device="host", node="n0", labels=None, **stats) -> WindowRow:
    values = {"count": 1, "mean": None, "minimum": None, "maximum": None, "delta": None} | stats
    return WindowRow(
        node=node, device=device, metric=metric, labels=labels or {}, start_unix_seconds=1000 + second,
        duration_seconds=1, **values,
    )  # fmt: skip


def test_score_is_ideal_over_allocated():
    evaluation = evaluate(run_view(TRAINING), training_facts(), windows=[], price=rental(3.6))
    assert evaluation.validity == ["valid"]
    assert evaluation.score == pytest.approx(100 * 5 / 20)
    assert evaluation.mfu_ratio == pytest.approx(5 / 15)
    assert math.prod(evaluation.factors.values()) == pytest.approx(evaluation.score / 100)
    assert evaluation.factors["availability"] == pytest.approx(14 / 20)
    assert evaluation.factors["communication"] == pytest.approx(12 / 14)
    assert evaluation.bill.usd == pytest.approx(20 * 0.001)
    assert evaluation.bottleneck.category == "kernel_inefficiency"
    assert evaluation.exposed_communication_ratio == pytest.approx(0.1)


def test_the_rate_of_the_steps_leaves_start_up_out_and_counts_wall_time_once():
    evaluation = evaluate(run_view(TRAINING), training_facts(), windows=[], price=None)
    assert evaluation.step_tokens_per_second == pytest.approx(TOKENS / 15)
    assert evaluation.tokens_per_second == pytest.approx(TOKENS / 20)
    two = training_facts(devices=[*training_facts().devices, DevicePhases(device="d1", phases=STEPS_OF_13_SECONDS)])
    evaluation = evaluate(run_view(TRAINING, devices=2), two, windows=[], price=None)
    assert evaluation.step_tokens_per_second == pytest.approx(TOKENS / 14)  # mean of the devices, 15 s and 13 s
    nothing = training_facts(devices=[DevicePhases(device="d0", phases=[])])
    assert evaluate(run_view(TRAINING), nothing, windows=[], price=None).step_tokens_per_second is None


def test_the_bottleneck_is_said_in_dollars():
    facts = training_facts(probe=probe(FLOPS * TOKENS / 11))
    evaluation = evaluate(run_view(TRAINING), facts, windows=[], price=rental(3600 * TOKENS / 1e6))
    assert evaluation.bottleneck.sentence == "start-up costs $4.00 of your $20.00 per million tokens"


def test_known_hardware_is_held_against_the_catalogue_and_not_the_probe():
    evaluation = evaluate(
        run_view(TRAINING.model_copy(update={"dtype": "bf16"}), "h100-sxm"),
        training_facts(probe=probe(dtype="bf16")), windows=[], price=None,
    )  # fmt: skip
    assert evaluation.roofline["provenance"] == "catalogue"
    assert evaluation.roofline["peak_flops_per_second"] == 989.4e12


@pytest.mark.parametrize("missing", [None, probe(dtype="bf16")])
def test_unknown_hardware_without_a_probe_has_no_score_and_says_how_to_get_one(missing):
    evaluation = evaluate(run_view(TRAINING), training_facts(probe=missing), windows=[], price=rental(1))
    assert evaluation.score is None
    assert evaluation.mfu_ratio is None
    assert evaluation.validity == ["unknown_peak"]
    assert evaluation.bill.usd_per_million_tokens > 0  # what it costs is known all the same
    report = build_report([(run_view(TRAINING), evaluation)], created_unix_seconds=0)
    assert "tokenstone probe" in report.validity_notes[0]


def test_mixed_hardware_has_no_single_limit():
    run = run_view(TRAINING, devices=2)
    mixed = run.model_copy(update={"devices": [run.devices[0], run.devices[1].model_copy(update={"hardware": "h20"})]})
    assert evaluate(mixed, training_facts(), windows=[], price=None).validity == ["mixed_hardware", "unknown_peak"]


def test_a_ledger_that_does_not_balance_bears_no_score_and_no_bill():
    phases = [Phase(kind="step", start_seconds=0, duration_seconds=20, activity_seconds={"compute": 12})]
    facts = training_facts(devices=[DevicePhases(device="d0", phases=phases)])
    evaluation = evaluate(run_view(TRAINING), facts, windows=[], price=rental(1))
    assert evaluation.validity == ["ledger_residual"]
    assert evaluation.ledger.residual_seconds == pytest.approx(8)
    assert (evaluation.score, evaluation.bill, evaluation.factors) == (None, None, None)


def test_without_tokens_there_is_neither_score_nor_bill():
    evaluation = evaluate(run_view(TRAINING), training_facts(tokens=0), windows=[], price=rental(1))
    assert evaluation.validity == ["no_tokens"]
    assert (evaluation.score, evaluation.bill, evaluation.bottleneck) == (None, None, None)
    report = build_report([(run_view(TRAINING), evaluation)], created_unix_seconds=0)
    assert report.score is None
    assert "no bill" in report.bottleneck_sentence


def test_facts_of_another_kind_are_refused():
    with pytest.raises(InvalidValue, match="facts of inference for a run of training"):
        evaluate(run_view(TRAINING), serving_facts(), windows=[], price=None)


def test_serving_splits_input_and_output_by_measured_time():
    evaluation = evaluate(run_view(SERVING), serving_facts(), windows=[], price=rental(3600))
    total = evaluation.bill.usd
    assert total == pytest.approx(12)
    assert evaluation.input_bill.usd + evaluation.output_bill.usd == pytest.approx(total)
    assert evaluation.ledger.prefill_ratio == pytest.approx(0.5)
    assert evaluation.input_bill.usd_per_million_tokens == pytest.approx(6 / 16 * 1e6)
    assert evaluation.uncached_input_bill.usd_per_million_tokens == pytest.approx(6 / 12 * 1e6)
    assert evaluation.output_bill.usd_per_million_tokens == pytest.approx(6 / 4 * 1e6)


def test_latency_by_definition_and_goodput():
    evaluation = evaluate(run_view(SERVING), serving_facts(), windows=[], price=rental(3600))
    assert evaluation.latencies.ttft_seconds.mean == 4
    assert evaluation.latencies.tpot_seconds.p50 == pytest.approx(3)  # (8 - 6)/1 and (10 - 6)/1
    assert evaluation.latencies.e2e_seconds.mean == 7
    assert evaluation.goodput_ratio == 0.5  # a TPOT of 4 s missed the 3 s
    assert evaluation.ledger.seconds["slo_miss"] == pytest.approx(4)
    assert evaluation.goodput_bill.tokens == 2
    assert evaluation.goodput_bill.usd == pytest.approx(evaluation.output_bill.usd)


def test_the_ports_that_collectives_run_over_are_the_network_where_there_are_any():
    windows = []
    for second in range(20):
        windows += [
            window("network_receive_bytes_total", second, labels={"interface": "eth0"}, delta=1e6),
            window("network_speed_bytes_per_second", second, labels={"interface": "eth0"}, mean=125e6),
            window("rdma_receive_bytes_total", second, labels={"port": "mlx5_0/1"}, delta=30e9),
            window("rdma_transmit_bytes_total", second, labels={"port": "mlx5_0/1"}, delta=20e9),
            window("rdma_speed_bytes_per_second", second, labels={"port": "mlx5_0/1"}, mean=50e9),
        ]
    evaluation = evaluate(run_view(TRAINING), training_facts(), windows=windows, price=None)
    rows = {row.resource: row for row in evaluation.panel}
    assert rows["network"].mean_ratio == pytest.approx(0.6)


def test_the_panel_says_mean_p95_and_why_absent():
    windows = []
    for second in range(20):
        busy = 1.0 if second >= 18 else 0.5
        windows += [
            window("host_cpu_seconds_total", second, labels={"mode": "user"}, delta=2 * busy),
            window("host_cpu_seconds_total", second, labels={"mode": "idle"}, delta=2 - 2 * busy),
            window("network_receive_bytes_total", second, labels={"interface": "eth0"}, delta=25e6),
            window("network_transmit_bytes_total", second, labels={"interface": "eth0"}, delta=50e6),
            window("network_speed_bytes_per_second", second, labels={"interface": "eth0"}, mean=125e6),
            window("accel_power_watts", second, device="d0", mean=350.0),
            window("accel_power_limit_watts", second, device="d0", mean=700.0),
            window("accel_energy_joules_total", second, device="d0", delta=350.0),
        ]
    windows.append(window("host_cpu_seconds_total", 500, labels={"mode": "user"}, delta=2.0))  # after the run
    evaluation = evaluate(run_view(TRAINING), training_facts(), windows=windows, price=None)
    rows = {row.resource: row for row in evaluation.panel}
    assert rows["host CPU"].mean_ratio == pytest.approx(0.55)
    assert rows["host CPU"].p95_ratio == pytest.approx(1.0)
    assert rows["network"].mean_ratio == pytest.approx(0.4)  # the busier direction
    assert rows["power"].mean_ratio == pytest.approx(0.5)
    assert rows["accelerator compute"].mean_ratio == pytest.approx(0.25)
    assert rows["storage"].mean_ratio is None
    assert rows["storage"].absent_reason == "no disk was measured"
    assert evaluation.joules_per_token == pytest.approx(350 * 20 / TOKENS)


def test_energy_is_absent_unless_every_device_reported_it():
    windows = [window("accel_energy_joules_total", 3, device="d0", delta=350.0)]
    facts = training_facts(devices=[training_facts().devices[0]] * 2)
    evaluation = evaluate(run_view(TRAINING, devices=2), facts, windows=windows, price=None)
    assert evaluation.joules_per_token is None
    assert "every device" in evaluation.joules_reason


@pytest.mark.parametrize(
    "seconds", [range(15), range(5, 20), [*range(6), *range(14, 20)]], ids=["end", "start", "hole"]
)
def test_energy_is_absent_where_the_readings_do_not_cover_the_training(seconds):
    windows = [window("accel_energy_joules_total", second, device="d0", delta=350.0) for second in seconds]
    evaluation = evaluate(run_view(TRAINING), training_facts(), windows=windows, price=None)
    assert evaluation.joules_per_token is None
    assert "do not cover the run" in evaluation.joules_reason
    assert evaluation.validity == ["valid"]  # the score rests on other things


def test_dollar_weighted_utilization_needs_components():
    plain = evaluate(run_view(TRAINING), training_facts(), windows=[], price=rental(1))
    assert plain.dollar_weighted_utilization is None
    assert "by component" in plain.dollar_weighted_reason
    components = OwnedCost.model_validate({"accelerators": {"usd_per_device_hour": 1.5}}).components()
    owned = Price(usd_per_device_hour=1.5, components=components, basis="owned", source="test")
    weighted = evaluate(run_view(TRAINING), training_facts(), windows=[], price=owned)
    assert weighted.dollar_weighted_utilization == pytest.approx(0.25)
    components = {"accelerators": 1.0, "network": 1.0}
    unmeasured = owned.model_copy(update={"components": components})
    assert "network was not measured" in evaluate(
        run_view(TRAINING), training_facts(), windows=[], price=unmeasured
    ).dollar_weighted_reason  # fmt: skip


def test_the_same_inputs_have_the_same_hash_and_another_price_another():
    first, again = (evaluate(run_view(TRAINING), training_facts(), windows=[], price=rental(1)) for _ in range(2))
    dearer = evaluate(run_view(TRAINING), training_facts(), windows=[], price=rental(2))
    assert first == again
    assert dearer.inputs_hash != first.inputs_hash


def test_the_report_of_two_runs_adds_them_up():
    price = rental(3600)
    pairs = [
        (run_view(TRAINING), evaluate(run_view(TRAINING), training_facts(), windows=[], price=price)),
        (run_view(SERVING), evaluate(run_view(SERVING), serving_facts(), windows=[], price=price)),
    ]
    report = build_report(pairs, created_unix_seconds=0)
    ideal = sum(evaluation.ledger.ideal_seconds for _, evaluation in pairs)
    assert report.allocated_seconds == 32
    assert report.score == pytest.approx(100 * ideal / 32)
    assert report.bill.usd == pytest.approx(32)
    assert report.bill.usd_per_million_tokens == pytest.approx(32 / (TOKENS + 20) * 1e6)
    assert [bill.token_kind for bill in report.bills] == ["trained", "input", "output"]
    assert math.fsum(report.ledger_seconds.values()) == pytest.approx(32)
    assert report.bottleneck_sentence.endswith("per million tokens.")


def test_a_report_without_a_price_says_how_to_give_one():
    evaluation = evaluate(run_view(TRAINING), training_facts(), windows=[], price=None)
    report = build_report([(run_view(TRAINING), evaluation)], created_unix_seconds=0)
    assert report.bill.usd_per_million_tokens is None
    assert report.bill.device_seconds_per_million_tokens == pytest.approx(20 / TOKENS * 1e6)
    assert "--price-per-device-hour" in report.price_note
    assert "device-seconds" in report.bottleneck_sentence


def test_advice_rests_on_ledger_and_panel_and_is_in_dollars():
    run = run_view(TRAINING)
    advice = evaluate(run, training_facts(), windows=[], price=rental(3.6)).advice
    found = {one.rule: one for one in advice}
    assert found.keys() == {"overlap-communication", "feed-faster", "start-faster", "give-back"}
    bill = 20 * 3.6 / 3600 / TOKENS * 1e6
    assert found["start-faster"].saving_usd_per_million_tokens == pytest.approx(bill * 4 / 20)
    assert "startup takes 20.0%" in found["start-faster"].rests_on

    def bandwidth(mean):
        return WindowRow(
            node="n0", device="d0", metric="accel_memory_bandwidth_ratio", labels={}, start_unix_seconds=1005,
            duration_seconds=10, count=10, mean=mean, minimum=mean, maximum=mean, delta=None,
        )  # fmt: skip

    # 7 of the 20 s are computation beyond the ideal: which advice that gives depends on the memory.
    for mean, rule in ((0.9, "relieve-memory"), (0.2, "grow-products"), (0.6, None)):
        advice = evaluate(run, training_facts(), windows=[bandwidth(mean)], price=None).advice
        about = [one for one in advice if one.category == "kernel_inefficiency"]
        assert [one.rule for one in about] == ([rule] if rule else [])
        assert all(one.saving_usd_per_million_tokens is None for one in about)


def test_no_advice_from_a_ledger_that_does_not_balance():
    facts = training_facts(devices=[DevicePhases(device="d0", phases=STEPS_OF_13_SECONDS * 2)])
    assert evaluate(run_view(TRAINING), facts, windows=[], price=rental(1.0)).advice == ()


def test_a_report_advises_on_the_bill_of_all_its_runs():
    told = ((run_view(TRAINING), training_facts()), (run_view(SERVING), serving_facts()))
    runs = [(run, evaluate(run, facts, windows=[], price=rental(3.6))) for run, facts in told]
    report = build_report(runs, created_unix_seconds=2000)
    found = {one.rule: one for one in report.advice}
    start = found["start-faster"]  # 4 of the training's 20 s and 2 of the serving's 12 s
    assert start.saving_ratio == pytest.approx(6 / 32)
    assert start.saving_usd_per_million_tokens == pytest.approx(report.bill.usd_per_million_tokens * 6 / 32)
    assert "training: startup takes 20.0%" in start.rests_on
    assert "inference: startup takes 16.7%" in start.rests_on
    assert found["feed-faster"].saving_ratio == pytest.approx(1 / 32)
    savings = [one.saving_ratio for one in report.advice]
    assert savings == sorted(savings, reverse=True)
