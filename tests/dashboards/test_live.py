"""The boards as a person would see them: a real Prometheus over history, over nothing, and over everything, live."""

import shutil
import subprocess
import time

import pytest

from dashboards import demo
from dashboards.asking import Prometheus, load, open_board, panels_of
from dashboards.boards import BOARDS
from dashboards.picture import draw, rows_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # a bench on a machine that has other things to do
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus"),
]
NO_TARGETS = "global: {scrape_interval: 1s}\nscrape_configs: []\n"
BEGAN = 1_790_000_000
"""Of the seeded history, seconds since 1970."""


def answers(board, asked):
    return {(p["title"], t["refId"]): asked.ask(t) for p in panels_of(board) for t in p["targets"]}


def opened(name, prometheus, *, start, end, **chosen):
    board = load(name)
    return board, open_board(board, prometheus, start=start, end=end, step=2, scrape_seconds=1, chosen=chosen)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """Service, agents, server, Prometheus, and a bench that has run."""
    with demo.running(tmp_path_factory.mktemp("demo"), seconds=300, run_every=2.0) as running:

        def ready():
            found = running.prometheus.query("count(tokenstone_run_joules_per_token) >= 2", at=time.time())
            rated = running.prometheus.query("rate(tokenstone_serving_requests_finished_total[4s])", at=time.time())
            return found and rated

        demo.until(ready)
        yield running


def empty_panels(live, name, **chosen):
    board, asked = opened(name, live.prometheus, start=live.began, end=time.time(), **chosen)
    return {title for (title, _), answer in answers(board, asked).items() if not answer}


def test_every_panel_of_every_board_has_data(live):
    assert {name: empty_panels(live, name) for name in BOARDS} == {
        "fleet": set(), "node": set(), "inference": set(), "compare": set(),
        "run": {"Not measured, and why"},  # of this run all was; the bench's run has that panel, see below
    }  # fmt: skip


def test_the_bench_is_on_the_board_of_runs(live):
    [bench] = {
        series["metric"]["run_id"]
        for series in live.prometheus.query('tokenstone_run_info{kind="training",cluster="local"}', at=time.time())
    }
    assert bench.startswith("bench-")
    # One process has no collectives, and a processor no energy counter.
    assert empty_panels(live, "run", run=bench) == {"Collectives", "Energy per token"}


def test_figures_agree_with_the_service(live):
    """What a board shows is what the service's report says, through exporter, Prometheus and PromQL."""
    board, asked = opened("run", live.prometheus, start=live.began, end=time.time(), run="simulated-001")
    shown = answers(board, asked)
    evaluation = demo.fetch(f"{live.service}/v1/runs/simulated-001/score")
    bill = {line["category"]: line["usd_per_million_tokens"] for line in evaluation["bill"]["lines"]}

    def one(title):
        [series] = shown[(title, "A")]
        return float(series["value"][1])

    assert one("Score") == pytest.approx(evaluation["score"])
    assert one("Cost per M tokens") == pytest.approx(evaluation["bill"]["usd_per_million_tokens"])
    assert one("Energy per token") == pytest.approx(evaluation["joules_per_token"])
    lines = {s["metric"]["category"]: float(s["value"][1]) for s in shown[("The bill, in money", "A")]}
    assert lines == pytest.approx({name: usd for name, usd in bill.items() if usd > 1e-9})
    ledger = evaluation["ledger"]
    outside = sum(ledger["seconds"].get(name, 0) for name in ("startup", "recovery", "checkpoint", "idle"))
    assert one("Goodput: time in counted steps") == pytest.approx(1 - outside / ledger["allocated_seconds"])
    through = shown[("The ledger through the run", "A")]
    total = sum(float(series["value"][1]) for series in through)
    assert total == pytest.approx(ledger["allocated_seconds"], rel=1e-6)
    assert {series["metric"]["tenth"] for series in through} == {f"{n:02}" for n in range(1, 11)}


