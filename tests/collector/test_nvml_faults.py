"""What drivers do on a bad day: marks for numbers, wraps, events, hung calls, reloads, instances."""

import json
import os
import signal
import subprocess
import sys
import threading
from itertools import pairwise

import pynvml
import pytest

from collector.lanes import Lanes
from collector.sources.nvml import RETRY_SECONDS, NvmlSource
from tokenstone.window import WindowBuilder

GPU = "GPU-5e3b8a72-91c4-4c1f-a8d0-3f6f0b1c2d4e"
OTHER = "GPU-0a9c77de-2b64-4f0e-9f51-77c2b3aa9910"


@pytest.fixture
def scenario(node_folder):
    return (node_folder("..") / "nvml" / "two-devices.scenario").read_text()


@pytest.fixture
def source(fake_time):
    opened = []

    def make(**options):
        opened.append(NvmlSource(fake_time.clock(), **{"slow_seconds": 1, "rare_seconds": 1} | options))
        return opened[-1]

    yield make
    for source in opened:
        source.close()


def value(parts, metric, device=GPU, **by):
    found = [r.value for r in (*parts.readings, *parts.held)
             if r.metric == metric and r.device == device and by.items() <= dict(r.labels).items()]  # fmt: skip
    return found[0] if found else None


def why(parts, metric, device=GPU):
    return {absence.reason for absence in parts.absences if absence.metric == metric and absence.device == device}


BLANKS = [
    ("0.field.186", "u32:blank", "accel_power_instant_watts"),
    ("0.field.186", "u32:0x7FFFFFF0", "accel_power_instant_watts"),
    ("0.field.186", "d:nan", "accel_power_instant_watts"),
    ("0.field.185", "d:140737488355328", "accel_power_watts"),
    ("0.field.83", "blank", "accel_energy_joules_total"),
    ("0.field.83", "0x7FFFFFFFFFFFFFF0", "accel_energy_joules_total"),
    ("0.memory_used", "blank", "accel_memory_used_bytes"),
    ("0.utilization", "blank", "accel_busy_ratio"),
    ("0.temperature", "blank", "accel_temperature_celsius"),
    ("0.throttle", "blank", "accel_throttled_ratio"),
    ("0.field.82", "u32:blank", "accel_memory_temperature_celsius"),
]


@pytest.mark.parametrize(("key", "mark", "metric"), BLANKS)
def test_a_mark_for_no_value_is_never_a_value(nvml_stub, scenario, source, key, mark, metric):
    nvml_stub(scenario).change(**{key: mark})
    parts = source().read()
    assert value(parts, metric) is None
    assert any(reason.endswith("the driver gave no number") for reason in why(parts, metric))


@pytest.mark.parametrize("metric_id", [2, 3, 5, 10, 20, 60])
@pytest.mark.parametrize("mark", ["nan", "inf", "-1", "140737488355328", "1.7e308"])
def test_no_activity_figure_is_invented(nvml_stub, scenario, source, fake_time, metric_id, mark):
    nvml_stub(scenario).change(**{f"0.gpm.{metric_id}": mark})
    nvml = source()
    nvml.read()
    fake_time.advance(1)
    numbers = [reading.value for reading in nvml.read().readings if reading.device == GPU]
    assert all(0 <= number < 1e14 for number in numbers)


def test_one_call_gives_energy_power_links_and_throttling(nvml_stub, scenario, source, fake_time):
    stub = nvml_stub(scenario)
    nvml = source(slow_seconds=60)
    nvml.read()
    fake_time.advance(1)
    stub.take_calls()
    parts = nvml.read()
    assert stub.take_calls().count("nvmlDeviceGetFieldValues") == 2  # one for each device
    assert value(parts, "accel_power_instant_watts") == 655
    assert value(parts, "accel_energy_joules_total") == pytest.approx(918273645.546)
    assert value(parts, "accel_link_bytes_total", link="nvlink", direction="tx") == 5368709120 * 1024
    assert value(parts, "accel_link_bytes_total", link="pcie", direction="rx") == 8589934592
    assert value(parts, "accel_throttled_seconds_total", reason="software_power_cap") == pytest.approx(1234.567890123)
    assert value(parts, "accel_recovery_action_ratio", action="none") == 1
    assert value(parts, "accel_remapped_rows_total", cause="corrected") == 1


def test_a_register_of_kibibytes_is_followed_over_its_wrap(nvml_stub, scenario, source, fake_time):
    stub = nvml_stub(scenario)
    nvml, totals = source(), []
    for raw in (2**32 - 1000, 24, 5000):
        stub.change(**{"0.field.138": f"u32:{raw}"})
        totals.append(value(nvml.read(), "accel_link_bytes_total", link="nvlink", direction="tx"))
        fake_time.advance(1)
    assert [later - earlier for earlier, later in pairwise(totals)] == [1024 * 1024, 4976 * 1024]


