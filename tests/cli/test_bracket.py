"""What is known of a command from outside, and what the options refuse."""

import os
import sys

import pytest

from cli.bracket import Outcome, run_bracketed, token_pattern
from cli.run_facts import bracketed_facts, devices_of, joules
from tokenstone.ledger import training_ledger
from tokenstone.wire import Device, WindowRow

NODE = [
    Device(id=f"GPU-{letter * 4}", kind="accelerator", vendor="NVIDIA", model="NVIDIA H100 80GB HBM3", index=index)
    for index, letter in enumerate("abcd")
]
HOST = Device(id="host", kind="host", vendor="", model="")


def window(metric: str, device: str, **values) -> WindowRow:
    base = {"mean": None, "minimum": None, "maximum": None, "delta": None}
    return WindowRow(
        node="n", device=device, metric=metric, labels={}, start_unix_seconds=100, duration_seconds=1, count=1,
        **(base | values),
    )  # fmt: skip


def test_a_signal_that_kills_the_command_is_128_and_its_number():
    outcome = run_bracketed([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], os.environ)
    assert outcome.exit_code == 137
    assert outcome.tokens is None


@pytest.mark.parametrize(
    ("environment", "ids"),
    [
        ({}, ["GPU-aaaa", "GPU-bbbb", "GPU-cccc", "GPU-dddd"]),
        ({"CUDA_VISIBLE_DEVICES": "1,3"}, ["GPU-bbbb", "GPU-dddd"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-cc"}, ["GPU-cccc"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["host"]),
    ],
)
def test_the_devices_are_those_that_the_command_may_see(environment, ids):
    found = devices_of("n", [HOST, *NODE], environment, hardware=None)
    assert [device.id for device in found] == ids
    assert {device.hardware for device in found} == ({None} if ids == ["host"] else {"h100-sxm"})


def test_the_ledger_from_outside_is_utilization_and_balances():
    devices = devices_of("n", NODE[:2], {}, hardware=None)
    outcome = Outcome(0, 100.0, 50.0, 20.0, 10**6, None)
    windows = [window("accel_busy_ratio", "GPU-aaaa", mean=0.8), window("accel_busy_ratio", "GPU-bbbb", mean=0.4)]
    facts = bracketed_facts(outcome, devices, windows, tokens=5)
    ledger = training_ledger(facts, 0.0, None)
    assert ledger.balanced
    assert ledger.seconds["compute"] == pytest.approx(0.8 * 50 + 0.4 * 50)
    assert "utilization by the driver" in facts.provenance["busy"]
    unknown = bracketed_facts(outcome, devices, windows[:1], tokens=5)
    assert "no utilization was measured" in unknown.provenance["busy"]


def test_energy_is_absent_unless_every_device_tells_it():
    devices = devices_of("n", NODE[:2], {}, hardware=None)
    told = [window("accel_energy_joules_total", "GPU-aaaa", delta=100.0)] * 2
    assert joules(devices, told) is None
    assert joules(devices, [*told, window("accel_energy_joules_total", "GPU-bbbb", delta=1.0)]) == 201.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tokens", "1.5", "--", "true"], "--tokens"),
        (["--tokens", "1", "--tokens-from", "(x)", "--", "true"], "either"),
        (["--tokens-from", "(", "--", "true"], "no pattern"),
        (["--tokens-from", "tokens", "--", "true"], "0 groups"),
        (["--flops-per-token", "-1", "--", "true"], "--flops-per-token"),
        (["--hardware", "h9000", "--", "true"], "h9000"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_run(tokenstone, tmp_path, arguments, says):
    code, _, error = tokenstone("run", "--data", str(tmp_path / "data"), *arguments)
    assert code == 2
    assert says in error
    assert not (tmp_path / "data").exists()


def test_a_pattern_has_one_group():
    assert token_pattern(r"(\d+) tokens").search(b"12 tokens")[1] == b"12"
