"""A report as one self-contained HTML page: no script, no request to anywhere, light, dark and print."""

from __future__ import annotations

from api.pages.bars import ledger_bars, legend
from api.pages.bill import bill_table
from api.pages.environment import Site, render
from api.pages.format import decimals, fixed, money, percent, utc
from api.pages.palette import CATEGORIES
from api.pages.provenance import codes, price_components, samples, sources
from api.pages.runs import run_page
from tokenstone.report import Report


def report_html(report: Report, *, site: Site | None = None) -> str:
    """Return the page of a report; with a `site` it is a page of the service. Pure: the same gives the same page."""
    worst = report.bottleneck
    return render(
        "report.html.j2",
        site=site,
        report=report,
        is_valid=report.validity == ["valid"],
        created=utc(report.created_unix_seconds),
        score="" if report.score is None else fixed(report.score, 1),
        cost=_cost(report),
        worst=CATEGORIES[worst.category] if worst else None,
        worst_share=percent(worst.share_ratio) if worst else "",
        bars=ledger_bars(report),
        legend=legend(report),
        bill=bill_table(report),
        run_ids=[section.run.run_id for section in report.sections],
        spec_ids=list(dict.fromkeys(section.run.spec_id for section in report.sections)),
        runs=[run_page(section) for section in report.sections],
        codes=codes(report),
        sources=sources(report),
        samples=samples(report),
        components=price_components(report),
    )


def _cost(report: Report) -> tuple[str, str]:
    """The cost of all tokens and its unit; both empty where there is none."""
    bill = report.bill
    if bill is None:
        return "", ""
    if bill.usd_per_million_tokens is not None:
        return money(bill.usd_per_million_tokens), "per million tokens"
    amount = bill.device_seconds_per_million_tokens
    return fixed(amount, decimals(amount, digits=3)), "device-seconds per million tokens"
