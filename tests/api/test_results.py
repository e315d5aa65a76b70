"""Ledger, score, bill and report of a run, as the service answers them."""

import math

import pytest

from api import examples

LIFE = "/v1/runs/train-1"


def test_the_ledger_balances_and_the_score_follows(api, end_run):
    end_run(api)
    ledger = api.get(f"{LIFE}/ledger").json()
    assert ledger["allocated_seconds"] == 100
    assert math.fsum(ledger["seconds"].values()) + ledger["residual_seconds"] == pytest.approx(100)
    score = api.get(f"{LIFE}/score").json()
    assert score["score"] == pytest.approx(ledger["seconds"]["ideal"])
    assert (score["schema_version"], score["validity"]) == (1, ["valid"])


def test_without_a_price_the_bill_is_in_device_seconds(api, end_run):
    end_run(api)
    bill = api.get(f"{LIFE}/bill").json()["bill"]
    assert bill["usd"] is None
    assert bill["device_seconds_per_million_tokens"] == pytest.approx(100 / 20480 * 1e6)


def test_a_run_is_scored_again_and_keeps_its_history(api, end_run, clock, every_page):
    end_run(api)
    clock.now += 5
    for price in (2.0, 4.0):
        answer = api.post(f"{LIFE}/scores", json={"usd_per_device_hour": price})
        assert answer.status_code == 201
        assert answer.json()["bill"]["usd_per_million_tokens"] == pytest.approx(price / 3600 * 100 / 20480 * 1e6)
    assert api.get(f"{LIFE}/bill").json()["bill"]["price"]["usd_per_device_hour"] == 4.0
    history = every_page(api, f"{LIFE}/scores", 2)
    prices = [(scored["evaluation"]["bill"]["price"] or {}).get("usd_per_device_hour") for scored in history]
    assert prices == [4.0, 2.0, None]
    assert [scored["created_unix_seconds"] for scored in history] == [clock.now, clock.now, clock.now - 5]
    assert len({scored["evaluation"]["inputs_hash"] for scored in history}) == 3


def test_windows_of_the_run_reach_the_panel(api, end_run, batch):
    def cpu(mode: str, delta: float) -> dict:
        return {"series": {"metric": "host_cpu_seconds_total", "device": "host", "labels": {"mode": mode}}, "d": delta}

    rows = [cpu("user", 3.0), cpu("idle", 1.0)]
    windows = {
        "series": [row["series"] for row in rows], "series_index": [0, 1], "start_unix_seconds": [1.7e9 + 10] * 2,
        "mean": [None] * 2, "minimum": [None] * 2, "maximum": [None] * 2, "delta": [row["d"] for row in rows],
    }  # fmt: skip
    api.post("/v1/windows", json=batch(**windows))
    api.post("/v1/windows", json=batch(**windows, node="node-of-somebody-else") | {"delta": [0.0, 9.0]})
    api.post("/v1/windows", json=batch(**windows, cluster="elsewhere") | {"delta": [0.0, 9.0]})
    end_run(api)
    panel = {row["resource"]: row for row in api.get(f"{LIFE}/score").json()["panel"]}
    assert panel["host CPU"]["mean_ratio"] == pytest.approx(0.75)


@pytest.mark.parametrize("what", ["ledger", "score", "bill"])
def test_what_is_not_there_yet_says_why(api, start_run, problem, what):
    assert "no run 'train-1'" in problem(api.get(f"{LIFE}/{what}"), 404)["detail"]
    start_run(api)
    assert "is running" in problem(api.get(f"{LIFE}/{what}"), 404)["detail"]
    api.post(f"{LIFE}/state", json={"state": "failed", "reason": "out of memory"})
    assert "failed (out of memory)" in problem(api.get(f"{LIFE}/{what}"), 404)["detail"]
    problem(api.post(f"{LIFE}/scores", json={}), 409)


def test_no_tokens_no_bill(api, end_run, problem):
    end_run(api, facts=examples.FACTS | {"tokens": 0})
    assert "no token was counted" in problem(api.get(f"{LIFE}/bill"), 404)["detail"]
    assert api.get(f"{LIFE}/ledger").status_code == 200


@pytest.mark.parametrize(
    ("choice", "where"),
    [
        ({"usd_per_device_hour": -1}, "body.usd_per_device_hour"),
        ({"usd_per_device_hour": 1, "price_book": "published", "price_row": "h800-sxm/deepseek"}, "body"),
        ({"price_book": "published"}, "body"),
        ({"price_row": "h800-sxm/deepseek"}, "body"),
        ({"price_book": "nobodys", "price_row": "x"}, "price_book"),
        ({"price_book": "published@1999", "price_row": "x"}, "price_book"),
        ({"price_book": "published", "price_row": "x"}, "price book published"),
    ],
)
def test_a_price_that_makes_no_sense_is_refused(api, end_run, problem, choice, where):
    end_run(api)
    assert problem(api.post(f"{LIFE}/scores", json=choice), 422)["where"] == where
    assert len(api.get(f"{LIFE}/scores").json()["items"]) == 1


