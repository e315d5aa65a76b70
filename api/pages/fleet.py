"""The fleet: as a page of the service, or as one self-contained file."""

from __future__ import annotations

from collections.abc import Sequence

from api.pages.clusters import hours_bar
from api.pages.environment import Site, render
from api.pages.format import fixed, utc
from tokenstone.fleet import Fleet, Spent

COLUMNS = ("present", "allocated", "busy", "idle", "unknown")


def fleet_html(fleet: Fleet, *, site: Site | None = None, cluster: str = "", clusters: Sequence[str] = ()) -> str:
    """Return the page of a fleet view. Pure: the same view gives the same page.

    `cluster`: the one that was asked for; `clusters`: those to choose from. Both are for the form that a site has.
    """
    days = sorted({row.day for row in fleet.rows}, reverse=True)
    return render(
        "fleet.html.j2",
        site=site,
        fleet=fleet,
        cluster=cluster,
        clusters=clusters,
        created=utc(fleet.created_unix_seconds),
        columns=COLUMNS,
        bars=[hours_bar(total.cluster, total) for total in fleet.totals],
        days=[(day, [row for row in fleet.rows if row.day == day]) for day in days],
        reasons=sorted({row.price_reason for row in fleet.rows if row.price_reason}),
        hours=_hours,
        usd=_usd,
        share=_share,
    )


def _hours(spent: Spent, name: str) -> str:
    return fixed(getattr(spent, name), 1)


def _usd(spent: Spent | None, name: str) -> str:
    return "" if spent is None else fixed(getattr(spent, name), 2, "$")


def _share(spent: Spent, name: str) -> str:
    return f"{getattr(spent, name) / spent.present:.0%}" if spent.present else ""
