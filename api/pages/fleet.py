"""The fleet as one self-contained page."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from api.pages.format import utc
from tokenstone.fleet import Fleet, Spent

COLUMNS = ("present", "allocated", "busy", "idle", "unknown")


def fleet_html(fleet: Fleet) -> str:
    """Return the page of a fleet view. Pure: the same view gives the same page."""
    days = sorted({row.day for row in fleet.rows}, reverse=True)
    return _template().render(
        fleet=fleet,
        created=utc(fleet.created_unix_seconds),
        columns=COLUMNS,
        days=[(day, [row for row in fleet.rows if row.day == day]) for day in days],
        reasons=sorted({row.price_reason for row in fleet.rows if row.price_reason}),
    )


def _hours(spent: Spent, name: str) -> str:
    return f"{getattr(spent, name):,.1f}"


def _usd(spent: Spent | None, name: str) -> str:
    return "" if spent is None else f"${getattr(spent, name):,.2f}"


def _share(spent: Spent, name: str) -> str:
    return f"{getattr(spent, name) / spent.present:.0%}" if spent.present else ""


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("api.pages", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    filters: dict[str, Any] = {"hours": _hours, "usd": _usd, "share": _share}
    environment.filters.update(filters)
    return environment.get_template("fleet.html.j2")
