"""Windows in and out: once each, whole or not at all."""

import gzip
import json

import pytest

JSON = {"Content-Type": "application/json"}
GZIP = JSON | {"Content-Encoding": "gzip"}


def test_a_batch_is_stored_and_read_back(api, batch, clock):
    answer = api.post("/v1/windows", json=batch())
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "accepted", "windows": 2, "missing_sequences": [], "window_seconds": 10.0,
        "server_unix_seconds": clock.now,
    }  # fmt: skip
    busy, received = api.get("/v1/windows").json()["items"]
    assert busy == {
        "node": "node-1", "device": "GPU-0", "metric": "accel_busy_ratio", "labels": {}, "start_unix_seconds": 1.7e9,
        "duration_seconds": 10.0, "count": 10, "mean": 0.97, "minimum": 0.9, "maximum": 1.0, "delta": None,
    }  # fmt: skip
    assert received["labels"] == {"interface": "eth0"}
    assert (received["mean"], received["delta"]) == (None, 1.25e9)


def test_the_same_batch_again_changes_nothing(api, batch):
    api.post("/v1/windows", json=batch())
    again = api.post("/v1/windows", json=batch())
    assert (again.json()["status"], again.json()["windows"]) == ("duplicate", 0)
    assert len(api.get("/v1/windows").json()["items"]) == 2


def test_gaps_are_told_until_they_are_filled(api, big_batch):
    told = []
    for sequence in (0, 4, 2, 1, 3):
        answer = api.post("/v1/windows", json=big_batch(1, start=1.7e9 + sequence, sequence=sequence)).json()
        assert answer["status"] == "accepted"
        told.append(answer["missing_sequences"])
    assert told == [[], [[1, 3]], [[1, 1], [3, 3]], [[3, 3]], []]
    assert len(api.get("/v1/windows").json()["items"]) == 5


def test_each_start_of_an_agent_and_each_node_counts_for_itself(api, batch):
    for change in ({}, {"epoch": "e2"}, {"node": "node-2"}, {"cluster": "other"}):
        answer = api.post("/v1/windows", json=batch(**change)).json()
        assert (answer["status"], answer["missing_sequences"]) == ("accepted", [])


