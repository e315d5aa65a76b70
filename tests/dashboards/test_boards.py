"""The boards as files: generated, readable by the SDK, and free of what dashboard-linter would complain of."""

import json
import re
from pathlib import Path

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.asking import load, panels_of
from dashboards.boards import BOARDS
from dashboards.generate import FOLDER, documents
from dashboards.units import UNITS
from tokenstone.metric import REGISTRY, Kind

CORE = {"row", "text", "timeseries", "stat", "table", "bargauge", "barchart", "state-timeline"}
COUNTER = re.compile(r"\b\w+(?:_total|_bucket)\b")
OWN_METRICS = re.compile(r"\b(?:accel|host|disk|network|rdma|job_(?:cpu|memory|disk)|filesystem|remote_storage)_\w+")
OVER_REPLICAS = r"(?:(?:max|group|count) by \([^()]*\) \()?"
register_default_plugins()


@pytest.fixture(params=BOARDS)
def board(request):
    return load(request.param)


@pytest.fixture
def panels(board):
    return list(panels_of(board))


def expressions(panels):
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def test_committed_json_is_what_the_code_makes():
    made = documents()
    assert {path.name for path in FOLDER.glob("*.json")} == set(made)
    for name, text in made.items():
        assert (FOLDER / name).read_text() == text, f"{name} is old: run `make dashboards`"


def test_the_sdk_reads_what_it_wrote(board):
    again = JSONEncoder(sort_keys=True, indent=2).encode(Dashboard.from_json(board))
    assert json.loads(again) == board


def test_classic_schema_and_core_panels(board):
    assert board["schemaVersion"] == 42
    assert {panel["type"] for panel in board["panels"]} <= CORE
    assert board["uid"].startswith("tokenstone-")
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_every_panel_says_what_it_shows(panels):
    for panel in panels:
        assert panel["title"], panel
        assert len(panel["description"]) > 15, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"] == "no data"
    titles = [panel["title"] for panel in panels]
    assert len(titles) == len(set(titles))


def test_table_columns_have_units(panels):
    for panel in panels:
        if panel["type"] == "table":
            organize = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
            units = {
                override["matcher"]["options"]
                for override in panel["fieldConfig"]["overrides"]
                if any(prop["id"] == "unit" and prop["value"] in UNITS for prop in override["properties"])
            }
            assert set(organize["renameByName"].values()) == units, panel["title"]
            values = {name for name in organize["renameByName"] if name.startswith("Value")}
            several = {f"Value #{target['refId']}" for target in panel["targets"]}
            assert values <= (several if len(panel["targets"]) > 1 else {"Value"}), panel["title"]


def test_the_data_source_is_a_variable_everywhere(board):
    first = board["templating"]["list"][0]
    assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")
    sources = re.findall(r'"datasource": \{"type": "(\w+)", "uid": "([^"]*)"\}', json.dumps(board))
    assert set(sources) == {("prometheus", "${datasource}")}
    assert len(sources) == json.dumps(board).count('"datasource":')


def test_every_selector_names_job_and_cluster(panels):
    for title, expression in expressions(panels):
        selectors = re.findall(r"\w+\{([^{}]*)\}", expression)
        assert selectors, title
        for selector in selectors:
            assert 'job=~"$job"' in selector, (title, selector)
            if "tokenstone_serving" not in expression:  # a server does not know of a cluster
                assert 'cluster=~"$cluster"' in selector, (title, selector)


def test_variables_that_are_used_exist_and_exist_to_be_used(board, panels):
    names = {variable["name"] for variable in board["templating"]["list"]}
    text = json.dumps([board["panels"], board["annotations"], board["templating"]])
    used = set(re.findall(r"\$\{?([a-z]\w*)\}?", text))
    assert used == names


def test_counters_are_under_a_rate_and_rates_have_grafanas_interval(panels):
    for title, expression in expressions(panels):
        ever = any("Ever" in names.values() for names in headings(panels, title))
        for counter in COUNTER.findall(expression):
            assert ever or re.search(rf"(rate|increase)\({counter}\{{", expression), (title, counter)
        for found in re.finditer(r"(rate|increase)\([^\[]*\[([^\]]+)\]", expression):
            allowed = {"rate": {"$__rate_interval"}, "increase": {"$__range", "1h"}}[found[1]]
            assert found[2] in allowed, (title, found[0])


def headings(panels, title):
    panel = next(panel for panel in panels if panel["title"] == title)
    return [t["options"]["renameByName"] for t in panel.get("transformations", []) if t["id"] == "organize"]


def test_agents_metrics_are_in_the_registry_with_their_labels(panels):
    for title, expression in expressions(panels):
        for name in OWN_METRICS.findall(expression):
            assert name in REGISTRY, (title, name)
            if REGISTRY[name].kind is Kind.GAUGE:
                assert f"rate({name}" not in expression, (title, name)


def test_figures_of_the_service_are_not_added_up_over_its_replicas(panels):
    for title, expression in expressions(panels):
        for stored in re.findall(
            r"(?:(?:max|group|count) by \([^()]*\) \()?tokenstone_(?:spec|run|fleet|node)_\w+\{", expression
        ):
            assert stored.startswith(("max by", "group by", "count by")), (title, stored)


def test_panels_fit_the_grid_and_do_not_overlap(board):
    taken = set()
    for panel in board["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


def test_boards_lead_to_each_other_and_mark_runs(board):
    [link] = board["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["tokenstone"])
    assert link["includeVars"]
    assert link["keepTime"]
    assert "tokenstone" in board["tags"]
    assert [mark["name"] for mark in board["annotations"]["list"]] == ["Runs begin", "Runs end"]


def test_every_metric_on_a_board_is_documented():
    page = Path(FOLDER.parents[1] / "docs/dashboards.md").read_text()
    for name in BOARDS:
        assert f"images/boards/{name}.png" in page
        assert load(name)["title"].removeprefix("Tokenstone / ") in page
