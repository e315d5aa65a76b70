"""The NVIDIA source through the real binding, against a C stand-in for the driver's library."""

import json
import os
import subprocess
import sys

import pytest

from collector.sources.base import SourceUnavailable
from collector.sources.nvml import RETRY_SECONDS, NvmlSource

HOPPER = "GPU-5e3b8a72-91c4-4c1f-a8d0-3f6f0b1c2d4e"
AMPERE = "GPU-0a9c77de-2b64-4f0e-9f51-77c2b3aa9910"
GPM = {
    "accel_sm_active_ratio",
    "accel_sm_occupancy_ratio",
    "accel_tensor_active_ratio",
    "accel_memory_bandwidth_ratio",
    "accel_link_bytes_per_second",
}


@pytest.fixture
def scenario(node_folder):
    return (node_folder("..") / "nvml" / "two-devices.scenario").read_text()


@pytest.fixture
def open_source(fake_time):
    opened = []

    def make(**options):
        opened.append(NvmlSource(fake_time.clock(), **options))
        return opened[-1]

    yield make
    for source in opened:
        source.close()


def of(parts, device):
    readings = {
        (reading.metric, *(value for _, value in reading.labels)): reading.value
        for reading in parts.readings
        if reading.device == device
    }
    absences = {absence.metric: absence.reason for absence in parts.absences if absence.device == device}
    return readings, absences


def test_devices_and_figures_in_base_units(nvml_stub, scenario, open_source):
    nvml_stub(scenario)
    parts = open_source().read()
    assert [(d.id, d.model, d.vendor, d.index) for d in parts.devices] == [
        (HOPPER, "NVIDIA H100 80GB HBM3", "NVIDIA", 0),
        (AMPERE, "NVIDIA A100-PCIE-40GB", "NVIDIA", 1),
    ]
    assert parts.devices[0].memory_bytes == 85520809984
    readings, _ = of(parts, HOPPER)
    expected = {
        ("accel_busy_ratio",): 1.0,
        ("accel_memory_used_bytes",): 71234567168,  # without what the driver reserves for itself
        ("accel_memory_total_bytes",): 85520809984,
        ("accel_power_watts",): 612.345,
        ("accel_power_limit_watts",): 700.0,
        ("accel_energy_joules_total",): 918273645.546,
        ("accel_temperature_celsius",): 61,
        ("accel_clock_hertz", "compute"): 1.755e9,
        ("accel_clock_hertz", "memory"): 2.619e9,
        ("accel_throttled_ratio", "software_power_cap"): 1,
        ("accel_throttled_ratio", "hardware_thermal"): 0,
    }
    assert {key: readings[key] for key in expected} == pytest.approx(expected)


def test_performance_monitoring_needs_two_samples_and_says_why_a_device_has_none(
    nvml_stub, scenario, open_source, fake_time
):
    nvml_stub(scenario)
    source = open_source()
    readings, absences = of(source.read(), HOPPER)
    assert not GPM & ({key[0] for key in readings} | set(absences))
    fake_time.advance(1)
    parts = source.read()
    readings, absences = of(parts, HOPPER)
    assert readings[("accel_sm_active_ratio",)] == 0.875
    assert readings[("accel_sm_occupancy_ratio",)] == 0.3125
    assert readings[("accel_tensor_active_ratio",)] == 0.4375
    assert readings[("accel_memory_bandwidth_ratio",)] == 0.625
    assert readings[("accel_link_bytes_per_second", "tx", "pcie")] == 1536 * 2**20
    assert readings[("accel_link_bytes_per_second", "rx", "pcie")] == 512 * 2**20
    assert readings[("accel_link_bytes_per_second", "rx", "nvlink")] == 204800 * 2**20
    assert not GPM & set(absences)
    _, absences = of(parts, AMPERE)
    assert {absences[metric] for metric in GPM} == {
        "performance monitoring: this device has none (Hopper and newer do)"
    }
    # Each further reading compares with the one before it: the stand-in refuses samples in the wrong order.
    fake_time.advance(1)
    assert of(source.read(), HOPPER)[0][("accel_sm_active_ratio",)] == 0.875


def test_performance_monitoring_metric_that_is_missing_or_no_number(nvml_stub, scenario, open_source, fake_time):
    stub = nvml_stub(scenario)
    stub.change(**{"0.gpm.5": "nan", "0.gpm.10": "1e15", "0.gpm.60": "not_supported", "0.gpm.61": "not_supported"})
    source = open_source()
    source.read()
    fake_time.advance(1)
    readings, absences = of(source.read(), HOPPER)
    assert ("accel_tensor_active_ratio",) not in readings
    assert absences["accel_tensor_active_ratio"] == "performance monitoring: the driver gave no number"
    assert absences["accel_memory_bandwidth_ratio"] == "performance monitoring: the driver gave no number"
    # PCIe answers and NVLink does not: what there is stays.
    assert readings[("accel_link_bytes_per_second", "rx", "pcie")] == 512 * 2**20
    assert "of nvlink rx: not supported by this device" in absences["accel_link_bytes_per_second"]


def test_what_a_device_does_not_support_is_absent_and_not_asked_again(nvml_stub, scenario, open_source, fake_time):
    stub = nvml_stub(scenario)
    source = open_source()
    for _ in range(3):  # a field, the field that newer drivers have, the call that older ones have
        readings, absences = of(source.read(), AMPERE)
        assert ("accel_energy_joules_total",) not in readings
        assert absences["accel_energy_joules_total"] == "energy: not supported by this device"
        fake_time.advance(1)
    stub.take_calls()
    parts = source.read()
    assert of(parts, AMPERE)[1]["accel_energy_joules_total"] == "energy: not supported by this device"
    assert "nvmlDeviceGetTotalEnergyConsumption" not in stub.take_calls()  # the Hopper gives it with other fields


