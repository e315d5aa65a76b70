"""Clusters, devices, specs, phases, comparisons: what the service knows, as lists and one by one."""

import copy

import pytest

from api import examples

LIFE = "/v1/runs/train-1"


def test_clusters_are_what_nodes_and_runs_name(api, batch, start_run, clock, problem, every_page):
    api.post("/v1/windows", json=batch(cluster="b"))
    api.post("/v1/windows", json=batch(cluster="b", node="node-2"))
    start_run(api, cluster="a")
    a, b = every_page(api, "/v1/clusters", 1)
    assert (a["name"], a["nodes"], a["runs"], a["seen_unix_seconds"]) == ("a", 0, 1, None)
    assert (b["name"], b["nodes"], b["accelerators"], b["runs"]) == ("b", 2, 2, 0)
    assert b["seen_unix_seconds"] == clock.now
    assert api.get("/v1/clusters/b").json() == b
    assert "GET /v1/clusters" in problem(api.get("/v1/clusters/c"), 404)["hint"]
    assert [c["name"] for c in api.get("/v1/clusters", params={"cluster": "b"}).json()["items"]] == ["b"]


def test_devices_know_their_hardware_only_by_the_drivers_name(api, batch, every_page):
    api.post("/v1/windows", json=batch())
    unknown = [{"id": "GPU-9", "kind": "accelerator", "vendor": "v", "model": "H100-ish"}]
    api.post("/v1/windows", json=batch(node="node-2", devices=unknown))
    found = every_page(api, "/v1/devices", 1)
    assert [(d["node"], d["device"]["id"], d["hardware"]) for d in found] == [
        ("node-1", "GPU-0", "h100-sxm"),
        ("node-2", "GPU-9", None),
    ]
    assert [d["node"] for d in api.get("/v1/devices", params={"node": "node-2"}).json()["items"]] == ["node-2"]


def test_specs_are_told_apart_by_their_hash(api, start_run, problem, every_page):
    start_run(api, "one")
    start_run(api, "two")
    start_run(api, "three", spec=examples.RUN["spec"] | {"seed": 7})
    specs = every_page(api, "/v1/specs", 1)
    assert sorted(spec["runs"] for spec in specs) == [1, 2]
    assert {api.get(f"/v1/specs/{spec['spec_id']}").json()["spec"]["seed"] for spec in specs} == {0, 7}
    mine = api.get("/v1/runs/three").json()["spec_id"]
    assert [run["run_id"] for run in api.get("/v1/runs", params={"spec_id": mine}).json()["items"]] == ["three"]
    problem(api.get("/v1/specs/nothing"), 404)


def test_phases_come_from_the_facts(api, start_run, end_run, problem, every_page):
    start_run(api, "other")
    problem(api.get("/v1/runs/other/phases"), 404)
    end_run(api)
    phases = every_page(api, f"{LIFE}/phases", 1)
    assert [(p["device"], p["kind"], p["start_seconds"], p["steps"]) for p in phases] == [
        ("cpu", "startup", 0, 0),
        ("cpu", "step", 20, 20),
    ]
    assert api.get(f"{LIFE}/facts").json()["tokens"] == examples.FACTS["tokens"]


def test_every_score_says_what_it_is_of(api, end_run):
    end_run(api)
    book = examples.PRICE_BOOK | {"rows": [examples.PRICE_BOOK["rows"][0] | {"effective_from": "2020-01-01"}]}
    api.post("/v1/price-books", json=book)
    api.post(f"{LIFE}/scores", json={"price_book": "ours", "price_row": "h100"})
    api.post(f"{LIFE}/scores", json=examples.PRICE)
    by_hand, by_book, unpriced = api.get(f"{LIFE}/scores").json()["items"]
    assert (by_book["price_book"], by_book["price_row"]) == ("ours@2026-11", "h100")
    assert by_book["usd_per_device_hour"] == 2.1
    assert (by_hand["price_book"], by_hand["usd_per_device_hour"]) == (None, 2.0)
    assert (unpriced["price_book"], unpriced["usd_per_device_hour"]) == (None, None)
    for score in (by_hand, by_book, unpriced):
        assert (score["schema_version"], score["validity"]) == (1, ["valid"])
        assert score["inputs_hash"] == score["evaluation"]["inputs_hash"]
        assert api.get(f"{LIFE}/scores/{score['number']}").json() == score
    newer = book | {"version": "2026-12", "rows": [book["rows"][0] | {"usd_per_device_hour": 5.0}]}
    api.post("/v1/price-books", json=newer)
    assert api.get(f"{LIFE}/scores/{by_book['number']}").json() == by_book


