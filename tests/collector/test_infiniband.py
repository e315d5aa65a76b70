"""InfiniBand and RoCE ports, as different drivers show them, and what is odd about single files."""

import shutil

import pytest

from collector.clock import Clock
from collector.sources.base import take
from collector.sources.infiniband import RESCAN_SECONDS, SLOW_SECONDS, InfinibandSource, parse_rate, parse_state


class Port:
    """Writes files of one port below a folder that stands for `/`."""

    def __init__(self, root, adapter):
        self.folder = root / "sys/class/infiniband" / adapter / "ports/1"

    def write(self, **files):
        for name, text in {"state": "4: ACTIVE", "rate": "100 Gb/sec (4X EDR)", **files}.items():
            path = self.folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return self


@pytest.fixture
def port(tmp_path):
    return lambda adapter="mlx5_0": Port(tmp_path, adapter)


@pytest.fixture
def source(tmp_path, fake_time):
    made = InfinibandSource(tmp_path, fake_time.clock().monotonic)
    yield made
    made.close()


def value(parts, metric, **labels):
    found = [r.value for r in parts.readings if r.metric == metric and labels.items() <= dict(r.labels).items()]
    assert len(found) <= 1
    return found[0] if found else None


def reasons(parts, metric):
    return [absence.reason for absence in parts.absences if absence.metric == metric]


def test_data_counters_are_octets_divided_by_four(port, source):
    port().write(counters__port_rcv_data=1000, counters__port_xmit_data=7)
    parts = source.read()
    assert value(parts, "rdma_receive_bytes_total", port="mlx5_0/1") == 4000
    assert value(parts, "rdma_transmit_bytes_total", port="mlx5_0/1") == 28


@pytest.mark.parametrize(
    ("adapter", "files", "received", "cnp_sent", "ecn_marked"),
    [
        (
            "mlx5_0",
            {
                "counters__port_rcv_data": 25,
                "hw_counters__np_cnp_sent": 3,
                "hw_counters__np_ecn_marked_roce_packets": 5,
            },
            100,
            3,
            5,
        ),
        (
            "bnxt_re0",
            {"hw_counters__rx_bytes": 100, "hw_counters__tx_cnp_pkts": 3, "hw_counters__rx_ecn_marked_pkts": 5},
            100,
            3,
            5,
        ),
        (
            "irdma0",
            {
                "counters__port_rcv_data": "N/A (no PMA)",
                "hw_counters__ip4InOctets": 60,
                "hw_counters__ip6InOctets": 40,
                "hw_counters__cnpSent": 3,
                "hw_counters__RxECNMrkd": 5,
            },
            100,
            3,
            5,
        ),
        (
            "ionic_0",
            {
                "hw_counters__rx_rdma_ucast_bytes": 100,
                "hw_counters__tx_rdma_cnp_pkts": 3,
                "hw_counters__rx_rdma_ecn_pkts": 5,
            },
            100,
            3,
            5,
        ),
    ],
)
def test_each_drivers_names_come_out_as_the_same_metrics(port, source, adapter, files, received, cnp_sent, ecn_marked):
    port(adapter).write(**files)
    parts = source.read()
    assert value(parts, "rdma_receive_bytes_total") == received
    assert value(parts, "rdma_congestion_packets_total", event="cnp_sent") == cnp_sent
    assert value(parts, "rdma_congestion_packets_total", event="ecn_marked") == ecn_marked


def test_odd_files_of_one_port_leave_the_others_alone(node_folder, fake_time):
    sample = take(InfinibandSource(node_folder("h100-node"), fake_time.clock().monotonic), Clock())
    assert sample.error is None
    received = {dict(r.labels)["port"] for r in sample.readings if r.metric == "rdma_receive_bytes_total"}
    assert received == {f"mlx5_{n}/1" for n in range(8) if n != 5}
    assert value(sample, "rdma_up_ratio", port="mlx5_3/1") == 0
    assert value(sample, "rdma_speed_bytes_per_second", port="mlx5_3/1") is None
    assert reasons(sample, "rdma_receive_bytes_total") == ["mlx5_5/1: counters/port_rcv_data: N/A (no PMA)"]
    assert "mlx5_6/1: counters/symbol_error: Is a directory" in reasons(sample, "rdma_errors_total")
    assert reasons(sample, "rdma_transport_events_total") == ["mlx5_6/1: hw_counters/out_of_sequence: it is empty"]


def test_a_port_that_comes_or_goes_is_noticed(port, source, tmp_path, fake_time):
    assert "no InfiniBand or RoCE port" in reasons(source.read(), "rdma_receive_bytes_total")[0]
    port().write(counters__port_rcv_data=1)
    port("mlx5_1").write(counters__port_rcv_data=2)
    fake_time.advance(RESCAN_SECONDS)
    assert value(source.read(), "rdma_receive_bytes_total", port="mlx5_1/1") == 8
    shutil.rmtree(tmp_path / "sys/class/infiniband/mlx5_1")
    assert value(source.read(), "rdma_receive_bytes_total", port="mlx5_1/1") is None
    parts = source.read()
    assert value(parts, "rdma_receive_bytes_total", port="mlx5_0/1") == 4
    assert not reasons(parts, "rdma_receive_bytes_total")


def test_errors_and_events_are_read_less_often_and_shown_meanwhile(port, source, fake_time):
    port().write(counters__port_rcv_data=1, counters__symbol_error=1, hw_counters__out_of_sequence=2)
    parts = source.read()
    assert value(parts, "rdma_errors_total", type="symbol") == 1
    port().write(counters__port_rcv_data=2, counters__symbol_error=5)
    fake_time.advance(1)
    parts = source.read()
    assert value(parts, "rdma_receive_bytes_total") == 8
    assert value(parts, "rdma_errors_total", type="symbol") is None  # it enters no window twice
    assert {(reading.metric, reading.value) for reading in parts.held} == {
        ("rdma_errors_total", 1),
        ("rdma_transport_events_total", 2),
    }
    fake_time.advance(SLOW_SECONDS)
    assert value(source.read(), "rdma_errors_total", type="symbol") == 5


def test_the_interface_of_a_roce_port_is_named(port, source, tmp_path):
    port().write(link_layer="Ethernet", gid_attrs__ndevs__0="ens1f0np0", counters__port_rcv_data=1)
    assert value(source.read(), "rdma_port_info", link_layer="Ethernet", interface="ens1f0np0") == 1


@pytest.mark.parametrize("text", ["", "fast", "0 Gb/sec (4X SDR)", "100 Mb/sec", "x Gb/sec"])
def test_an_unknown_rate_is_no_number(text):
    with pytest.raises(ValueError, match=r"rate|float"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["", "ACTIVE", "4"])
def test_an_unknown_state_is_an_error_and_not_down(text):
    with pytest.raises(ValueError, match="state"):
        parse_state(text)
