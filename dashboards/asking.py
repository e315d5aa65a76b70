"""Ask Prometheus what a board's panels would, with its variables filled in as Grafana fills them in.

Used by the tests and by the pictures; Grafana itself does this in the browser.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BOARDS = Path(__file__).parent / "json"
Document = dict[str, Any]
"""A board, panel or target as JSON."""
_LABEL_VALUES = re.compile(r"label_values\((?:(?P<series>.+), )?(?P<label>\w+)\)", re.DOTALL)


class PromqlError(Exception):
    """Prometheus refused an expression."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """The HTTP API of a Prometheus at `url`. Times are seconds since 1970."""

    url: str

    def query(self, expression: str, *, at: float) -> list[Document]:
        """Instant query."""
        found: Document = self._ask("query", {"query": expression, "time": f"{at:.3f}"})
        return self._vector(found)

    def query_range(self, expression: str, *, start: float, end: float, step: float) -> list[Document]:
        """Range query."""
        asked = {"query": expression, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        return list(self._ask("query_range", asked)["result"])

    def label_values(self, label: str, series: str | None, *, start: float, end: float) -> list[str]:
        """Values of a label, of the series that match."""
        asked = {"start": f"{start:.3f}", "end": f"{end:.3f}"} | ({"match[]": series} if series else {})
        return list(self._ask(f"label/{label}/values", asked))

    @staticmethod
    def _vector(found: Document) -> list[Document]:
        if found["resultType"] == "scalar":
            return [{"metric": {}, "value": found["result"]}]
        return list(found["result"])

    def _ask(self, path: str, parameters: Mapping[str, str]) -> Any:
        request = urllib.request.Request(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  an address of our own
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise PromqlError(f"{parameters.get('query', path)}: {json.load(error)['error']}") from None


@dataclass(frozen=True, slots=True)
class Asked:
    """A board over a time range, seconds since 1970, with values for its variables."""

    prometheus: Prometheus
    start: float
    end: float
    step: float
    scrape_seconds: float
    values: dict[str, str] = field(default_factory=dict)

    def expression(self, text: str) -> str:
        """Fill in Grafana's own variables and the board's; raises KeyError for one that the board does not have."""
        rate_seconds = max(self.step + self.scrape_seconds, 4 * self.scrape_seconds)
        own = {
            "__rate_interval": f"{rate_seconds:.0f}s",
            "__interval": f"{max(1.0, self.step):.0f}s",
            "__range": f"{self.end - self.start:.0f}s",
        }
        known = self.values | own
        return re.sub(r"\$\{?([a-zA-Z_]\w*)\}?", lambda found: known[found[1]], text)

    def ask(self, target: Document) -> list[Document]:
        """Answer one target: a series each, with `value` if it is an instant query, else `values`."""
        expression = self.expression(target["expr"])
        if target.get("instant"):
            return self.prometheus.query(expression, at=self.end)
        return self.prometheus.query_range(expression, start=self.start, end=self.end, step=self.step)


def load(name: str) -> Document:
    """Read a board's JSON."""
    board: Document = json.loads((BOARDS / f"{name}.json").read_text(encoding="utf-8"))
    return board


def panels_of(board: Document) -> Iterator[Document]:
    """Panels that ask something: no rows, no prose."""
    for panel in board["panels"]:
        if panel["type"] not in {"row", "text"}:
            yield panel


def open_board(
    board: Document, prometheus: Prometheus, *, start: float, end: float, step: float, scrape_seconds: float,
    chosen: Mapping[str, str] | None = None,
) -> Asked:  # fmt: skip
    """Give every variable its value: all where there is All, else the chosen or the first in order."""
    asked = Asked(prometheus, start, end, step, scrape_seconds)
    for variable in board["templating"]["list"]:
        name = variable["name"]
        if variable["type"] != "query":
            continue
        found = _LABEL_VALUES.fullmatch(variable["query"]["query"])
        if found is None:
            raise PromqlError(f"variable {name}: not a label_values(): {variable['query']['query']}")
        series = found["series"] and asked.expression(found["series"])
        values = prometheus.label_values(found["label"], series, start=start, end=end)
        if chosen and name in chosen:
            asked.values[name] = chosen[name]
        elif variable.get("includeAll"):
            asked.values[name] = variable["allValue"]
        else:
            values.sort(reverse=variable.get("sort") in {2, 4, 6, 8})
            asked.values[name] = values[0] if values else ""
    return asked