@pytest.fixture
def side(api, end_run):
    """Runs with these tokens each; return their ids."""

    def make(name: str, tokens, **changes) -> list[str]:
        for number, count in enumerate(tokens):
            end_run(api, f"{name}-{number}", facts=copy.deepcopy(examples.FACTS) | {"tokens": count}, **changes)
        return [f"{name}-{number}" for number in range(len(tokens))]

    return make


def test_runs_are_compared_with_runs(api, side):
    a, b = side("a", (100, 110, 90, 100)), side("b", (130, 120, 125, 140), cluster="b")
    found = api.get("/v1/comparisons", params={"a": a, "b": b}).json()
    metrics = {metric["metric"]: metric for metric in found["metrics"]}
    rate = metrics["tokens_per_second"]
    assert rate["ratio"]["ratio"] == pytest.approx(1.2886, abs=1e-4)
    assert rate["ratio"]["p_value"] == pytest.approx(0.0033, abs=1e-4)
    judged = sum(metric["adjusted_p_value"] is not None for metric in found["metrics"])
    assert rate["adjusted_p_value"] == pytest.approx(judged * rate["ratio"]["p_value"])  # all move by the same ratio
    assert metrics["usd_per_million_tokens"]["ratio"] is None
    assert "not every side" in metrics["usd_per_million_tokens"]["reason"]
    assert (found["cluster_a"], found["cluster_b"]) == ("default", "b")
    assert any("different clusters" in note for note in found["notes"])


def test_few_runs_are_no_difference(api, side):
    found = api.get("/v1/comparisons", params={"a": side("a", (100, 101)), "b": side("b", (300, 301))}).json()
    assert {metric["reason"] for metric in found["metrics"]} >= {"insufficient data"}
    assert {metric["adjusted_p_value"] for metric in found["metrics"]} == {None}


def test_a_comparison_that_makes_no_sense_is_refused(api, side, start_run, problem):
    [a] = side("a", (100,))
    [b] = side("b", (100,), spec=examples.RUN["spec"] | {"seed": 1})
    [c] = side("c", (100,), cluster="other")
    assert "2 specs" in api.get("/v1/comparisons", params={"a": a, "b": b}).json()["verdict"]["sentence"]
    assert "both sides" in problem(api.get("/v1/comparisons", params={"a": a, "b": a}), 422)["detail"]
    assert problem(api.get("/v1/comparisons", params={"a": [a, c], "b": c}), 422)["where"] in {"query.a", "query.b"}
    problem(api.get("/v1/comparisons", params={"a": a, "b": "nobody"}), 404)
    problem(api.get("/v1/comparisons", params={"a": a}), 422)
    start_run(api, "open")
    problem(api.get("/v1/comparisons", params={"a": a, "b": "open"}), 404)


def test_windows_are_read_in_steps(api, big_batch):
    api.post("/v1/windows", json=big_batch(100))
    page = api.get("/v1/windows", params={"metric": "accel_busy_ratio", "step": 50, "limit": 2}).json()
    assert [(row["start_unix_seconds"], row["count"], row["duration_seconds"]) for row in page["items"]] == [
        (1.7e9, 50, 50.0),
        (1.7e9 + 50, 50, 50.0),
    ]
    assert [row["mean"] for row in page["items"]] == pytest.approx([0.245, 0.745])


@pytest.mark.parametrize(
    ("params", "where"),
    [({"step": 0}, "step"), ({"step": "inf"}, "step"), ({"aggregation": "median"}, "aggregation"),
     ({"aggregation": "cluster"}, "aggregation"),
     ({"aggregation": "cluster", "cluster": "default", "step": 7}, "step")],
)  # fmt: skip
def test_steps_that_make_no_sense_are_refused(api, problem, params, where):
    assert problem(api.get("/v1/windows", params=params), 422)["where"] == f"query.{where}"
