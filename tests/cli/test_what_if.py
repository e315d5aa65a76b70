"""`tokenstone what-if` on the documents that other commands write."""

import json

import pytest

LEDGER = {"ideal": 40.0, "kernel_inefficiency": 30.0, "exposed_communication": 30.0}
TRACE = {
    "ledger_seconds": LEDGER, "residual_seconds": 0.0, "overlap_us": 10e6, "ranks": [{}, {}],
    "peak": {"hardware": "h100-sxm", "dtype": "bf16", "flops_per_second": 989.4e12},
    "bill": {"tokens": 1_000_000, "price": {"usd_per_device_hour": 36.0, "basis": "rental", "source": "given"}},
}  # fmt: skip
TRAIN = {
    "ledger_seconds": LEDGER, "residual_seconds": 0.0, "tokens": 1000, "price": None,
    "roofline": {"hardware": "x86", "dtype": "fp32", "peak_flops_per_second": 1e11, "memory_bytes_per_second": 1e10},
}  # fmt: skip
BENCH = {"training": TRAIN, "inference": TRAIN | {"prefill_ratio": 0.5}, "price": None}


@pytest.fixture
def result(tmp_path):
    def write(document) -> str:
        path = tmp_path / "result.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return str(path)

    return write


def test_a_trace_over_a_faster_network(tokenstone, result):
    code, out, _ = tokenstone("what-if", result(TRACE), "--link-rate-factor", "2", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["provenance"] == "simulated"
    assert document["after"]["seconds"]["exposed_communication"] == 10
    assert document["before"]["bill"]["usd_per_million_tokens"] == pytest.approx(1.0)
    assert document["after"]["bill"]["usd_per_million_tokens"] == pytest.approx(0.8)
    assert any("latency" in assumption for assumption in document["assumptions"])


def test_the_terminal_shows_both_bills_and_all_assumptions(tokenstone, result):
    path = result(TRACE)
    code, out, _ = tokenstone("what-if", path, "--hardware", "b200", "--price-per-device-hour", "40")
    assert code == 0
    assert "$ per million tokens" in out
    assert "$1.00" in out
    assert "Simulated" in out
    assert "2,250 TFLOP/s" in out


@pytest.mark.parametrize(
    ("document", "arguments", "code", "says"),
    [
        ("{", ["--devices", "2"], 2, "JSON"),
        ("[]", ["--devices", "2"], 2, "not a result"),
        ({}, ["--devices", "2"], 2, "no ledger"),
        (TRACE, [], 2, "nothing is to be otherwise"),
        (TRACE, ["--link-rate-factor", "nan"], 2, "--link-rate-factor"),
        (TRACE, ["--link-rate-factor", "0"], 2, "--link-rate-factor"),
        (TRACE, ["--schedule", "ZB1P"], 2, "--pipeline"),
        (TRAIN, ["--hardware", "h100-sxm"], 2, "fp32"),
        (TRAIN, ["--precision", "fp8"], 2, "catalogue"),
        (BENCH, ["--devices", "2"], 2, "--part"),
        ({"ledger_seconds": {"ideal": "x"}}, ["--devices", "2"], 2, "whole result"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(tokenstone, result, document, arguments, code, says):
    got, out, error = tokenstone("what-if", result(document), *arguments)
    assert (got, out) == (code, "")
    assert says in error


def test_a_file_that_is_not_there(tokenstone):
    code, _, error = tokenstone("what-if", "nowhere.json", "--devices", "2")
    assert code == 2
    assert "no such file" in error


def test_schedules_by_hand_and_one_part_of_two(tokenstone, result):
    ledger = LEDGER | {"pipeline_bubble": 12.0}
    told = ["--from-schedule", "1f1b", "--pipeline", "4", "--micro-batches", "8", "--schedule", "zb1p", "--json"]
    code, out, _ = tokenstone("what-if", result(TRACE | {"ledger_seconds": ledger}), *told)
    assert code == 0
    assert json.loads(out)["after"]["seconds"]["pipeline_bubble"] == pytest.approx(4.0)
    code, out, _ = tokenstone("what-if", result(BENCH), "--part", "training", "--price-per-device-hour", "1", "--json")
    assert code == 0
    assert json.loads(out)["cost_ratio"] is None  # it had no price before
