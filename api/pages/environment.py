"""What all pages share: one Jinja environment that escapes everything, and the frame that a page of the service has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from api.pages.format import count, money, percent, si, utc
from api.pages.palette import FLEET, HUES, PAPER_DARK, PAPER_LIGHT

_CODE = re.compile(r"(`[^`]+`|--[a-z][a-z-]+(?: [A-Z]+\b)?)")


@dataclass(frozen=True, slots=True)
class Site:
    """The frame of a page of the service. A report that is a file has none."""

    current: str
    """Path of the entry of the navigation that the page belongs to."""
    signed_in_as: str = ""
    """Prefix of the key of the browser's session; empty where nobody had to sign in."""


NAVIGATION = (
    ("/clusters", "Clusters"),
    ("/runs", "Runs"),
    ("/compare", "Compare"),
    ("/fleet", "Fleet"),
    ("/hardware", "Hardware"),
    ("/prices", "Prices"),
    ("/registry", "Metrics"),
)


def render(template: str, *, site: Site | None = None, **values: Any) -> str:
    """Return a page. Pure: the same values give the same page."""
    return _environment().get_template(template).render(site=site, **values)


def address(path: str, **query: Any) -> str:
    """Return a path with a query, without the parameters that are None or empty.

    >>> address("/runs", state="complete", cluster=None, run=["a b", "c"])
    '/runs?state=complete&run=a+b&run=c'
    """
    kept = {name: value for name, value in query.items() if value is not None and value != ""}
    return f"{path}?{urlencode(kept, doseq=True)}" if kept else path


def run_address(run_id: str) -> str:
    """Return where the page of a run is."""
    return f"/runs/{quote(run_id, safe='')}"


def cluster_address(name: str) -> str:
    """Return where the page of a cluster is. Slashes in its name stay."""
    return f"/clusters/{quote(name, safe='/')}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("api", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "code": _code, "count": count, "money": money, "percent": percent, "si": si, "utc": utc,
        "run_address": run_address, "cluster_address": cluster_address,
    }  # fmt: skip
    environment.filters |= filters
    environment.globals |= {
        "address": address, "navigation": NAVIGATION, "hues": HUES, "fleet_categories": FLEET,
        "paper_light": PAPER_LIGHT, "paper_dark": PAPER_DARK,
    }  # fmt: skip
    return environment


def _code(text: str) -> Markup:
    """Set commands (between backticks) and options as code; everything is escaped."""
    parts = _CODE.split(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part.strip("`")) if i % 2 else escape(part) for i, part in enumerate(parts)
    )
