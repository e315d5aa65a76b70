"""What cannot be true is refused whole, and the answer names the field."""

import pytest

from api import examples

GAUGE = [{"metric": "accel_busy_ratio", "device": "GPU-0"}] * 2
HEAT = [{"metric": "accel_temperature_celsius", "device": "GPU-0"}] * 2


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"start_unix_seconds": [1.7e9, 1.7e9 + 1301]}, "body.start_unix_seconds.1", "future"),
        ({"start_unix_seconds": [1.7e9, 1.7e9 * 1000 / 60]}, "body.start_unix_seconds.1", "future"),
        ({"start_unix_seconds": [0, 1.7e9]}, "body.start_unix_seconds.0", "days ago"),
        ({"duration_seconds": [10_000, 10]}, "body.duration_seconds.0", "longest"),
        ({"duration_seconds": [10, 0]}, "body.duration_seconds.1", "without duration"),
        ({"maximum": [97.0, None]}, "body.maximum.0", "ratio"),
        ({"minimum": [-0.5, None]}, "body.minimum.0", "ratio"),
        ({"mean": [0.2, None]}, "body.mean.0", "between"),
        ({"mean": [None, None]}, "body.mean.0", "is a gauge"),
        ({"delta": [1.0, 1.0]}, "body.mean.0", "is a gauge"),
        ({"delta": [None, -1.0]}, "body.delta.1", "is a counter"),
        ({"mean": [0.97, 1.0]}, "body.delta.1", "is a counter"),
        ({"series": HEAT, "series_index": [0, 0], "mean": [310.0] * 2, "minimum": [300.0] * 2, "maximum": [320.0] * 2,
          "delta": [None] * 2}, "body.maximum.0", "celsius"),
    ],
)  # fmt: skip
def test_a_batch_that_cannot_be_true(api, batch, problem, change, where, what):
    document = problem(api.post("/v1/windows", json=batch(**change)), 422)
    assert document["where"] == where
    assert what in document["detail"]
    assert api.get("/v1/windows").json()["items"] == []
    assert api.get("/v1/nodes").json()["items"] == []


def test_a_clock_a_little_ahead_and_an_old_spool_are_believed(api, batch, clock):
    assert api.post("/v1/windows", json=batch(start_unix_seconds=[clock.now + 299] * 2)).status_code == 200
    old = batch(start_unix_seconds=[clock.now - 300 * 86_400] * 2, sequence=1)
    assert api.post("/v1/windows", json=old).status_code == 200


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"started_unix_seconds": 0}, "body.started_unix_seconds"),
        ({"started_unix_seconds": 1.8e9}, "body.started_unix_seconds"),
        ({"allocated_seconds": 100_000}, "body.allocated_seconds"),
    ],
)
def test_facts_of_another_age(api, start_run, problem, change, where):
    start_run(api)
    assert problem(api.put("/v1/runs/train-1/facts", json=examples.FACTS | change), 422)["where"] == where
    assert api.get("/v1/runs/train-1").json()["state"] == "running"


def test_a_node_cannot_fill_the_store_with_names(open_api, batch, problem):
    api = open_api(max_series_per_node=3)
    series = [{"metric": "network_up_ratio", "device": "host", "labels": {"interface": f"eth{n}"}} for n in range(4)]

    def push(sequence: int, chosen: list[dict]):
        ones = [1.0] * len(chosen)
        return api.post("/v1/windows", json=batch(
            sequence=sequence, series=chosen, series_index=list(range(len(chosen))), mean=ones, minimum=ones,
            maximum=ones, start_unix_seconds=[1.7e9 + sequence] * len(chosen), duration_seconds=ones,
            count=[1] * len(chosen), delta=[None] * len(chosen),
        ))  # fmt: skip

    assert push(0, series[:3]).status_code == 200
    refused = problem(push(1, series[1:]), 409)
    assert (refused["where"], "4 series" in refused["detail"]) == ("body.series", True)
    assert push(1, series[:3]).json()["status"] == "accepted"
    assert len(api.get("/v1/windows").json()["items"]) == 6


def test_a_cluster_cannot_have_any_number_of_nodes(open_api, batch, problem):
    api = open_api(max_nodes_per_cluster=2)
    for node in ("n1", "n2"):
        assert api.post("/v1/windows", json=batch(node=node)).status_code == 200
    assert problem(api.post("/v1/windows", json=batch(node="n3")), 409)["where"] == "body.node"
    assert api.post("/v1/windows", json=batch(node="n3", cluster="other")).status_code == 200
    assert api.post("/v1/windows", json=batch(node="n1", sequence=1)).status_code == 200


def test_a_node_cannot_have_any_number_of_devices(api, batch, problem):
    def devices(start: int) -> list[dict]:
        return [{"id": f"d{n}", "kind": "accelerator", "vendor": "v", "model": "m"} for n in range(start, start + 1000)]

    assert api.post("/v1/windows", json=batch(devices=devices(0))).status_code == 200
    refused = api.post("/v1/windows", json=batch(devices=devices(500), sequence=1))
    assert problem(refused, 409)["where"] == "body.devices"
    assert api.post("/v1/windows", json=batch(devices=devices(0), sequence=1)).status_code == 200


HOSTILE = "'; DROP TABLE nodes; --<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/windows", examples.BATCH | {"cluster": HOSTILE}, "body.cluster"),
        ("/v1/windows", examples.BATCH | {"node": HOSTILE}, "body.node"),
        ("/v1/runs", examples.RUN | {"run_id": HOSTILE}, "body.run_id"),
        ("/v1/price-books", examples.PRICE_BOOK | {"name": HOSTILE}, "body.name"),
        ("/v1/price-books", examples.PRICE_BOOK | {"version": "../../x"}, "body.version"),
        ("/v1/keys", examples.KEY | {"cluster": HOSTILE}, "body.cluster"),
    ],
)
def test_hostile_names_are_refused(api, problem, path, body, where):
    document = problem(api.post(path, json=body), 422)
    assert document["where"] == where
    assert "DROP TABLE" not in str(document)


def test_hostile_texts_are_kept_as_texts(api, batch, end_run):
    devices = [{"id": "GPU-0", "kind": "accelerator", "vendor": HOSTILE, "model": HOSTILE}]
    api.post("/v1/windows", json=batch(devices=devices))
    [node] = api.get("/v1/nodes").json()["items"]
    assert node["devices"][0]["model"] == HOSTILE
    end_run(api, facts=examples.FACTS | {"provenance": {"note": HOSTILE}})
    assert "<script" not in api.get("/v1/reports/html", params={"run": "train-1"}).text


@pytest.mark.parametrize("depth", [1000, 100_000])
def test_a_nested_body_is_refused(api, problem, depth):
    text = '{"a":' * depth + "1" + "}" * depth
    response = api.post("/v1/windows", content=text, headers={"Content-Type": "application/json"})
    assert response.status_code in {400, 422}
    problem(response, response.status_code)


def test_duplicates_and_batches_out_of_order_change_nothing(api, big_batch):
    for sequence in (3, 1, 3, 0, 1, 2):
        api.post("/v1/windows", json=big_batch(2, start=1.7e9 + 10 * sequence, sequence=sequence))
    starts = [row["start_unix_seconds"] - 1.7e9 for row in api.get("/v1/windows").json()["items"]]
    assert starts == [0, 1, 10, 11, 20, 21, 30, 31]
