"""The other bill balances, is the same where nothing changes, and moves the way each change says."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tokenstone import hardware as catalogue
from tokenstone.cost import rental
from tokenstone.errors import InvalidValue, UnknownName, UsageError
from tokenstone.ledger import INFERENCE_CATEGORIES, TRAINING_CATEGORIES
from tokenstone.what_if import Baseline, Changes, bubble_over_work, what_if

SECONDS = {
    "ideal": 40.0, "recompute": 4.0, "kernel_inefficiency": 16.0, "exposed_communication": 12.0,
    "pipeline_bubble": 6.0, "load_imbalance": 2.0, "host_overhead": 5.0, "startup": 10.0, "idle": 5.0,
}  # fmt: skip


def training(**changes) -> Baseline:
    values = {
        "kind": "training", "seconds": SECONDS, "tokens": 1_000_000, "price": rental(2.0), "devices": 8,
        "hardware": "h100-sxm", "dtype": "bf16", "peak_flops_per_second": 989.4e12, "memory_bytes_per_second": 3.35e12,
        "hidden_communication_seconds": 20.0, "schedule": "1F1B", "pipeline": 8, "micro_batches": 16,
    }  # fmt: skip
    return Baseline(**(values | changes))


def serving(**changes) -> Baseline:
    seconds = {"ideal": 30.0, "kernel_inefficiency": 30.0, "host_overhead": 10.0, "queue_idle": 30.0}
    prefill = {"ideal": 10.0, "kernel_inefficiency": 5.0, "host_overhead": 2.0, "queue_idle": 6.0}
    return training(**({"kind": "inference", "seconds": seconds, "input_seconds": prefill, "schedule": None} | changes))


ledgers = st.fixed_dictionaries({name: st.floats(0, 1e6) for name in TRAINING_CATEGORIES})
bases = st.builds(
    training, seconds=ledgers, hidden_communication_seconds=st.none() | st.floats(0, 1e6),
    tokens=st.integers(0, 10**12), price=st.none() | st.floats(0, 100).map(rental),
)  # fmt: skip
changes = st.builds(
    Changes, devices=st.none() | st.integers(1, 10_000), hardware=st.sampled_from([None, "h100-sxm", "b200", "h20"]),
    precision=st.sampled_from([None, "bf16", "fp8"]),
    schedule=st.sampled_from([None, "1F1B", "Interleaved1F1B", "ZB1P", "DualPipe", "DualPipeV"]),
    link_rate_factor=st.none() | st.floats(1, 100), price=st.none() | st.floats(0, 100).map(rental),
).filter(lambda found: any(getattr(found, name) is not None for name in Changes.model_fields))  # fmt: skip


@settings(max_examples=50)
@given(bases, changes)
def test_any_bill_balances_and_says_what_it_takes_for_granted(base, changed):
    assume(sum(base.seconds.values()) > 0)
    after = what_if(base, changed).after
    assert all(seconds >= 0 and math.isfinite(seconds) for seconds in after.seconds.values())
    assert math.fsum(after.seconds.values()) == after.allocated_seconds
    if base.tokens:
        assert math.fsum(line.device_seconds for line in after.bill.lines) == pytest.approx(after.bill.device_seconds)
    result = what_if(base, changed)
    assert result.provenance == "simulated"
    assert len(result.assumptions) >= len(result.changes)


@settings(max_examples=50)
@given(bases)
def test_a_change_into_what_it_was_is_the_same_bill(base):
    assume(sum(base.seconds.values()) > 0)
    same = Changes(devices=8, hardware="h100-sxm", precision="bf16", schedule="1F1B", link_rate_factor=1,
                   price=base.price)  # fmt: skip
    result = what_if(base, same)
    assert result.after.seconds == pytest.approx(base.seconds)
    if base.price and base.tokens:
        assert result.after.bill.usd == pytest.approx(result.before.bill.usd)


@settings(max_examples=50)
@given(bases, st.floats(1, 50), st.floats(1, 50))
def test_a_faster_network_never_costs_more(base, one, other):
    assume(sum(base.seconds.values()) > 0)
    slow, fast = sorted((one, other))
    costs = [what_if(base, Changes(link_rate_factor=k)).after.allocated_seconds for k in (slow, fast)]
    assert costs[1] <= costs[0] <= sum(base.seconds.values()) * (1 + 1e-12)


@settings(max_examples=50)
@given(bases, st.integers(1, 1000), st.integers(1, 1000))
def test_more_devices_never_need_fewer_device_seconds(base, one, other):
    assume(sum(base.seconds.values()) > 0)
    few, many = sorted((one, other))
    costs = [what_if(base, Changes(devices=n)).after.allocated_seconds for n in (few, many)]
    assert costs[0] <= costs[1] * (1 + 1e-12)


def after(base: Baseline, **changed) -> dict[str, float]:
    return what_if(base, Changes(**changed)).after.seconds


def test_the_network():
    # 12 s exposed and 20 s hidden are 32 s; twice as fast they are 16 s, behind which 20 s of computation are enough.
    assert after(training(), link_rate_factor=2)["exposed_communication"] == 0
    assert after(training(), link_rate_factor=0.5)["exposed_communication"] == 2 * 32 - 20
    unknown = training(hidden_communication_seconds=None)
    assert after(unknown, link_rate_factor=2)["exposed_communication"] == 6
    with pytest.raises(InvalidValue, match="hidden communication"):
        after(unknown, link_rate_factor=0.5)


def test_the_hardware_and_the_communication_that_computation_hid():
    faster = catalogue.get("b200").peak("bf16").value / 989.4e12
    found = after(training(), hardware="b200")
    assert found["ideal"] == pytest.approx(40 / faster)
    assert found["kernel_inefficiency"] == pytest.approx(16 / faster)
    assert found["load_imbalance"] == pytest.approx(2 / faster)
    assert found["host_overhead"] == 5
    assert found["exposed_communication"] == pytest.approx(12 + 20 * (1 - 1 / faster))
    assert after(training(), hardware="h20")["exposed_communication"] == 12  # slower computation hides as much
    with pytest.raises(InvalidValue, match="limit"):
        after(training(seconds={"compute": 5.0}), hardware="b200")
    with pytest.raises(UnknownName):
        after(training(), hardware="h9000")
    with pytest.raises(InvalidValue, match="int8"):
        after(training(dtype="int8"), hardware="h20")


def test_serving_elsewhere_prefill_by_flops_and_decoding_by_bandwidth():
    h200 = catalogue.get("h200-sxm")
    flops, bandwidth = 989.4e12 / 989e12, 3.35e12 / h200.figure("memory_bytes_per_second").value
    found = after(serving(), hardware="h200-sxm")
    assert found["ideal"] == pytest.approx(10 * flops + 20 * bandwidth)
    assert found["queue_idle"] == 30
    for change in ({"devices": 2}, {"precision": "fp8"}):
        with pytest.raises(InvalidValue, match="infer"):
            after(serving(), **change)
    with pytest.raises(InvalidValue, match="bandwidth"):
        after(serving(input_seconds=None), hardware="h200-sxm")


def test_the_precision():
    found = after(training(hidden_communication_seconds=None), precision="fp8")
    assert found["ideal"] == pytest.approx(40 * 989.4 / 1978.9)
    assert found["kernel_inefficiency"] == 16
    with pytest.raises(InvalidValue, match="catalogue"):
        after(training(hardware="a probed cpu"), precision="fp8")


def test_the_schedule():
    assert after(training(), schedule="ZB1P")["pipeline_bubble"] == pytest.approx(6 / 3)
    assert after(training(), schedule="Interleaved1F1B")["pipeline_bubble"] == pytest.approx(6 / 2)
    with pytest.raises(InvalidValue, match="pipeline"):
        after(training(pipeline=1), schedule="ZB1P")
    with pytest.raises(InvalidValue, match="even"):
        after(training(pipeline=5), schedule="DualPipe")
    assert after(training(schedule="ZBVZeroBubble"), schedule="1F1B")["pipeline_bubble"] == pytest.approx(6 * 6)
    assert bubble_over_work("1F1B", 8, 16) == pytest.approx(7 / 16)


def test_devices_and_price():
    found = after(training(), devices=16)
    assert (found["ideal"], found["startup"], found["exposed_communication"]) == (40, 20, 24)
    result = what_if(training(), Changes(price=rental(3.0)))
    assert result.cost_ratio == pytest.approx(1.5)
    assert result.after.bill.usd == pytest.approx(1.5 * result.before.bill.usd)
    with pytest.raises(InvalidValue, match="devices"):
        after(training(devices=None), devices=16)


def test_what_cannot_be():
    with pytest.raises(UsageError, match="nothing"):
        what_if(training(), Changes())
    with pytest.raises(InvalidValue, match="balance"):
        what_if(training(residual_seconds=50.0), Changes(devices=4))
    assert set(SECONDS) <= set(TRAINING_CATEGORIES)
    assert set(serving().seconds) <= set(INFERENCE_CATEGORIES)
