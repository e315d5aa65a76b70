"""AMD's and Moore Threads' own Python bindings against stand-ins for their libraries."""

import sys

import pytest

from collector.clock import Clock
from collector.sources.amd import RETRY_SECONDS, AmdSource
from collector.sources.base import take
from collector.sources.moorethreads import MooreThreadsSource


@pytest.fixture
def amd(amd_stub, node_folder):
    return amd_stub((node_folder("mi300x-node") / "amdsmi.scenario").read_text())


def series(sample, metric, **labels):
    return {
        r.device: r.value for r in sample.readings if r.metric == metric and labels.items() <= dict(r.labels).items()
    }


def why(sample, metric):
    return {absence.device: absence.reason for absence in sample.absences if absence.metric == metric}


def uuid(index):
    return f"{index}aff74a1-0000-1000-80ab-0123456789ab"


def test_amd_devices_in_base_units(amd, fake_time):
    source = AmdSource(fake_time.clock().monotonic)
    taken = take(source, Clock())
    assert taken.error is None
    assert series(taken, "accel_busy_ratio")[uuid(0)] == pytest.approx(0.97)
    assert series(taken, "accel_power_watts")[uuid(0)] == 612
    assert series(taken, "accel_power_watts")[uuid(6)] == 143  # an older device tells an average only
    assert series(taken, "accel_power_limit_watts")[uuid(0)] == 750
    assert series(taken, "accel_energy_joules_total")[uuid(0)] == pytest.approx(123456789012 * 15.3e-6, rel=1e-6)
    assert series(taken, "accel_memory_total_bytes")[uuid(0)] == 196592 << 20
    assert series(taken, "accel_clock_hertz", domain="memory")[uuid(0)] == 1.3e9
    assert series(taken, "accel_errors_total", type="ecc_corrected")[uuid(3)] == 3
    assert series(taken, "accel_link_bytes_total", link="xgmi", direction="rx")[uuid(1)] == 5000002 * 1024
    assert series(taken, "accel_link_bytes_total", link="xgmi", direction="tx")[uuid(1)] == 6000002 * 1024
    assert "NOT_SUPPORTED" in why(taken, "accel_link_bytes_total")[uuid(5)]
    # A device that was lost before the agent came has no name yet.
    assert why(taken, "accel_busy_ratio") == {"host": "device 7: AMDSMI_STATUS_NO_DATA"}
    assert "NOT_SUPPORTED" in why(taken, "accel_energy_joules_total")[uuid(6)]
    source.close()


def test_a_lost_amd_device_leaves_the_others(amd, fake_time):
    source = AmdSource(fake_time.clock().monotonic)
    text = amd.read_text().replace("7.state lost\n", "")
    amd.write_text(text)
    assert uuid(7) in series(take(source, Clock()), "accel_busy_ratio")
    amd.write_text(text + "7.state lost\n")
    taken = take(source, Clock())
    assert taken.error is None
    assert uuid(7) not in series(taken, "accel_busy_ratio")
    assert set(why(taken, "accel_busy_ratio")) == {uuid(7)}
    assert len(series(taken, "accel_busy_ratio")) == 7
    source.close()


def test_amd_without_its_driver_is_looked_for_again_later(amd, fake_time):
    text = amd.read_text().replace("7.state lost\n", "")
    amd.write_text(text.replace("driver loaded", "driver gone"))
    source = AmdSource(fake_time.clock().monotonic)
    assert "DRIVER" in take(source, Clock()).error
    amd.write_text(text)
    assert take(source, Clock()).error is not None
    fake_time.advance(RETRY_SECONDS)
    assert take(source, Clock()).error is None
    source.close()


def test_amd_without_its_library_says_so_and_prints_nothing(monkeypatch, fake_time, capsys, tmp_path):
    monkeypatch.setenv("ROCM_PATH", str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "amdsmi"]:
        monkeypatch.delitem(sys.modules, name)
    taken = take(AmdSource(fake_time.clock().monotonic), Clock())
    assert "libamd_smi.so" in taken.error
    assert capsys.readouterr().out == ""


@pytest.fixture
def moorethreads(moorethreads_stub, node_folder):
    moorethreads_stub(node_folder("moorethreads-node") / "mtml.scenario")


def test_moore_threads_devices_and_no_plausible_zeros(moorethreads, fake_time):
    source = MooreThreadsSource(fake_time.clock().monotonic)
    taken = take(source, Clock())
    first, second = "5c0a1f00-1111-2222-3333-444455556666", "5c0a1f00-1111-2222-3333-444455556667"
    assert taken.error is None
    assert series(taken, "accel_busy_ratio") == {first: pytest.approx(0.42), second: 0}
    assert series(taken, "accel_power_watts") == {first: pytest.approx(180.5)}
    assert series(taken, "accel_memory_total_bytes")[first] == 48 << 30
    # What the second does not support is absent; the binding's functions of NVML's names would say 0.
    assert why(taken, "accel_power_watts") == {second: "power: Not Supported"}
    assert why(taken, "accel_temperature_celsius") == {second: "temperature: Not Supported"}
    source.close()
    assert take(source, Clock()).error is None