def test_gzip_is_unpacked(api, batch, packed):
    assert api.post("/v1/windows", content=packed(batch()), headers=GZIP).json()["windows"] == 2


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"no gzip at all", GZIP, 400),
        (gzip.compress(b"{}", mtime=0)[:-6], GZIP, 400),
        (gzip.compress(b"{}", mtime=0) + b"more", GZIP, 400),
        (gzip.compress(b" " * 5_000_000, mtime=0), GZIP, 413),
        (b" " * 200_000, JSON, 413),
        (b"{}", JSON | {"Content-Encoding": "br"}, 415),
        (b'{"node": ', JSON, 400),
        (b"\xff\xfe", JSON, 400),
        (b"[" * 90_000, JSON, 400),
        (b"", JSON, 422),
        (b"[]", JSON, 422),
    ],
)
def test_a_body_that_is_no_batch_is_refused(open_api, problem, content, headers, status):
    api = open_api(max_body_bytes=100_000)
    problem(api.post("/v1/windows", content=content, headers=headers), status)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"series": [{"metric": "accel_busy_rato", "device": "d"}] * 2}, "body.series.0.metric"),
        ({"series": [{"metric": "disk_read_bytes_total", "device": "host"}] * 2}, "body.series.0.labels"),
        (
            {"series": [{"metric": "accel_busy_ratio", "device": "d", "labels": {"x": "y"}}] * 2},
            "body.series.0.labels",
        ),
        ({"absences": [{"metric": "nothing", "device": "host", "reason": "?"}]}, "body.absences.0.metric"),
        ({"mean": [1.0]}, "body"),
        ({"series_index": [0, 2]}, "body"),
        ({"count": [0, 1]}, "body.count.0"),
        ({"count": [1, 2**63]}, "body.count.1"),
        ({"sequence": -1}, "body.sequence"),
        ({"sequence": 10**30}, "body.sequence"),
        ({"duration_seconds": [-1, 1]}, "body.duration_seconds.0"),
        ({"start_unix_seconds": [1e12, 1]}, "body.start_unix_seconds.0"),
        ({"node": "<script>"}, "body.node"),
        ({"epoch": ""}, "body.epoch"),
        ({"surprise": 1}, "body.surprise"),
        ({"schema_version": 2}, "body.schema_version"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused_whole(api, batch, problem, change, where):
    assert problem(api.post("/v1/windows", json=batch(**change)), 422)["where"] == where
    assert api.get("/v1/windows").json()["items"] == []
    assert api.get("/v1/nodes").json()["items"] == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(api, batch, problem, number):
    text = json.dumps(batch()).replace("0.97", number)
    assert problem(api.post("/v1/windows", content=text, headers=JSON), 422)["where"] == "body.mean.0"


def test_an_unknown_metric_is_named_with_the_nearest(api, batch, problem):
    series = [{"metric": "accel_busy_rato", "device": "d"}] * 2
    assert "'accel_busy_rato'" in problem(api.post("/v1/windows", json=batch(series=series)), 422)["detail"]


def test_shorter_windows_are_asked_for_while_a_run_is_active_on_the_node(api, batch, start_run):
    def asked(sequence: int, node: str = "node-1") -> float:
        return api.post("/v1/windows", json=batch(sequence=sequence, node=node)).json()["window_seconds"]

    assert asked(0) == 10.0
    start_run(api)
    assert asked(1) == 1.0
    assert asked(0, node="node-2") == 10.0
    api.post("/v1/runs/train-1/state", json={"state": "failed", "reason": "test"})
    assert asked(2) == 10.0


def test_windows_are_found_by_node_device_metric_and_time(api, batch, big_batch):
    api.post("/v1/windows", json=batch(node="node-0"))
    api.post("/v1/windows", json=big_batch(10))

    def count(**wanted) -> int:
        return len(api.get("/v1/windows", params=wanted).json()["items"])

    assert count() == 12
    assert count(node="node-1") == 10
    assert count(cluster="elsewhere") == 0
    assert count(device="host") == 1
    assert count(metric="accel_busy_ratio", node="node-0") == 1
    assert count(node="node-1", start=1.7e9 + 3, end=1.7e9 + 5) == 2


def test_pages_are_complete_and_stable_while_windows_arrive(api, big_batch):
    api.post("/v1/windows", json=big_batch(25))
    api.post("/v1/windows", json=big_batch(25, node="node-2"))
    first = api.get("/v1/windows", params={"limit": 20}).json()
    api.post("/v1/windows", json=big_batch(10, start=1.7e9 - 100, sequence=1))
    seen, cursor = list(first["items"]), first["next_cursor"]
    while cursor:
        page = api.get("/v1/windows", params={"limit": 20, "cursor": cursor}).json()
        seen, cursor = seen + page["items"], page["next_cursor"]
    keys = [(row["node"], row["start_unix_seconds"]) for row in seen]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {(node, 1.7e9 + i) for node in ("node-1", "node-2") for i in range(25)}


@pytest.mark.parametrize(
    "params",
    [{"limit": 0}, {"limit": 1001}, {"cursor": "nonsense"}, {"cursor": "WzFd"}, {"cursor": "W05hTixOYU5d"},
     {"cursor": "W" * 300}, {"metric": "' OR 1=1 --"}, {"start": "nan"}, {"start": "soon"}],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_refused(api, problem, params):
    assert problem(api.get("/v1/windows", params=params), 422)["where"] == f"query.{next(iter(params))}"


def test_a_hostile_name_finds_nothing_and_breaks_nothing(api, batch):
    api.post("/v1/windows", json=batch())
    assert api.get("/v1/windows", params={"node": "' OR 1=1 --"}).json()["items"] == []
    assert len(api.get("/v1/windows").json()["items"]) == 2


def test_nodes_show_devices_and_what_they_cannot_give_now(api, batch, clock):
    absent = [{"metric": "accel_power_watts", "device": "GPU-0", "reason": "the driver does not say"}]
    api.post("/v1/windows", json=batch(absences=absent))
    [node] = api.get("/v1/nodes").json()["items"]
    assert (node["cluster"], node["name"], node["seen_unix_seconds"]) == ("default", "node-1", clock.now)
    assert node["devices"][0] == examples_device()
    assert node["absences"] == absent
    clock.now += 10
    api.post("/v1/windows", json=batch(sequence=1, devices=[]))
    [node] = api.get("/v1/nodes").json()["items"]
    assert (node["seen_unix_seconds"], node["absences"]) == (clock.now, [])
    assert [device["id"] for device in node["devices"]] == ["GPU-0"]


def examples_device() -> dict:
    return {"id": "GPU-0", "kind": "accelerator", "vendor": "NVIDIA", "model": "NVIDIA H100 80GB HBM3", "index": 0,
            "memory_bytes": None}  # fmt: skip


def test_pages_of_nodes_are_complete(api, batch, every_page):
    for number in range(7):
        api.post("/v1/windows", json=batch(node=f"node-{number}"))
    assert [node["name"] for node in every_page(api, "/v1/nodes", 3)] == [f"node-{n}" for n in range(7)]
