"""The parsers over what kernels and drivers really write, and over damage."""

import pytest

from collector.sources.cpu import parse_cpuinfo, parse_loadavg, parse_stat
from collector.sources.disk import parse_diskstats
from collector.sources.ethernet import parse_net_dev, parse_speed
from collector.sources.filesystem import local_mounts, parse_mountinfo
from collector.sources.memory import parse_meminfo
from collector.sources.pressure import parse_pressure


def test_modes_add_up_to_the_processors_time_without_counting_guests_twice():
    # user nice system idle iowait irq softirq steal guest guest_nice; guest is inside user.
    times = parse_stat("cpu  400 10 50 500 20 5 10 5 300 10\ncpu0 1 0\ncpu7 1 0\nintr 3\n", 100)
    assert sum(times.seconds.values()) == pytest.approx(10.0)
    assert times.logical_processors == 2


def test_modes_that_an_old_kernel_does_not_count_are_left_out():
    assert set(parse_stat("cpu 1 2 3 4\ncpu0 1 2 3 4\n", 100).seconds) == {"user", "nice", "system", "idle"}


@pytest.mark.parametrize("text", ["", "\n\n", "intr 1\n", "cpu0 1 2 3 4\n", "cpu 1 x 3\ncpu0 1 2 3\n"])
def test_stat_without_processor_times_is_an_error(text):
    with pytest.raises(ValueError, match=r"processor times|invalid literal"):
        parse_stat(text, 100)


@pytest.mark.parametrize("text", ["", "  \n", "busy 1 2"])
def test_damaged_load_is_an_error(text):
    with pytest.raises(ValueError, match=r"empty|could not convert"):
        parse_loadavg(text)


def test_cpuinfo_of_an_architecture_without_names_is_empty():
    assert parse_cpuinfo("processor\t: 0\nBogoMIPS\t: 200\n") == ("", "")
    assert parse_cpuinfo("vendor_id : A\nmodel name : B: C\n\nmodel name : D\n") == ("A", "B: C")


def test_meminfo_keeps_amounts_only():
    text = "MemTotal:  16 kB\nHugePages_Total:  7\nMemFree: -3 kB\nno colon here\nMemAvailable:\n"
    assert parse_meminfo(text) == {"MemTotal": 16 * 1024}


def test_interface_names_may_touch_their_first_counter_and_hold_colons():
    head = "Inter-| Receive\n face |bytes\n"
    counters = parse_net_dev(
        head + "  eth0:4123312244 1 2 3 0 0 0 0 9 8 7 6 0 0 0 0\nvlan:7: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n"
    )
    assert counters["eth0"][:4] == (4123312244, 1, 2, 3)
    assert counters["vlan:7"][8] == 2


def test_interface_lines_of_another_form_are_left_out():
    assert parse_net_dev("eth0: 1 2 3\neth1: " + "x " * 16 + "\neth2\n") == {}


@pytest.mark.parametrize("text", ["-1\n", "0\n", "4294967295\n", "", "N/A\n", "100 Mb\n"])
def test_an_unknown_speed_is_no_number(text):
    assert parse_speed(text) is None


def test_diskstats_counts_sectors_of_512_bytes_and_milliseconds():
    line = " 259 1 nvme0n1 10 1 20 7 30 2 40 8 0 1500 15 0 0 0 0 3 4\n"
    assert parse_diskstats(line)["nvme0n1"] == {
        "disk_reads_completed_total": 10,
        "disk_read_bytes_total": 20 * 512,
        "disk_writes_completed_total": 30,
        "disk_written_bytes_total": 40 * 512,
        "disk_io_seconds_total": 1.5,
    }


def test_diskstats_lines_of_another_form_are_left_out():
    assert parse_diskstats("\n 8 1 sda1 1 2 3 4\n 8 0 sda a b c d e f g h i j k\n") == {}


def test_mountpoints_are_unescaped_and_optional_fields_skipped():
    text = "33 29 9:0 / /local\\040scratch rw shared:30 master:1 - xfs /dev/md0 rw\nbroken line\n1 2 - x\n"
    [mount] = parse_mountinfo(text)
    assert (mount.mountpoint, mount.device, mount.kind, mount.source) == ("/local scratch", "9:0", "xfs", "/dev/md0")


def test_local_mounts_count_each_disk_once_and_no_network_or_image():
    text = """
1 0 8:1 /etc/hosts /etc/hosts rw - ext4 /dev/sda1 rw
2 0 0:9 / / rw - overlay overlay rw
3 0 8:1 / /data rw - ext4 /dev/sda1 rw
4 0 7:0 / /snap/x ro - squashfs /dev/loop0 ro
5 0 0:7 / /home rw - nfs4 filer:/home rw
6 0 0:8 / /tank rw - zfs tank rw
7 0 0:5 / /run rw - tmpfs tmpfs rw
"""
    assert [mount.mountpoint for mount in local_mounts(parse_mountinfo(text))] == ["/", "/data", "/tank"]


@pytest.mark.parametrize("text", ["", "some\n", "some avg10=0.00 total=\n", "full total=abc\n", "other total=1\n"])
def test_pressure_without_totals_gives_none(text):
    assert parse_pressure(text) == {}
