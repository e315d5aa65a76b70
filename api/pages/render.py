"""A report as one self-contained HTML page: no script, no request to anywhere, light, dark and print."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from api.pages.bars import ledger_bars, legend
from api.pages.bill import bill_table
from api.pages.format import decimals, fixed, money, percent, utc
from api.pages.palette import CATEGORIES, HUES, PAPER_DARK, PAPER_LIGHT
from api.pages.provenance import codes, price_components, samples, sources
from api.pages.runs import run_page
from tokenstone.report import Report

_CODE = re.compile(r"(`[^`]+`|--[a-z][a-z-]+(?: [A-Z]+\b)?)")


def report_html(report: Report) -> str:
    """Return the page of a report. Pure: the same report gives the same page."""
    worst = report.bottleneck
    return _template().render(
        report=report,
        is_valid=report.validity == ["valid"],
        created=utc(report.created_unix_seconds),
        score="" if report.score is None else f"{report.score:.1f}",
        cost=_cost(report),
        worst=CATEGORIES[worst.category] if worst else None,
        worst_share=percent(worst.share_ratio) if worst else "",
        bars=ledger_bars(report),
        legend=legend(report),
        bill=bill_table(report),
        runs=[run_page(section) for section in report.sections],
        codes=codes(report),
        sources=sources(report),
        samples=samples(report),
        components=price_components(report),
        hues=HUES,
        paper_light=PAPER_LIGHT,
        paper_dark=PAPER_DARK,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("api", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "code": _code}
    return environment.get_template("report.html.j2")


def _cost(report: Report) -> tuple[str, str]:
    """The cost of all tokens and its unit; both empty where there is none."""
    bill = report.bill
    if bill is None:
        return "", ""
    if bill.usd_per_million_tokens is not None:
        return money(bill.usd_per_million_tokens), "per million tokens"
    amount = bill.device_seconds_per_million_tokens
    return fixed(amount, decimals(amount, digits=3)), "device-seconds per million tokens"


def _code(text: str) -> Markup:
    """Set commands (between backticks) and options as code; everything is escaped."""
    parts = _CODE.split(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part.strip("`")) if i % 2 else escape(part) for i, part in enumerate(parts)
    )