def test_a_register_that_may_wrap_twice_between_two_readings_is_absent(nvml_stub, scenario, source, fake_time):
    nvml_stub(scenario).change(**{"0.field.197": "u32:123"})
    nvml = source()
    nvml.read()
    fake_time.advance(1)
    parts = nvml.read()
    assert value(parts, "accel_link_bytes_total", link="pcie", direction="tx") is None
    assert "PCIe bytes: a register of 32 bits may be full more than once between two readings" in why(
        parts, "accel_link_bytes_total"
    )


def test_energy_that_begins_anew_with_the_driver_adds_what_it_shows(nvml_stub, scenario, source, fake_time):
    stub = nvml_stub(scenario)
    nvml, builder = source(), WindowBuilder(0.0)
    for millijoules in (1_000_000, 1_500_000, 200_000):
        stub.change(**{"0.field.83": millijoules})
        builder.add(nvml.read().readings)
        fake_time.advance(1)
    [window] = [w for w in builder.close(unix_seconds=3, duration_seconds=3)
                if w.series.metric == "accel_energy_joules_total" and w.series.device == GPU]  # fmt: skip
    assert window.delta == 700


def test_error_events_are_counted_with_their_time(nvml_stub, scenario, source, fake_time, eventually):
    stub = nvml_stub(scenario)
    stub.change(xids="0:13")  # of before our time: the driver does not tell it
    nvml = source()
    assert value(nvml.read(), "accel_errors_total", type="xid") == 0
    stub.change(xids="0:13 0:79 0:31 0:31 1:63")

    def counted():
        fake_time.advance(1)
        return value(nvml.read(), "accel_errors_total", type="xid") == 3

    eventually(counted)
    parts = nvml.read()
    assert value(parts, "accel_xid_errors_total", xid="31") == 2
    assert value(parts, "accel_xid_errors_total", xid="79") == 1
    assert value(parts, "accel_xid_errors_total", OTHER, xid="63") == 1
    assert (
        1_800_001_000 <= value(parts, "accel_xid_last_timestamp_seconds", xid="79") <= 1_800_000_000 + fake_time.seconds
    )


def test_a_storm_of_error_events_keeps_its_labels_bounded(nvml_stub, scenario, source, fake_time, eventually):
    stub = nvml_stub(scenario)
    nvml = source()
    nvml.read()
    stub.change(xids=" ".join(f"0:{number}" for number in range(2000)))

    def counted():
        fake_time.advance(1)
        return value(nvml.read(), "accel_errors_total", type="xid") == 2000

    eventually(counted)
    xids = [r for r in nvml.read().held if r.metric == "accel_xid_errors_total"]
    assert len(xids) == 65
    assert sum(reading.value for reading in xids) == 2000


def test_a_device_that_reports_no_events_says_so(nvml_stub, scenario, source):
    nvml_stub(scenario).change(**{"0.events": "not_supported"})
    parts = source().read()
    assert why(parts, "accel_xid_errors_total") == {"error events: not supported by this device"}
    assert value(parts, "accel_errors_total", OTHER, type="xid") == 0


def test_a_call_that_hangs_is_named_and_harms_nobody_else(nvml_stub, scenario, fake_time, eventually):
    stub = nvml_stub(scenario)
    nvml = NvmlSource(fake_time.clock())
    lanes = Lanes([nvml], fake_time.clock(), patience_seconds=0.05)
    lanes.read()
    stub.change(hang="nvmlDeviceGetUtilizationRates")
    threads = threading.active_count()
    for _ in range(10):
        fake_time.advance(1)
        [(sample, _)] = lanes.read()
    assert sample.error == "it has not answered for more than 5 s: nvmlDeviceGetUtilizationRates does not return"
    assert threading.active_count() == threads
    stub.scenario(scenario)
    eventually(lambda: lanes.read()[0][0].error is None)
    lanes.close()


