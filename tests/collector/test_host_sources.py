"""NUMA, memory bandwidth, NFS, Lustre and pause frames over folders that stand for a node."""

import shutil

import pytest

from collector.clock import Clock
from collector.sources.base import SourceUnavailable, take
from collector.sources.lustre import LustreSource, parse_stats
from collector.sources.nfs import NfsSource, parse_mountstats
from collector.sources.numa import NumaSource
from collector.sources.pause import PauseSource, parse_statistics
from collector.sources.resctrl import ResctrlSource


def values(parts, metric):
    return {
        tuple(value for _, value in reading.labels): reading.value
        for reading in parts.readings
        if reading.metric == metric
    }


def reasons(parts, metric):
    return [absence.reason for absence in parts.absences if absence.metric == metric]


@pytest.fixture
def cpu_node(node_folder, tmp_path):
    folder = tmp_path / "cpu-node"
    shutil.copytree(node_folder("cpu-node"), folder)
    return folder


def test_each_numa_node_and_the_one_whose_events_cannot_be_read(cpu_node):
    parts = NumaSource(cpu_node).read()
    assert values(parts, "host_numa_memory_total_bytes") == {("0",): 264000000 * 1024, ("1",): 264000000 * 1024}
    assert values(parts, "host_numa_pages_total") == {("local", "0"): 9, ("remote", "0"): 1, ("sent_away", "0"): 0}
    assert reasons(parts, "host_numa_pages_total") == ["node1: numastat cannot be read (Is a directory)"]


def test_memory_traffic_is_what_all_groups_moved_since_the_agent_came(cpu_node, fake_time):
    source = ResctrlSource(cpu_node, fake_time.clock().monotonic)
    folder = cpu_node / "sys/fs/resctrl"
    assert values(source.read(), "host_memory_traffic_bytes_total") == {("0",): 0, ("1",): 0}

    def write(group, bytes_):
        path = folder / group / "mon_data/mon_L3_00/mbm_total_bytes"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{bytes_}\n")

    write("", 987654321000 + 500)
    write("ml-jobs", 987654321000 + 70)
    assert values(source.read(), "host_memory_traffic_bytes_total")[("0",)] == 570
    write("mon_groups/new", 8)  # a group that came meanwhile began at zero
    fake_time.advance(60)
    assert values(source.read(), "host_memory_traffic_bytes_total")[("0",)] == 578
    shutil.rmtree(folder / "ml-jobs")  # and one that goes takes nothing back
    fake_time.advance(60)
    assert values(source.read(), "host_memory_traffic_bytes_total")[("0",)] == 578
    write("", 3)  # a counter that was reset
    assert values(source.read(), "host_memory_traffic_bytes_total")[("0",)] == 578
    write("", 13)
    assert values(source.read(), "host_memory_traffic_bytes_total")[("0",)] == 588


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda root: shutil.rmtree(root / "sys/fs/resctrl"), "not mounted"),
        (lambda root: (root / "sys/fs/resctrl/info/L3_MON/mon_features").write_text("llc_occupancy\n"), "not count"),
    ],
)
def test_why_there_is_no_memory_bandwidth(cpu_node, fake_time, prepare, reason):
    if "not count" in reason:
        for path in (cpu_node / "sys/fs/resctrl").rglob("mbm_total_bytes"):
            path.unlink()
    prepare(cpu_node)
    parts = ResctrlSource(cpu_node, fake_time.clock().monotonic).read()
    assert reason in reasons(parts, "host_memory_traffic_bytes_total")[0]


def test_nfs_counts_what_went_over_the_wire(cpu_node):
    parts = NfsSource(cpu_node).read()
    home = ("/home", "nfs")
    assert values(parts, "remote_storage_read_bytes_total") == {home: 4096000, ("/my data", "nfs"): 0}
    assert values(parts, "remote_storage_written_bytes_total")[home] == 8192000
    operations = values(parts, "remote_storage_operations_total")
    assert operations[("/home", "read", "nfs")] == 100
    assert operations[("/home", "metadata", "nfs")] == 1 + 300 + 40
    seconds = values(parts, "remote_storage_operation_seconds_total")
    assert seconds[("/home", "write", "nfs")] == pytest.approx(2.0)
    assert values(parts, "remote_storage_retransmissions_total")[home] == 3 + 0 + 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "device\n",
        "device x mounted on /x with fstype nfs4 statvers=1.1\n\tbytes:\t1 2\n\t READ: 1 2\n",
        "\tbytes: 1 2 3 4 5 6 7 8\n",
    ],
)
def test_damaged_mountstats_gives_no_numbers(text):
    assert all(not m.read_bytes and not m.operations for m in parse_mountstats(text))


def test_lustre_bytes_and_operations_by_file_system(cpu_node, fake_time):
    parts = LustreSource(cpu_node, fake_time.clock().monotonic).read()
    scratch, home = ("scratch", "lustre"), ("home", "lustre")
    assert values(parts, "remote_storage_read_bytes_total") == {scratch: 734003200, home: 0}
    operations = values(parts, "remote_storage_operations_total")
    assert operations[("scratch", "read", "lustre")] == 300
    assert operations[("scratch", "metadata", "lustre")] == 47  # and not the second lines of reads and writes


def test_lustre_elsewhere_and_closed(cpu_node, fake_time, monkeypatch):
    moved = cpu_node / "sys/kernel/debug/lustre"
    moved.parent.mkdir(parents=True)
    (cpu_node / "proc/fs/lustre").rename(moved)
    source = LustreSource(cpu_node, fake_time.clock().monotonic)
    assert len(values(source.read(), "remote_storage_read_bytes_total")) == 2

    def closed(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(cpu_node), "iterdir", closed)
    fake_time.advance(60)
    assert "run the agent as root" in reasons(source.read(), "remote_storage_read_bytes_total")[0]


def test_lustre_lines_of_another_form_are_left_out():
    assert parse_stats("read_bytes\nopen x samples [regs]\nclose 2 samples\n") == ({}, {})


def test_pause_frames_of_three_drivers(node_folder):
    def run(tool, arguments):
        path = node_folder("mi300x-node") / f"tools/{tool} {' '.join(arguments)}.txt"
        if not path.exists():
            raise SourceUnavailable("no stats available")
        return path.read_text()

    sample = take(PauseSource(node_folder("mi300x-node"), run), Clock())
    frames = values(sample, "network_pause_frames_total")
    assert frames[("rx", "ens9np0", "3")] == 55
    assert frames[("tx", "ens9np0", "all")] == 2
    assert frames[("rx", "eno1", "0")] == 4
    assert reasons(sample, "network_pause_frames_total") == [
        "benic1p1: no stats available",
        "benic2p1: no stats available",
    ]
    mlx5 = list(parse_statistics((node_folder("h100-node") / "tools/ethtool -S ens1f0np0.txt").read_text()))
    assert ("network_pause_seconds_total", "rx", "3", pytest.approx(2.5)) in mlx5
    assert len(mlx5) == 6