def test_a_passing_error_and_a_blank_are_absent_until_the_next_tick(nvml_stub, scenario, open_source, fake_time):
    stub = nvml_stub(scenario)
    source = open_source(slow_seconds=1)
    stub.change(**{"0.field.185": "unknown", "0.temperature": "blank"})
    readings, absences = of(source.read(), HOPPER)
    assert ("accel_power_watts",) not in readings
    assert "Unknown Error" in absences["accel_power_watts"]
    assert absences["accel_temperature_celsius"] == "temperature: the driver gave no number"
    stub.change(**{"0.field.185": 500000, "0.temperature": 60})
    fake_time.advance(1)
    readings, _ = of(source.read(), HOPPER)
    assert readings[("accel_power_watts",)] == 500
    assert readings[("accel_temperature_celsius",)] == 60


def test_an_old_driver_lacks_symbols_and_the_rest_goes_on(nvml_stub, scenario, open_source):
    nvml_stub(scenario, old_driver=True)
    readings, absences = of(open_source().read(), HOPPER)
    assert readings[("accel_memory_used_bytes",)] == 71234567168 + 585760768  # it cannot tell them apart
    assert readings[("accel_throttled_ratio", "software_power_cap")] == 1
    assert {absences[metric] for metric in GPM} == {"performance monitoring: the installed driver is too old for it"}


def test_a_lost_device_is_absent_the_others_go_on_and_it_is_looked_for_again(
    nvml_stub, scenario, open_source, fake_time
):
    stub = nvml_stub(scenario)
    source = open_source()
    source.read()
    stub.change(_0_state="lost")
    fake_time.advance(1)
    parts = source.read()
    readings, absences = of(parts, HOPPER)
    assert not readings
    assert set(absences) == {metric for metric in NvmlSource.metrics if metric.startswith("accel_")}
    assert "lost" in absences["accel_power_watts"]
    assert of(parts, AMPERE)[0][("accel_power_watts",)] == pytest.approx(74.512)
    assert {device.id for device in parts.devices} == {HOPPER, AMPERE}  # it is still paid for
    stub.change(_0_state="ok")
    fake_time.advance(RETRY_SECONDS)
    assert of(source.read(), HOPPER)[0][("accel_power_watts",)] == pytest.approx(612.345)


def test_all_devices_lost_is_a_failure(nvml_stub, scenario, open_source):
    nvml_stub(scenario).change(_0_state="lost", _1_state="needs_reset")
    with pytest.raises(SourceUnavailable, match=r"lost.*; the device needs a reset"):
        open_source().read()


def test_the_driver_may_go_and_come_back(nvml_stub, scenario, open_source, fake_time):
    stub = nvml_stub(scenario)
    source = open_source()
    source.read()
    stub.change(driver="not_loaded")
    with pytest.raises(SourceUnavailable, match="the NVIDIA driver is not loaded"):
        source.read()
    stub.take_calls()
    with pytest.raises(SourceUnavailable, match="the NVIDIA driver is not loaded"):
        source.read()
    assert stub.take_calls() == []  # left alone for a while
    stub.change(driver="loaded")
    fake_time.advance(RETRY_SECONDS)
    assert len(source.read().devices) == 2


@pytest.mark.parametrize(
    ("scenario_text", "reason"),
    [
        ("driver loaded\ndevices 0\n", "finds no device"),
        ("driver mismatch\n", "differ in version"),
        ("driver not_loaded\n", "is not loaded"),
    ],
)
def test_no_usable_driver_is_a_failure_with_its_reason(nvml_stub, open_source, scenario_text, reason):
    nvml_stub(scenario_text)
    with pytest.raises(SourceUnavailable, match=reason):
        open_source().read()


def test_closing_lets_go_of_the_driver(nvml_stub, scenario, open_source):
    stub = nvml_stub(scenario)
    source = open_source()
    source.read()
    stub.take_calls()
    source.close()
    assert stub.take_calls()[-1] == "nvmlShutdown"


READ_ONCE = """
import json
from collector.clock import Clock
from collector.sources.base import take
from collector.sources.nvml import NvmlSource
sample = take(NvmlSource(Clock()), Clock())
print(json.dumps({"error": sample.error, "devices": [device.model for device in sample.devices]}))
"""


def read_in_new_process(**environment):
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", READ_ONCE], env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_the_library_is_found_as_the_loader_finds_it(nvml_library, node_folder):
    answer = read_in_new_process(
        LD_LIBRARY_PATH=str(nvml_library().parent),
        NVML_STUB_SCENARIO=str(node_folder("..") / "nvml" / "two-devices.scenario"),
    )
    assert answer == {"error": None, "devices": ["NVIDIA H100 80GB HBM3", "NVIDIA A100-PCIE-40GB"]}


def test_a_node_without_the_library_says_so(tmp_path):
    # A file that is no library, first on the loader's path, hides one that the machine may have.
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    answer = read_in_new_process(LD_LIBRARY_PATH=str(tmp_path))
    assert answer == {"error": "no NVIDIA driver is installed (libnvidia-ml.so.1 was not found)", "devices": []}