def test_price_books_grow_by_versions_that_never_change(api, end_run, problem):
    assert [book["name"] for book in api.get("/v1/price-books").json()["items"]] == ["published"]
    old = examples.PRICE_BOOK | {"rows": [examples.PRICE_BOOK["rows"][0] | {"effective_from": "2020-01-01"}]}
    new = old | {"version": "2026-12", "rows": [old["rows"][0] | {"usd_per_device_hour": 3.0}]}
    assert [api.post("/v1/price-books", json=book).status_code for book in (old, old, new)] == [201, 200, 201]
    problem(api.post("/v1/price-books", json=new | {"rows": old["rows"]}), 409)
    end_run(api)

    def rate(book: str) -> float:
        scored = api.post(f"{LIFE}/scores", json={"price_book": book, "price_row": "h100"})
        return scored.json()["bill"]["price"]["usd_per_device_hour"]

    assert (rate("ours"), rate("ours@2026-11")) == (3.0, 2.1)


def test_a_price_counts_from_its_day_on(api, end_run, problem):
    rows = [examples.PRICE_BOOK["rows"][0] | {"effective_from": day, "usd_per_device_hour": price}
            for day, price in (("2023-01-01", 1.0), ("2023-11-15", 2.0))]  # fmt: skip
    api.post("/v1/price-books", json=examples.PRICE_BOOK | {"rows": rows})
    end_run(api)  # on 2023-11-14
    scored = api.post(f"{LIFE}/scores", json={"price_book": "ours", "price_row": "h100"}).json()
    assert scored["bill"]["price"]["usd_per_device_hour"] == 1.0


def test_a_report_joins_runs(api, end_run):
    end_run(api)
    end_run(api, "train-2")
    report = api.get("/v1/reports", params={"run": ["train-1", "train-2"]}).json()
    assert report["allocated_seconds"] == 200
    assert [section["run"]["run_id"] for section in report["sections"]] == ["train-1", "train-2"]


def test_a_report_is_a_page_too(api, end_run):
    end_run(api)
    page = api.get("/v1/reports/html", params={"run": "train-1"})
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<html" in page.text
    assert "<script" not in page.text


@pytest.mark.parametrize("path", ["/v1/reports", "/v1/reports/html"])
def test_a_report_that_makes_no_sense_is_refused(api, end_run, start_run, problem, path):
    problem(api.get(path), 422)
    problem(api.get(path, params={"run": "nobody"}), 404)
    start_run(api, "train-0")
    problem(api.get(path, params={"run": "train-0"}), 404)
    end_run(api)
    end_run(api, "train-2", cluster="other")
    problem(api.get(path, params={"run": ["train-1", "train-2"]}), 422)
    end_run(api, "train-3")
    api.post("/v1/runs/train-3/scores", json={"usd_per_device_hour": 1})
    assert "different prices" in problem(api.get(path, params={"run": ["train-1", "train-3"]}), 409)["detail"]


def test_the_catalogues(api, problem):
    names = [row["name"] for row in api.get("/v1/hardware").json()]
    assert "h100-sxm" in names
    row = api.get("/v1/hardware/h100-sxm").json()
    assert row["vendor"]
    assert all(figure["source"] and figure["date"] for figure in row["figures"])
    assert "h100-sxm" in problem(api.get("/v1/hardware/h100-sxn"), 404)["hint"]
    metrics = {metric["name"]: metric for metric in api.get("/v1/metrics").json()}
    assert metrics["disk_read_bytes_total"]["labels"] == ["disk"]


def test_scores_and_costs_are_gauges(api, end_run, batch):
    end_run(api)
    end_run(api, "train-2")
    api.post("/v1/runs/train-2/scores", json={"usd_per_device_hour": 2.0})
    api.post("/v1/windows", json=batch())
    api.post("/v1/windows", json=batch())
    text = api.get("/metrics").text
    labels = 'cluster="default",kind="training",preset="cpu-tiny"'
    score = api.get("/v1/runs/train-2/score").json()
    assert f"tokenstone_spec_score{{{labels}" in text
    cost = score["bill"]["usd_per_million_tokens"]
    spec = score["spec_id"]
    assert f'tokenstone_spec_usd_per_million_tokens{{{labels},spec_id="{spec}"}} {cost}' in text
    assert 'tokenstone_runs{cluster="default",state="complete"} 2.0' in text
    assert 'tokenstone_ingest_batches_total{status="duplicate"} 1.0' in text
    assert "tokenstone_ingest_windows_total 2.0" in text


def test_an_absent_figure_is_no_gauge(api, end_run):
    end_run(api, facts={name: value for name, value in examples.FACTS.items() if name != "probe"})
    text = api.get("/metrics").text
    assert "tokenstone_spec_score{" not in text
    assert "tokenstone_spec_usd_per_million_tokens{" not in text
    assert "tokenstone_spec_device_seconds_per_million_tokens{" in text


def test_the_service_is_alive_and_ready(api):
    assert api.get("/healthz").json() == api.get("/readyz").json() == {"status": "ok"}
