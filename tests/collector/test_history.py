"""PromQL's answers as windows: what is missing, twice there or no value, and how nodes are joined."""

import math

import pytest

from collector.history.job import PastDevice, PastJob, devices_in, find_job, host_of, node_of
from collector.history.windows import read_history
from tokenstone.errors import NotFound, OperationError

JOB = PastJob('hpc_job="j"', [PastDevice("GPU-a", "n1", "NVIDIA H100 80GB HBM3", "0")], {"n1:9100": "n1"})


class Remembered:
    """Answers each name with series, or with an error; every other name with nothing."""

    url = "http://prometheus"

    def __init__(self, answers: dict, found=()):
        self.answers, self.found, self.asked = answers, found, []

    def range(self, query, start, end, step):
        self.asked.append(query)
        answer = next((answer for name, answer in self.answers.items() if f"({name}{{" in query), [])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def series(self, selectors, start, end):
        self.asked += selectors
        return next((series for part, series in self.found if part in selectors[0]), [])


def history(answers):
    return read_history(Remembered(answers), JOB, 0.0, 120.0, 60.0, progress=lambda _: None)


def test_units_are_ours_and_copies_count_once():
    card = {"UUID": "GPU-a", "Hostname": "n1"}
    found = history({
        "DCGM_FI_DEV_GPU_UTIL": [(card | {"r": "1"}, [(60, 50), (120, 75)]), (card | {"r": "2"}, [(60, 9)])],
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": [(card, [(60, 6e6)])],
        "DCGM_FI_DEV_POWER_USAGE": [(card | {"GPU_I_ID": "1"}, [(60, 5)]), ({"UUID": "GPU-other"}, [(60, 5)])],
    })  # fmt: skip
    rows = [(row.metric, row.start_unix_seconds, row.mean, row.delta) for row in found.rows]
    assert rows == [
        ("accel_busy_ratio", 0, 0.5, None),
        ("accel_busy_ratio", 60, 0.75, None),
        ("accel_energy_joules_total", 0, None, 6000.0),
    ]


@pytest.mark.parametrize("value", [math.nan, -1.0, 2147483632.0, 9.2e18])
def test_marks_for_no_value_are_none_and_noted(value):
    found = history({"DCGM_FI_DEV_GPU_UTIL": [({"UUID": "GPU-a"}, [(60, value)])]})
    assert found.rows == []
    assert any("cannot be" in note for note in found.notes)


def test_a_series_that_cannot_be_read_is_noted_and_the_others_are_read():
    found = history({
        "DCGM_FI_DEV_POWER_USAGE": OperationError("query timed out"),
        "node_memory_MemTotal_bytes": [({"instance": "n1:9100"}, [(60, 1e12)])],
        "node_network_speed_bytes": [({"instance": "n1:9100", "device": "eth0"}, [(60, -1.0)])],
        "node_infiniband_port_data_received_bytes_total": [
            ({"instance": "n1:9100", "device": "mlx5_0", "port": "1"}, [(60, 5e9)])
        ],
    })  # fmt: skip
    assert found.notes == ["DCGM_FI_DEV_POWER_USAGE could not be read: query timed out"]
    assert [(row.metric, row.labels) for row in found.rows] == [
        ("host_memory_total_bytes", {}),
        ("rdma_receive_bytes_total", {"port": "mlx5_0/1"}),
    ]


def test_a_job_is_looked_for_in_the_labels_that_sites_use():
    card = {"UUID": "GPU-a", "node": "n1.lab", "modelName": "X", "gpu": "0", "pod": "j-0"}
    node = {"instance": "10.0.0.1:9100", "nodename": "n1"}
    server = Remembered({}, [('pod=~"j(-.+)?"', [card]), ("node_uname_info", [node])])
    job = find_job(server, "j", 'cluster="a"', 0.0, 1.0)
    assert job.matchers == 'pod=~"j(-.+)?", cluster="a"'
    assert job.devices == [PastDevice("GPU-a", "n1.lab", "X", "0")]
    assert job.instances == {"10.0.0.1:9100": "n1.lab"}
    with pytest.raises(NotFound, match=r'hpc_job="a\\"b"'):
        find_job(Remembered({}), 'a"b', "", 0.0, 1.0)


def test_nodes_are_named_by_what_the_exporter_says():
    assert node_of({"Hostname": "n1", "instance": "10.0.0.1:9400"}) == "n1"
    assert node_of({"instance": "[fe80::1]:9400"}) == "fe80::1"
    assert node_of({}) == "unknown"
    assert [host_of(address) for address in ("n1:9100", "n1.lab", "fe80::1")] == ["n1", "n1.lab", "fe80::1"]
    assert devices_in([{"UUID": "GPU-a", "GPU_I_ID": "3"}, {"Hostname": "n1"}]) == []
