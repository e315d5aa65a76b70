"""What the service exports for the boards: every figure once, bounded, and absent where it is absent."""

import re

import pytest

from api import examples, stored_metrics
from tokenstone.score.interval import geometric_interval

_LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def scraped(api):
    """Name -> {labels as a frozen set of pairs: value}."""
    found = {}
    for line in api.get("/metrics").text.splitlines():
        if match := _LINE.match(line):
            labels = frozenset(_LABEL.findall(match[2] or ""))
            assert labels not in found.setdefault(match[1], {}), line
            found[match[1]][labels] = float(match[3])
    return found


def by(series, label, **where):
    wanted = set(where.items())
    return {dict(labels)[label]: value for labels, value in series.items() if wanted <= labels}


def test_ledger_and_bill_of_a_run_add_up_to_its_score_and_cost(api, end_run):
    end_run(api)
    api.post("/v1/runs/train-1/scores", json={"usd_per_device_hour": 2.0})
    evaluation = api.get("/v1/runs/train-1/score").json()
    found = scraped(api)
    ledger = by(found["tokenstone_run_ledger_device_seconds"], "category", run_id="train-1")
    assert ledger == evaluation["ledger"]["seconds"]
    [score] = found["tokenstone_run_score"].values()
    assert score == pytest.approx(100 * ledger["ideal"] / sum(ledger.values()))
    lines = by(found["tokenstone_run_bill_usd_per_million_tokens"], "category")
    [(labels, cost)] = found["tokenstone_run_usd_per_million_tokens"].items()
    assert ("tokens", "trained") in labels
    assert sum(lines.values()) == pytest.approx(cost)
    shares = by(found["tokenstone_spec_ledger_ratio"], "category")
    assert sum(shares.values()) == pytest.approx(1.0)
    [info] = found["tokenstone_run_info"]
    assert {("validity", "valid"), ("kind", "training"), ("preset", "cpu-tiny")} <= info


def test_the_ledger_through_a_run_adds_up_to_the_ledger(api, end_run):
    end_run(api)
    through = scraped(api)["tokenstone_run_activity_device_seconds"]
    sums = {}
    for labels, seconds in through.items():
        of = dict(labels)
        sums[of["category"]] = sums.get(of["category"], 0.0) + seconds
    # The example's 100 s: 20 s of start-up, then 80 s of steps.
    assert {name: pytest.approx(s) for name, s in sums.items() if s > 1e-9} == {
        "startup": 20, "compute": 70, "input_stall": 6, "host_overhead": 4,
    }  # fmt: skip
    assert by(through, "tenth", category="startup") == {f"{n:02}": pytest.approx(10) for n in (1, 2)}


def test_a_run_without_peak_or_price_has_neither_score_nor_cost(api, end_run):
    end_run(api, facts={name: value for name, value in examples.FACTS.items() if name != "probe"})
    found = scraped(api)
    for name in ("run_score", "spec_score", "spec_score_interval", "run_bill_usd_per_million_tokens", "run_mfu_ratio"):
        assert f"tokenstone_{name}" not in found
    assert by(found["tokenstone_run_info"], "validity") == {"unknown_peak": 1.0}
    assert found["tokenstone_run_bill_device_seconds_per_million_tokens"]
    assert "no agent measured the host" in by(found["tokenstone_run_resource_absent"], "reason")


def test_runs_that_are_shown_are_bounded_and_news_replaces_the_old(api, end_run, monkeypatch):
    monkeypatch.setattr(stored_metrics, "SHOWN_RUNS", 2)
    monkeypatch.setattr(stored_metrics, "DETAILED_RUNS", 1)
    for number in range(4):
        end_run(api, f"train-{number}", facts={**examples.FACTS, "tokens": 20480 + 512 * number})
        shown = by(scraped(api)["tokenstone_run_info"], "run_id")
        assert list(shown) == [f"train-{n}" for n in range(number, max(-1, number - 2), -1)]
    found = scraped(api)
    assert {dict(labels)["run_id"] for labels in found["tokenstone_run_activity_device_seconds"]} == {"train-3"}
    [runs] = found["tokenstone_spec_runs"].values()
    assert runs == 4
    scores = [api.get(f"/v1/runs/train-{n}/score").json()["score"] for n in range(4)]
    ends = by(found["tokenstone_spec_score_interval"], "bound")
    assert (ends["mean"], ends["low"], ends["high"]) == pytest.approx(geometric_interval(scores))
    assert list(found["tokenstone_spec_score"].values()) == [pytest.approx(scores[3])]
    # A run that is scored again is not a newer one.
    api.post("/v1/runs/train-2/scores", json={"usd_per_device_hour": 2.0})
    again = scraped(api)
    assert list(again["tokenstone_spec_score"].values()) == [pytest.approx(scores[3])]
    assert by(again["tokenstone_run_usd_per_million_tokens"], "run_id").keys() == {"train-2"}