def test_instances_are_devices_of_their_own_and_may_be_rearranged(nvml_stub, scenario, source, fake_time):
    stub = nvml_stub(scenario)
    stub.change(**{
        "0.mig": 7, "0.utilization": "not_supported",
        "0.mig.0.uuid": "MIG-1", "0.mig.0.name": "NVIDIA H100 MIG 3g.40gb", "0.mig.0.instance": 2,
        "0.mig.0.memory_total": 42949672960, "0.mig.0.memory_used": 1073741824,
        "0.mig.gpm.2.2": 50, "0.mig.gpm.2.5": 25,
        "0.mig.3.uuid": "MIG-2", "0.mig.3.name": "NVIDIA H100 MIG 1g.10gb", "0.mig.3.instance": 9,
        "0.mig.3.memory_total": 10737418240, "0.mig.3.memory_used": 0,
    })  # fmt: skip
    nvml = source()
    nvml.read()
    fake_time.advance(1)
    parts = nvml.read()
    assert [(info.id, info.model, info.memory_bytes) for info in parts.devices if info.id.startswith("MIG")] == [
        ("MIG-1", "NVIDIA H100 MIG 3g.40gb", 42949672960),
        ("MIG-2", "NVIDIA H100 MIG 1g.10gb", 10737418240),
    ]
    assert value(parts, "accel_sm_active_ratio", "MIG-1") == 0.5
    assert value(parts, "accel_tensor_active_ratio", "MIG-1") == 0.25
    assert value(parts, "accel_memory_used_bytes", "MIG-2") == 0
    assert value(parts, "accel_sm_active_ratio", "MIG-2") is None
    assert value(parts, "accel_busy_ratio") is None
    stub.change(**{"0.mig.0.uuid": "MIG-3"})
    fake_time.advance(1)
    ids = {info.id for info in nvml.read().devices}
    assert ids == {GPU, OTHER, "MIG-2", "MIG-3"}


def test_processes_are_counted_only_where_that_is_asked_for(nvml_stub, scenario, source):
    stub = nvml_stub(scenario)
    stub.change(**{"0.processes": "4711:1073741824 4712:blank"})
    source().read()
    assert "nvmlDeviceGetComputeRunningProcesses_v3" not in stub.take_calls()
    parts = source(processes=True).read()
    assert value(parts, "accel_processes") == 2
    assert value(parts, "accel_process_memory_bytes", pid="4711") == 1073741824
    assert value(parts, "accel_process_memory_bytes", pid="4712") is None


def test_a_call_that_is_switched_off_is_never_made(nvml_stub, scenario, source, fake_time):
    stub = nvml_stub(scenario)
    skip = ("nvmlDeviceGetUtilizationRates", "nvmlGpmSampleGet", "nvmlDeviceGetFieldValues", "nvmlDeviceRegisterEvents")
    nvml = source(skip=skip)
    nvml.read()
    fake_time.advance(1)
    parts = nvml.read()
    assert not set(skip) & set(stub.take_calls())
    assert why(parts, "accel_busy_ratio") == {"utilization: nvmlDeviceGetUtilizationRates is switched off (nvml_skip)"}
    assert value(parts, "accel_memory_used_bytes") == 71234567168


def test_each_call_has_a_cost(nvml_stub, scenario, source, fake_time):
    nvml_stub(scenario)
    nvml = source()
    nvml.read()
    fake_time.advance(1)
    parts = nvml.read()
    assert value(parts, "tokenstone_driver_calls_total", "host", call="nvmlDeviceGetTemperature") == 4
    assert value(parts, "tokenstone_driver_call_seconds_total", "host", call="nvmlDeviceGetTemperature") == 0


def test_slow_figures_are_asked_for_less_often_and_shown_meanwhile(nvml_stub, scenario, source, fake_time):
    stub = nvml_stub(scenario)
    nvml = source(slow_seconds=5, rare_seconds=60)
    asked = []
    for _ in range(11):
        parts = nvml.read()
        asked.append("nvmlDeviceGetTemperature" in stub.take_calls())
        assert value(parts, "accel_temperature_celsius") == 61
        fake_time.advance(1)
    assert [tick for tick, was_asked in enumerate(asked) if was_asked] == [0, 5, 10]


def test_a_device_that_fell_off_the_bus_takes_nothing_stale_along(nvml_stub, scenario, source, fake_time):
    stub = nvml_stub(scenario)
    nvml = source(slow_seconds=5)
    nvml.read()
    stub.change(**{"0.state": "lost"})
    fake_time.advance(1)
    parts = nvml.read()
    assert not [reading for reading in (*parts.readings, *parts.held) if reading.device == GPU]
    assert any("fell off the bus" in reason for reason in why(parts, "accel_energy_joules_total"))


