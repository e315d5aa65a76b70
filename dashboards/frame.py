"""What every board has around its panels: variables, links to the others, annotations, identity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.models import dashboard as model

from dashboards.panels import DATA_SOURCE
from dashboards.queries import SERVICE

TAG = "tokenstone"
Variable = dashboard.QueryVariable | dashboard.DatasourceVariable
Row = tuple[str, Sequence[Any]]
"""A heading, and the panels below it."""


def data_source() -> dashboard.DatasourceVariable:
    """Which Prometheus."""
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def choice(
    name: str, label: str, query: str, *, meaning: str, many: bool = True, newest_first: bool = False
) -> dashboard.QueryVariable:
    """A variable whose values Prometheus knows. All of them match `.*`, so that series without the label count too."""
    made = dashboard.QueryVariable(name).label(label).description(meaning).datasource(DATA_SOURCE).definition(query)
    made = made.query({"query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
    order = model.VariableSort.NATURAL_DESC if newest_first else model.VariableSort.NATURAL_ASC
    made = made.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(order)
    if not many:
        return made.multi(False).include_all(False)
    made = made.multi(True).include_all(True).all_value(".*")
    return made.current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))


_EVERYBODY = '__name__=~"tokenstone_source_up|tokenstone_runs|tokenstone_serving_requests_running"'
"""A series of each kind of target: agents, the service, the reference server."""


def job() -> dashboard.QueryVariable:
    """Which scrape jobs: a target that two of them scrape would else count twice."""
    return choice("job", "Job", f"label_values({{{_EVERYBODY}}}, job)", meaning="Scrape job of Prometheus.")


def cluster() -> dashboard.QueryVariable:
    """Which clusters."""
    here = f'{_EVERYBODY},job=~"$job"'
    return choice("cluster", "Cluster", f"label_values({{{here}}}, cluster)", meaning="Name of a cluster.")


def run(kind: str) -> dashboard.QueryVariable:
    """Which run of a kind."""
    return choice(
        "run", "Run", f'label_values(tokenstone_run_info{{{SERVICE},kind=~"{kind}"}}, run_id)',
        meaning="The service shows the runs that were evaluated last.", many=False, newest_first=True,
    )  # fmt: skip


def _annotation(name: str, expression: str, title: str, color: str) -> dashboard.AnnotationQuery:
    target = prometheus.Dataquery().ref_id("Anno").expr(expression).datasource(DATA_SOURCE)
    made = dashboard.AnnotationQuery().name(name).datasource(DATA_SOURCE).enable(True).hide(False).icon_color(color)
    made = made.expr(expression).title_format(title).text_format("{{cluster}}").tag_keys("cluster")
    return made.use_value_for_time(True).step("60s").target(target)


def _annotations() -> list[dashboard.AnnotationQuery]:
    started = f"max by (cluster, run_id) (tokenstone_run_started_timestamp_seconds{{{SERVICE}}}) * 1000"
    ended = f"max by (cluster, run_id) (tokenstone_run_ended_timestamp_seconds{{{SERVICE}}}) * 1000"
    return [
        _annotation("Runs begin", started, "{{run_id}} began", "blue"),
        _annotation("Runs end", ended, "{{run_id}} ended", "purple"),
    ]


def _link() -> dashboard.DashboardLink:
    made = dashboard.DashboardLink("Tokenstone").type(model.DashboardLinkType.DASHBOARDS).tags([TAG])
    return made.keep_time(True).include_vars(True).as_dropdown(False).icon("external link").tooltip("The other boards")


def board(
    uid: str, title: str, meaning: str, variables: Iterable[Variable], rows: Sequence[Row], *, since: str = "now-6h"
) -> dashboard.Dashboard:
    """Put a board together."""
    made = dashboard.Dashboard(f"Tokenstone / {title}").uid(f"tokenstone-{uid}").description(meaning).tags([TAG])
    made = made.readonly().timezone("browser").time(since, "now").refresh("1m").version(1).link(_link())
    made = made.tooltip(model.DashboardCursorSync.CROSSHAIR)
    for variable in (data_source(), *variables):
        made = made.with_variable(variable)
    for annotation in _annotations():
        made = made.annotation(annotation)
    number = 0
    for heading, panels in rows:
        number += 1
        made = made.with_row(dashboard.Row(heading).id(number))
        for panel in panels:
            number += 1
            made = made.with_panel(panel.id(number))
    return made