def test_money_of_idle_devices_and_when_nodes_were_heard_of(api, batch, clock):
    midnight = 1_700_006_400.0  # UTC
    clock.now = midnight + 7200
    api.put(
        "/v1/cluster-prices", json={"cluster": "default", "effective_from": "2023-11-01", "usd_per_device_hour": 3.6}
    )
    api.post("/v1/windows", json=batch(start_unix_seconds=[midnight + 3600] * 2, duration_seconds=[1000.0] * 2,
                                       mean=[0.25, None], minimum=[0.25, None], maximum=[0.25, None]))  # fmt: skip
    found = scraped(api)
    seconds = by(found["tokenstone_fleet_today_device_seconds"], "use")
    assert seconds == {"busy": pytest.approx(250), "idle": pytest.approx(750), "unknown": pytest.approx(2600)}
    assert by(found["tokenstone_fleet_today_usd"], "use")["idle"] == pytest.approx(0.75)
    assert by(found["tokenstone_node_seen_timestamp_seconds"], "node") == {"node-1": clock.now}
    clock.now += 8 * 86400
    assert "tokenstone_node_seen_timestamp_seconds" not in scraped(api)


def test_latencies_and_costs_of_serving(api, start_run):
    spec = {**examples.RUN["spec"], "kind": "inference", "requests": 2, "input_tokens": 10, "output_tokens": 3,
            "max_batch": 2, "objective": {"ttft_seconds": 1.0}}  # fmt: skip
    for name in ("sequence_length", "batch_sequences", "steps", "warm_up_steps", "learning_rate", "bias_update_rate"):
        del spec[name]
    start_run(api, "serve-1", spec=spec)
    facts = {
        "kind": "inference", "started_unix_seconds": 1.7e9, "allocated_seconds": 10, "device_count": 1,
        "startup_seconds": 2,
        "iterations": {
            "start_seconds": [3, 5], "duration_seconds": [1, 3], "model_seconds": [1, 3],
            "communication_seconds": [0, 0],
            "host_seconds": [0, 0], "flops": [1e6, 1e6], "bytes": [1e3, 1e3], "prefill_flops": [1e6, 0],
            "recomputed_tokens": [0, 0], "requests": [[0], [0, 1]], "request_tokens": [[10], [3, 3]],
            "cache_used_ratio": [0.1, 0.5],
        },
        "requests": {"arrival_seconds": [3, 3], "first_token_seconds": [3.5, 6], "end_seconds": [7.5, 8],
                     "input_tokens": [10, 10], "cached_input_tokens": [0, 5], "output_tokens": [3, 3]},
    }  # fmt: skip
    assert api.put("/v1/runs/serve-1/facts", json=facts).status_code == 201
    api.post("/v1/runs/serve-1/scores", json={"usd_per_device_hour": 3.6})
    found = scraped(api)
    latency = found["tokenstone_run_latency_seconds"]
    assert by(latency, "statistic", measure="ttft")["mean"] == pytest.approx((0.5 + 3) / 2)
    assert by(latency, "statistic", measure="tpot")["p50"] == pytest.approx((2 + 1) / 2)
    assert by(found["tokenstone_run_batch_requests"], "statistic") == {"mean": (1 * 1 + 2 * 3) / 4, "largest": 2}
    assert by(found["tokenstone_run_cache_used_ratio"], "statistic") == {"mean": pytest.approx(0.4), "largest": 0.5}
    assert list(found["tokenstone_run_cached_input_ratio"].values()) == [0.25]
    assert list(found["tokenstone_run_goodput_ratio"].values()) == [0.5]
    evaluation = api.get("/v1/runs/serve-1/score").json()
    for tokens, bill in (("input", "input_bill"), ("output", "output_bill"), ("input and output", "bill"),
                         ("output within the objective", "goodput_bill")):  # fmt: skip
        shown = by(found["tokenstone_run_usd_per_million_tokens"], "tokens")[tokens]
        assert shown == pytest.approx(evaluation[bill]["usd_per_million_tokens"])
