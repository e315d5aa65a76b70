"""Accelerators read by their makers' tools: fixture machines, damaged answers, other makers' tools."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.clock import Clock
from collector.config import load_settings
from collector.registry import build_sources
from collector.sources.ascend import parse_info as parse_npu_smi
from collector.sources.base import SourceUnavailable, take
from collector.sources.cambricon import parse_info as parse_cnmon
from collector.sources.hccn import HccnSource, parse_link, parse_speed, parse_statistics
from collector.sources.hygon import merge, to_found
from collector.sources.iluvatar import parse_query
from collector.sources.intel_xpu import parse_discovery, parse_dump
from collector.sources.kunlun import parse_machine_readable
from collector.sources.metax import parse_table
from collector.sources.pci import makers_present
from collector.sources.tool import recorded_commands
from tokenstone.metric import REGISTRY

MIB = 1 << 20


@pytest.fixture
def sample(node_folder):
    """Read one source of a fixture machine."""

    def read(machine, name):
        [source] = build_sources(load_settings(node="n", root=node_folder(machine), sources=name))[:-1]
        taken = take(source, Clock())
        source.close()
        return taken

    return read


def series(sample, metric, **labels):
    return {
        dict(reading.labels).get("port", reading.device): reading.value
        for reading in sample.readings
        if reading.metric == metric and labels.items() <= dict(reading.labels).items()
    }


def why(sample, metric):
    return {absence.device: absence.reason for absence in sample.absences if absence.metric == metric}


def test_ascend(sample):
    taken = sample("ascend-910-node", "ascend")
    busy = series(taken, "accel_busy_ratio")
    assert busy["0000:C2:00.0"] == pytest.approx(0.13)
    assert len(busy) == 7  # NA is no number, and no zero
    assert series(taken, "accel_memory_used_bytes")["0000:C1:00.0"] == 3351 * MIB
    assert series(taken, "accel_memory_total_bytes")["0000:C1:00.0"] == 65536 * MIB
    assert series(taken, "accel_healthy_ratio")["0000:C6:00.0"] == 0
    assert series(taken, "accel_memory_bandwidth_ratio")["0000:C4:00.0"] == pytest.approx(0.3)
    assert set(why(taken, "accel_power_watts")) == {"0000:C7:00.0"}
    assert why(taken, "accel_memory_bandwidth_ratio") == {"0000:C8:00.0": "npu-smi: this recorded node has none"}
    assert [device.model for device in taken.devices] == ["910B3"] * 8


def test_the_ports_of_ascend_devices(sample):
    taken = sample("ascend-910-node", "hccn")
    assert series(taken, "rdma_transmit_bytes_total")["hccn/2"] == 4096002
    assert series(taken, "rdma_congestion_packets_total", event="cnp_received")["hccn/0"] == 3
    assert series(taken, "rdma_speed_bytes_per_second")["hccn/0"] == 25e9
    assert series(taken, "rdma_up_ratio")["hccn/3"] == 0
    assert "hccn/4" not in series(taken, "rdma_speed_bytes_per_second")
    frames = {dict(r.labels)["priority"] for r in taken.readings if r.metric == "network_pause_frames_total"}
    assert frames == {"all", "0", "4"}


def test_a_port_of_an_ascend_device_that_fails_amid_the_others(node_folder):
    recorded = recorded_commands(node_folder("ascend-910-node") / "tools")
    asked, broken = [], "2"

    def run(tool, arguments):
        asked.append(arguments[1])
        if arguments[1] == broken:
            raise SourceUnavailable("hccn_tool: it failed with 17 and said: device offline")
        return recorded(tool, arguments)

    source = HccnSource(run)
    taken = take(source, Clock())
    assert set(series(taken, "rdma_transmit_bytes_total")) == {f"hccn/{n}" for n in (0, 1, 3, 4, 5, 6)}
    told = {absence.reason for absence in taken.absences if absence.metric == "rdma_transmit_bytes_total"}
    assert told == {"hccn/2: hccn_tool: it failed with 17 and said: device offline"}
    # Those that were never there are not asked for again; one that was is.
    broken = "6"
    asked.clear()
    assert "hccn/2" in series(take(source, Clock()), "rdma_transmit_bytes_total")
    assert max(asked) == "6"


def test_hygon(sample):
    taken = sample("hygon-node", "hygon")
    assert series(taken, "accel_busy_ratio") == {"0000:3B:00.0": 0.875}
    # One version tells the memory in MiB, another in bytes.
    assert series(taken, "accel_memory_total_bytes") == {"0000:3B:00.0": 65520 * MIB, "0000:5E:00.0": 68702699520}
    assert series(taken, "accel_temperature_celsius") == {"0000:3B:00.0": 55, "0000:5E:00.0": 41}


def test_cambricon(sample):
    taken = sample("cambricon-node", "cambricon")
    first = "2023-0100-0000-aa55"
    assert series(taken, "accel_busy_ratio") == {first: 0.63}
    assert series(taken, "accel_memory_total_bytes")[first] == 24576 * MIB  # and not the virtual 1048576
    assert series(taken, "accel_temperature_celsius")[first] == 44
    assert series(taken, "accel_power_watts") == {first: 131}


def test_iluvatar(sample):
    taken = sample("iluvatar-node", "iluvatar")
    assert list(series(taken, "accel_busy_ratio").values()) == [0.71]
    assert list(series(taken, "accel_power_watts").values()) == [187]
    assert list(series(taken, "accel_memory_used_bytes").values()) == [20480 * MIB, 64 * MIB]


def test_metax(sample):
    taken = sample("metax-node", "metax")
    assert series(taken, "accel_busy_ratio") == {"0000:0e:00.0": 0.42}
    assert series(taken, "accel_power_watts") == {"0000:0e:00.0": 240}
    assert series(taken, "accel_power_limit_watts") == {"0000:0e:00.0": 350, "0000:0f:00.0": 350}
    assert len(taken.devices) == 2  # the table of processes is none of devices


def test_kunlun(sample):
    taken = sample("kunlun-node", "kunlun")
    assert series(taken, "accel_busy_ratio") == {"0000:53:00.0": 0.88, "0000:56:00.0": 0}
    assert series(taken, "accel_power_watts") == {"0000:53:00.0": 166}
    assert taken.devices[0].model == "P800 OAM"


def test_intel_by_its_tool_and_by_the_kernel(sample):
    by_tool, by_kernel = sample("intel-node", "intel_xpu"), sample("intel-node", "intel")
    device = "0000:3b:00.0"
    assert series(by_tool, "accel_sm_active_ratio") == {device: pytest.approx(0.7125)}
    assert device in why(by_tool, "accel_busy_ratio")
    assert series(by_kernel, "accel_energy_joules_total") == {device: pytest.approx(918273.645)}
    assert series(by_kernel, "accel_throttled_ratio", reason="software_power_cap") == {device: 1}
    assert series(by_kernel, "accel_power_limit_watts") == {device: 600}
    # No metric is told twice for one device.
    assert not {r.series for r in by_tool.readings} & {r.series for r in by_kernel.readings}


def test_the_same_name_of_two_makers_tools_is_not_confused():
    intel = json.dumps({"device_list": []})
    with pytest.raises(SourceUnavailable, match="not that of Kunlunxin's tool"):
        parse_machine_readable("Intel XPU System Management Interface -- v1.2\nUsage: xpu-smi [Options]\n")
    with pytest.raises(SourceUnavailable, match="not that of Intel's tool"):
        parse_discovery("0000:53:00.0 0 0 0 47")
    assert parse_discovery(intel) == []


def test_only_makers_with_a_device_on_the_bus_are_asked(node_folder):
    # An AMD processor's graphics unit and Huawei's network adapter are no accelerators.
    assert makers_present(node_folder("h100-node")) == set()
    assert makers_present(node_folder("ascend-910-node")) == {"ascend", "hccn"}
    assert makers_present(node_folder("mi300x-node")) == {"amd"}
    assert makers_present(node_folder("intel-node")) == {"intel", "intel_xpu"}


@pytest.mark.parametrize("name", ["ascend", "hygon", "cambricon", "iluvatar", "metax", "kunlun", "intel_xpu", "hccn"])
def test_a_missing_tool_is_absent_with_the_reason(sample, name):
    taken = sample("cpu-node", name)
    assert taken.error is not None
    assert "this recorded node has none" in taken.error
    assert {absence.metric for absence in taken.absences} <= set(REGISTRY)


PARSERS = {
    "npu-smi": parse_npu_smi,
    "cnmon": parse_cnmon,
    "ixsmi": parse_query,
    "mx-smi": parse_table,
    "xpu-smi": parse_machine_readable,
    "hy-smi": lambda text: to_found(merge([text])),
    "discovery": parse_discovery,
    "dump": parse_dump,
    "hccn": lambda text: (parse_statistics(text), parse_speed(text), parse_link(text)),
}


@pytest.mark.parametrize("tool", PARSERS)
@given(text=st.text(alphabet="| +=-:/%,.\n\t\"'{}[]0123456789aNWCGMiB", max_size=400))
def test_no_output_makes_a_parser_fail_otherwise_than_by_saying_so(tool, text):
    with contextlib.suppress(SourceUnavailable):
        PARSERS[tool](text)


@pytest.mark.parametrize("machine", ["ascend-910-node", "cambricon-node", "metax-node", "kunlun-node", "iluvatar-node"])
def test_an_answer_cut_off_anywhere_invents_no_number(sample, node_folder, machine):
    name = machine.split("-")[0]
    tool = {"ascend": "npu-smi info", "cambricon": "cnmon info", "metax": "mx-smi", "kunlun": "xpu-smi -m"}
    prefix = tool.get(name, "ixsmi")
    [path] = [p for p in (node_folder(machine) / "tools").glob(f"{prefix}*.txt") if "usages" not in p.name]
    text = path.read_text()
    parse = PARSERS[prefix.split()[0]]
    whole = {value for device in parse(text) for value in device.values.items()}
    lines = text.splitlines(keepends=True)
    for end in range(len(lines)):
        try:
            cut = parse("".join(lines[:end]))
        except SourceUnavailable:
            continue
        assert {value for device in cut for value in device.values.items()} <= whole
