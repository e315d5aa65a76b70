"""The sources over folders that stand for a node."""

import os
import shutil

import pytest

from collector.clock import Clock
from collector.sources.agent import AgentSource, Delivery, own_usage
from collector.sources.base import Parts, take
from collector.sources.cpu import CpuSource
from collector.sources.disk import DiskSource
from collector.sources.ethernet import EthernetSource
from collector.sources.filesystem import FilesystemSource
from collector.sources.memory import MemorySource
from collector.sources.pressure import PressureSource
from tokenstone.sample import Reading


def values(parts, metric):
    return {
        tuple(value for _, value in reading.labels): reading.value
        for reading in parts.readings
        if reading.metric == metric
    }


def reasons(parts, metric):
    return [absence.reason for absence in parts.absences if absence.metric == metric]


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_an_interface_whose_speed_cannot_be_read_keeps_its_counters(node_folder):
    parts = EthernetSource(node_folder("h100-node")).read()
    assert values(parts, "network_speed_bytes_per_second") == {("ens1f0np0",): 12.5e9}
    assert values(parts, "network_receive_bytes_total") == {("ens1f0np0",): 91823344556677, ("ens1f1np1",): 0}
    assert values(parts, "network_up_ratio") == {("ens1f0np0",): 1, ("ens1f1np1",): 0}
    [reason] = reasons(parts, "network_speed_bytes_per_second")
    assert reason.startswith("ens1f1np1: its speed cannot be read")


def test_only_interfaces_with_hardware_count_where_there_are_any(node_folder, tmp_path):
    names = {name for (name,) in values(EthernetSource(node_folder("h100-node")).read(), "network_receive_bytes_total")}
    assert names == {"ens1f0np0", "ens1f1np1"}
    # Inside a container there is only the other end of a virtual pair.
    write(tmp_path, "proc/net/dev", "lo: " + "1 " * 16 + "\neth0: " + "2 " * 16 + "\n")
    assert values(EthernetSource(tmp_path).read(), "network_receive_bytes_total") == {("eth0",): 2}


def test_an_unknown_state_is_absent_and_not_down(node_folder):
    parts = EthernetSource(node_folder("old-kernel")).read()
    assert values(parts, "network_up_ratio") == {}
    assert reasons(parts, "network_up_ratio") == ["eth0: its driver does not know the state"]


def test_a_node_with_only_the_loopback_says_so(tmp_path):
    write(tmp_path, "proc/net/dev", "lo: " + "1 " * 16 + "\n")
    parts = EthernetSource(tmp_path).read()
    assert not parts.readings
    assert {absence.metric for absence in parts.absences} == set(EthernetSource.metrics)


def test_disks_count_neither_partitions_nor_stacked_devices(node_folder):
    parts = DiskSource(node_folder("h100-node")).read()
    assert set(values(parts, "disk_read_bytes_total")) == {("nvme0n1",), ("nvme1n1",)}
    assert values(parts, "disk_io_seconds_total")[("nvme1n1",)] == pytest.approx(9123.312)


def test_without_sysfs_disks_are_told_by_their_names(node_folder):
    assert set(values(DiskSource(node_folder("old-kernel")).read(), "disk_read_bytes_total")) == {("sda",)}


def test_a_kernel_without_pressure_information_is_up_and_says_why(node_folder):
    sample = take(PressureSource(node_folder("old-kernel")), Clock())
    assert sample.error is None
    assert not sample.readings
    assert {absence.metric for absence in sample.absences} == set(PressureSource.metrics)
    assert "no pressure stall information in this kernel" in sample.absences[0].reason


def test_the_meaningless_full_stall_of_the_processor_is_absent_and_not_zero(node_folder):
    parts = PressureSource(node_folder("h100-node")).read()
    assert set(values(parts, "host_pressure_stalled_seconds_total")) == {("io",), ("memory",)}
    assert values(parts, "host_pressure_waiting_seconds_total")[("cpu",)] == pytest.approx(8123.456789)
    assert reasons(parts, "host_pressure_stalled_seconds_total") == ["cpu: not defined for a whole system"]


def test_a_field_that_an_old_kernel_lacks_is_absent(node_folder):
    parts = MemorySource(node_folder("old-kernel")).read()
    assert values(parts, "host_memory_total_bytes") == {(): 65808368 * 1024}
    assert reasons(parts, "host_memory_available_bytes") == ["this kernel's /proc/meminfo has no MemAvailable"]


def test_idle_time_that_steps_back_a_little_is_held_and_a_reset_is_passed_on(tmp_path):
    source = CpuSource(tmp_path)
    ticks = os.sysconf("SC_CLK_TCK")

    def idle(seconds):
        write(tmp_path, "proc/stat", f"cpu 0 0 0 {int(seconds * ticks)}\ncpu0 0 0 0 0\n")
        return values(source.read(), "host_cpu_seconds_total")[("idle",)]

    assert [idle(100), idle(99), idle(101), idle(5)] == [100, 100, 101, 5]


def test_file_systems_are_measured_on_the_real_root_only(tmp_path, node_folder):
    shutil.copytree(node_folder("h100-node"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "local scratch").mkdir()
    parts = FilesystemSource(tmp_path).read()
    assert not parts.readings
    assert "/local scratch: its file system is not mounted below the agent's root" in reasons(
        parts, "filesystem_size_bytes"
    )


def test_a_host_mounted_below_the_root_is_measured(tmp_path):
    device = tmp_path.stat().st_dev
    info = f"29 1 {os.major(device)}:{os.minor(device)} / / rw - ext4 /dev/sda1 rw\n"
    write(tmp_path, "proc/self/mountinfo", info)
    space = os.statvfs(tmp_path)
    parts = FilesystemSource(tmp_path).read()
    assert values(parts, "filesystem_size_bytes") == {("/",): space.f_blocks * space.f_frsize}


def test_a_missing_file_is_a_failed_sample_with_every_metric_absent(tmp_path):
    sample = take(MemorySource(tmp_path), Clock())
    assert sample.error is not None
    assert "proc/meminfo: No such file or directory" in sample.error
    assert {absence.metric for absence in sample.absences} == set(MemorySource.metrics)


@pytest.mark.parametrize(
    "reading",
    [
        Reading("no_such_metric", 1.0),
        Reading("network_up_ratio", 1.0),
        Reading("host_load_average", 1.0, labels=(("a", "b"),)),
    ],
)
def test_a_source_may_only_say_what_the_registry_knows(reading):
    class Wrong:
        name, metrics = "wrong", ("host_load_average",)

        def read(self):
            return Parts((reading,))

    sample = take(Wrong(), Clock())
    assert not sample.readings
    assert reading.metric in sample.error


def test_the_agent_tells_its_own_cost_and_its_delivery():
    usage = own_usage()
    assert usage.cpu_seconds > 0
    assert usage.memory_bytes > 1_000_000
    parts = AgentSource(lambda: Delivery({"accepted": 3}, 700, 2)).read()
    assert values(parts, "tokenstone_push_batches_total") == {("accepted",): 3}
    assert values(parts, "tokenstone_spool_bytes") == {(): 700}
    assert values(parts, "tokenstone_spool_dropped_batches_total") == {(): 2}


def test_an_agent_that_pushes_nothing_has_no_spool():
    assert reasons(AgentSource().read(), "tokenstone_spool_bytes") == ["this agent pushes to no service"]