def test_the_fleet_counts_devices_and_says_which_are_sick(live):
    board, asked = opened("fleet", live.prometheus, start=live.began, end=time.time())
    shown = answers(board, asked)
    assert float(shown[("Devices", "A")][0]["value"][1]) == 15
    troubles = {
        (s["metric"]["node"], s["metric"]["problem"]): s["metric"].get("detail", "")
        for s in shown[("What is wrong", "A")]
    }
    assert ("ascend-910-node", "the driver calls the device unhealthy") in troubles
    assert "lost" in troubles[("h100-node", "a device is lost")]
    assert "a source cannot be read" not in {problem for _, problem in troubles}  # no NVIDIA driver is no trouble here
    assert float(shown[("Allocated, but idle", "A")][0]["value"][1]) == 1


def test_boards_can_be_drawn(live):
    board, asked = opened("compare", live.prometheus, start=live.began, end=time.time())
    figure = draw(board, asked)
    written = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"Cost against score, by cluster", "Runs side by side"} <= written
    panel = next(panel for panel in panels_of(board) if panel["title"] == "Runs side by side")
    headings, rows = rows_of(panel, [asked.ask(target) for target in panel["targets"]])
    assert headings[:3] == ["Began", "Cluster", "Run"]
    assert all(len(row) == len(headings) for row in rows)
    assert next(row for row in rows if row[2] == "simulated-001")[6].startswith("$")


def test_an_empty_prometheus_shows_no_data_and_no_errors(tmp_path):
    config = tmp_path / "prometheus.yml"
    config.write_text(NO_TARGETS)
    with demo.serving_prometheus(config, tmp_path / "tsdb") as prometheus:
        for name in BOARDS:
            board, asked = opened(name, prometheus, start=time.time() - 3600, end=time.time())
            assert not any(answers(board, asked).values())
            words = {text.get_text() for axes in draw(board, asked).axes for text in axes.texts}
            assert "no data" in words


@pytest.fixture(scope="module")
def history(tmp_path_factory) -> Prometheus:
    """Fourteen hours in which a cluster's score fell and its devices idled, seeded: every figure is known."""
    folder = tmp_path_factory.mktemp("history")
    lines = []
    spec = 'cluster="c",kind="training",preset="p",spec_id="s",job="tokenstone",instance="{}"'
    agent = 'cluster="c",node="n",device="GPU-{}",job="agents",instance="n"'
    families = {
        "tokenstone_spec_score": [(spec.format(replica), lambda hour: 40 if hour < 10 else 30) for replica in "ab"],
        "tokenstone_fleet_today_usd": [
            (f'cluster="c",model="m",use="idle",job="tokenstone",instance="{replica}"', lambda hour: 24.0 + hour)
            for replica in "ab"
        ],
        "accel_info": [(agent.format(i) + f',vendor="v",model="m",index="{i}"', lambda _: 1) for i in range(4)],
        "accel_busy_ratio": [(agent.format(i), lambda _, i=i: 0.25 * i) for i in range(4)],
    }
    for name, series in families.items():
        lines.append(f"# TYPE {name} gauge")
        for labels, value in series:
            lines += [f"{name}{{{labels}}} {value(t // 3600)} {BEGAN + t}" for t in range(0, 14 * 3600, 240)]
    (folder / "seed.txt").write_text("\n".join([*lines, "# EOF\n"]))
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(folder / "seed.txt"), str(folder / "tsdb")]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "prometheus.yml").write_text(NO_TARGETS)
    with demo.serving_prometheus(folder / "prometheus.yml", folder / "tsdb") as prometheus:
        yield prometheus


def test_history_shows_what_was_so_then_and_once_for_two_replicas(history):
    end = BEGAN + 13 * 3600
    board = load("fleet")
    asked = open_board(board, history, start=BEGAN, end=end, step=900, scrape_seconds=15)
    shown = answers(board, asked)
    [score] = shown[("Score over time", "A")]
    assert [float(v) for t, v in score["values"] if t < BEGAN + 9 * 3600] == [40.0] * 36
    assert float(score["values"][-1][1]) == 30.0
    assert float(shown[("Burnt by idle devices today", "A")][0]["value"][1]) == 24.0 + 13
    assert float(shown[("Devices", "A")][0]["value"][1]) == 4
    assert float(shown[("Busy", "A")][0]["value"][1]) == 1.5
