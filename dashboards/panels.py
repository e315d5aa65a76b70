"""One function for each kind of panel that the boards use: title, what it means, unit, queries, size.

Only panels of Grafana's core, and of them only options that Grafana 10 to 13 all know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import barchart as bars
from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, statetimeline, table, text
from grafana_foundation_sdk.builders import timeseries as series
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.queries import Query

DATA_SOURCE = options.DataSourceRef(type_val="prometheus", uid="${datasource}")
Steps = Sequence[tuple[float | None, str]]
"""Thresholds: from which value on which colour; the first begins at None."""
Size = tuple[int, int]
"""Width in columns of 24, height in rows of 30 pixels."""
NO_DATA = "no data"
_P = TypeVar("_P")
PLAIN: Steps = ((None, "green"),)


def _targets(panel: Any, queries: Sequence[Query], *, as_table: bool = False) -> None:
    for number, query in enumerate(queries):
        target = prometheus.Dataquery().ref_id(chr(ord("A") + number)).expr(query.expression).datasource(DATA_SOURCE)
        target = target.instant() if query.instant else target.range()
        target = target.format(PromQueryFormat.TABLE) if as_table else target.legend_format(query.legend or "__auto")
        panel.with_target(target)


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    made = [model.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def _dressed(panel: _P, title: str, meaning: str, unit: str, size: Size, steps: Steps) -> _P:
    made: Any = panel
    made.title(title).description(meaning).datasource(DATA_SOURCE).unit(unit).span(size[0]).height(size[1])
    made.thresholds(_thresholds(steps)).no_value(NO_DATA)
    return panel


def _color(mode: model.FieldColorModeId) -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(mode)


def timeseries(
    title: str, meaning: str, unit: str, *queries: Query,
    size: Size = (12, 8), stacked: str = "", most: float | None = None, colors: Mapping[str, str] | None = None,
) -> series.Panel:  # fmt: skip
    """Lines over time. `stacked`: "" for lines, "normal" for areas on each other, "percent" for their shares."""
    panel = _dressed(series.Panel(), title, meaning, unit, size, PLAIN)
    _targets(panel, queries)
    legend = common.VizLegendOptions().show_legend(True).placement(options.LegendPlacement.BOTTOM)
    panel.legend(legend.display_mode(options.LegendDisplayMode.LIST))
    tooltip = common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
    panel.tooltip(tooltip).min(0).line_width(1).show_points(options.VisibilityMode.NEVER)
    panel.color_scheme(_color(model.FieldColorModeId.PALETTE_CLASSIC))
    if stacked:
        panel.stacking(common.StackingConfig().mode(options.StackingMode(stacked)).group("A")).fill_opacity(70)
    if most is not None:
        panel.max(most)
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [_fixed(color)])
    return panel


def stats(
    title: str, meaning: str, unit: str, *queries: Query,
    size: Size = (4, 4), steps: Steps = PLAIN, decimals: int | None = None, shows: str = "value",
) -> stat.Panel:  # fmt: skip
    """One large figure, or one for each series. `shows`: "value", "name" or "value_and_name"."""
    panel = _dressed(stat.Panel(), title, meaning, unit, size, steps)
    _targets(panel, queries)
    panel.graph_mode(options.BigValueGraphMode.NONE).color_mode(options.BigValueColorMode.VALUE)
    panel.text_mode(options.BigValueTextMode(shows)).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.color_scheme(_color(model.FieldColorModeId.THRESHOLDS))
    return panel if decimals is None else panel.decimals(decimals)


def bargauges(
    title: str, meaning: str, unit: str, *queries: Query,
    size: Size = (12, 8), steps: Steps = PLAIN, most: float | None = None,
) -> bargauge.Panel:  # fmt: skip
    """A horizontal bar for each series, as it is now."""
    panel = _dressed(bargauge.Panel(), title, meaning, unit, size, steps)
    _targets(panel, queries)
    panel.orientation(options.VizOrientation.HORIZONTAL).display_mode(options.BarGaugeDisplayMode.BASIC).min(0)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.color_scheme(_color(model.FieldColorModeId.THRESHOLDS))
    return panel if most is None else panel.max(most)


def states(
    title: str, meaning: str, *queries: Query, size: Size = (12, 8), names: Mapping[str, tuple[str, str]]
) -> statetimeline.Panel:
    """A band for each series; `names` says what a value is called and which colour it has."""
    panel = _dressed(statetimeline.Panel(), title, meaning, "none", size, PLAIN)
    _targets(panel, queries)
    found = {
        value: model.ValueMappingResult(text=name, color=color, index=i)
        for i, (value, (name, color)) in enumerate(names.items())
    }
    panel.mappings([model.ValueMap(options=found)]).merge_values(True)
    panel.show_value(options.VisibilityMode.NEVER).row_height(0.9)
    return panel


def tables(
    title: str, meaning: str, *queries: Query,
    columns: Mapping[str, tuple[str, str]], size: Size = (12, 8), sort: str = "", merged: bool = True,
    bars_of: Sequence[str] = (), steps: Mapping[str, Steps] | None = None,
) -> table.Panel:  # fmt: skip
    """A row for each combination of labels.

    `columns`: label, or `Value #A` for the value of the first query -> (heading, unit), in the order shown; what is not
    named is hidden. `sort`: heading of the column by which rows are sorted, the largest first. `bars_of`: headings of
    columns drawn as bars from 0 to 1 of their unit.
    """
    panel = _dressed(table.Panel(), title, meaning, "none", size, PLAIN)
    _targets(panel, queries, as_table=True)
    if merged and len(queries) > 1:
        panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    value = {f"Value #{chr(ord('A') + i)}" for i in range(len(queries))} if len(queries) > 1 else {"Value"}
    named = {("Value" if name == "Value #A" and value == {"Value"} else name): head for name, head in columns.items()}
    shown = {
        "includeByName": dict.fromkeys(named, True),
        "indexByName": {name: index for index, name in enumerate(named)},
        "renameByName": {name: heading for name, (heading, _) in named.items()},
        "excludeByName": {},
    }
    panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=shown))
    for heading, unit in named.values():
        properties = [model.DynamicConfigValue(id_val="unit", value=unit)]
        if heading in bars_of:
            properties += [
                model.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "gauge", "mode": "basic"}),
                model.DynamicConfigValue(id_val="min", value=0),
                model.DynamicConfigValue(id_val="max", value=1),
            ]
        if heading in (steps or {}):
            marks = {"mode": "absolute", "steps": [{"value": v, "color": c} for v, c in (steps or {})[heading]]}
            properties += [
                model.DynamicConfigValue(id_val="thresholds", value=marks),
                model.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}),
            ]
        panel.override_by_name(heading, properties)
    if sort:
        panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(True)])
    return panel.color_scheme(_color(model.FieldColorModeId.THRESHOLDS))


def matrix_bars(
    title: str, meaning: str, unit: str, query: Query, *, across: str, within: str,
    size: Size = (12, 8), stacked: str = "normal", colors: Mapping[str, str] | None = None,
) -> bars.Panel:  # fmt: skip
    """Bars along the label `across`, each divided by the label `within`."""
    panel = _dressed(bars.Panel(), title, meaning, unit, size, PLAIN)
    _targets(panel, [query], as_table=True)
    matrix = {"rowField": across, "columnField": within, "valueField": "Value", "emptyValue": "null"}
    panel.with_transformation(model.DataTransformerConfig(id_val="groupingToMatrix", options=matrix))
    panel.x_field(f"{across}\\{within}").stacking(options.StackingMode(stacked)).fill_opacity(80).line_width(0)
    panel.show_value(options.VisibilityMode.NEVER).group_width(0.9).bar_width(0.95)
    legend = common.VizLegendOptions().show_legend(True).placement(options.LegendPlacement.BOTTOM)
    panel.legend(legend.display_mode(options.LegendDisplayMode.LIST))
    panel.color_scheme(_color(model.FieldColorModeId.PALETTE_CLASSIC))
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [_fixed(color)])
    return panel


def prose(title: str, markdown: str, *, size: Size = (24, 3)) -> text.Panel:
    """Words, where a board needs them to be read rightly."""
    panel = text.Panel().title(title).description("How to read this board.").content(markdown)
    return panel.mode("markdown").span(size[0]).height(size[1])  # type: ignore[arg-type]


def _fixed(color: str) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})