def test_looking_for_a_lost_device_costs_the_others_ever_less(nvml_stub, scenario, source, fake_time):
    stub = nvml_stub(scenario)
    nvml = source()
    nvml.read()
    stub.change(**{"0.state": "lost"})
    gaps = []
    for second in range(300):
        stub.take_calls()
        fake_time.advance(1)
        parts = nvml.read()
        if "nvmlInitWithFlags" in stub.take_calls():
            gaps.append(second)
        assert value(parts, "accel_busy_ratio", OTHER) is not None
    assert gaps == [10, 30, 70, 150]
    stub.change(**{"0.state": "ok"})
    fake_time.advance(20)
    assert value(nvml.read(), "accel_busy_ratio") is not None
    stub.change(**{"0.state": "lost"})  # and when it is lost anew, it is looked for soon
    fake_time.advance(1)
    nvml.read()
    stub.change(**{"0.state": "ok"})
    fake_time.advance(RETRY_SECONDS)
    assert value(nvml.read(), "accel_busy_ratio") is not None


def test_a_fault_of_the_binding_is_the_fault_of_one_call(nvml_stub, scenario, source, monkeypatch):
    def refuse(*_):
        raise pynvml.NVMLLibraryMismatchError("unversioned function called")

    nvml_stub(scenario)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", refuse)
    monkeypatch.delattr(pynvml, "nvmlDeviceGetTemperature")
    parts = source().read()
    assert why(parts, "accel_busy_ratio") == {"utilization: the installed driver is too old for it"}
    assert why(parts, "accel_temperature_celsius") == {"temperature: the installed driver is too old for it"}
    assert value(parts, "accel_memory_used_bytes") == 71234567168


UPGRADE = """
import json, os, sys
from collector.clock import Clock
from collector.sources.base import take
from collector.sources.nvml import RETRY_SECONDS, NvmlSource
now = 0.0
clock = Clock(lambda: now, lambda: now)
source = NvmlSource(clock)
before = take(source, clock).error
os.replace(sys.argv[1], sys.argv[2])  # the upgrade is complete: library and kernel module fit again
now += RETRY_SECONDS
after = take(source, clock)
source.close()
print(json.dumps([before, after.error, len(after.devices)]))
"""


def test_after_an_upgrade_of_the_driver_the_new_library_is_loaded(nvml_library, node_folder, tmp_path):
    for name, library in (("libnvidia-ml.so.1", nvml_library(mismatch=True)), ("new", nvml_library())):
        (tmp_path / name).write_bytes(library.read_bytes())
    env = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path),
           "NVML_STUB_SCENARIO": str(node_folder("..") / "nvml" / "two-devices.scenario")}  # fmt: skip
    command = [sys.executable, "-c", UPGRADE, str(tmp_path / "new"), str(tmp_path / "libnvidia-ml.so.1")]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == ["NVIDIA's library and kernel module differ in version", None, 2]


def test_a_reload_of_the_driver_keeps_what_was_counted(nvml_stub, scenario, source, fake_time, eventually):
    stub = nvml_stub(scenario)
    nvml = source()
    nvml.read()
    stub.change(xids="0:79")

    def counted():
        fake_time.advance(1)
        return value(nvml.read(), "accel_errors_total", type="xid") == 1

    eventually(counted)
    stub.change(driver="not_loaded")
    with pytest.raises(Exception, match="is not loaded"):
        nvml.read()
    stub.change(driver="loaded")
    fake_time.advance(RETRY_SECONDS)
    assert value(nvml.read(), "accel_errors_total", type="xid") == 1


@pytest.mark.slow
def test_the_real_agent_lets_go_of_the_driver_on_a_signal(nvml_library, scenario, tmp_path, eventually):
    (tmp_path / "scenario").write_text(scenario)
    env = {**os.environ, "LD_LIBRARY_PATH": str(nvml_library().parent), "TOKENSTONE_SOURCES": "nvml",
           "NVML_STUB_SCENARIO": str(tmp_path / "scenario"), "NVML_STUB_CALLS": str(tmp_path / "calls")}  # fmt: skip
    command = [sys.executable, "-m", "cli", "agent", "--listen", "none", "--sample-seconds", "0.2"]

    def called(name):
        return (tmp_path / "calls").exists() and name in (tmp_path / "calls").read_text()

    log = tmp_path / "log"
    with log.open("w") as stderr, subprocess.Popen(command, env=env, stderr=stderr) as agent:
        eventually(lambda: called("nvmlGpmMetricsGet"))
        agent.send_signal(signal.SIGUSR1)
        eventually(lambda: 'why="released on request; SIGUSR2 takes it again"' in log.read_text())
        assert called("nvmlShutdown")
        (tmp_path / "calls").write_text("")
        agent.send_signal(signal.SIGUSR2)
        eventually(lambda: called("nvmlInitWithFlags"))
        agent.send_signal(signal.SIGTERM)
    assert agent.returncode == 0
