"""Clusters: what a token costs on each, how its device-hours were spent, and what it is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from api.pages.bars import Bar, stacked_bar
from api.pages.environment import Site, address, cluster_address, render
from api.pages.format import ago, count, decimals, fixed, money, percent
from api.pages.palette import FLEET
from api.store.evaluations import SpecFigures
from api.views import ClusterView
from tokenstone.fleet import FleetTotal
from tokenstone.wire import ClusterPrice, NodeView, Page


@dataclass(frozen=True, slots=True)
class WorkloadLine:
    """The latest figures of one workload on one cluster; a figure is empty where it is absent."""

    run_id: str
    spec_id: str
    kind: str
    preset: str
    score: str
    usd: str
    device_seconds: str


@dataclass(frozen=True, slots=True)
class ClusterLine:
    """A cluster in the list."""

    cluster: ClusterView
    price: str
    heard: str
    latest: list[WorkloadLine]


@dataclass(frozen=True, slots=True)
class NodeLine:
    """A node of a cluster."""

    node: NodeView
    heard: str
    devices: str
    absences: list[str]


def clusters_html(site: Site, found: Page[ClusterView], figures: Sequence[SpecFigures], *, now: float) -> str:
    """Return the page of all clusters."""
    lines = [
        ClusterLine(
            cluster,
            price_text(cluster.price),
            ago(cluster.seen_unix_seconds, now),
            [workload_line(f) for f in figures if f.run.cluster == cluster.name],
        )
        for cluster in found.items
    ]
    following = address("/clusters", cursor=found.next_cursor) if found.next_cursor else ""
    return render("clusters.html.j2", site=site, lines=lines, following=following)


def cluster_html(
    site: Site | None,
    cluster: ClusterView,
    figures: Sequence[SpecFigures],
    nodes: Page[NodeView],
    week: FleetTotal | None,
    *,
    now: float,
) -> str:
    """Return the page of one cluster, or without a `site` a file that says the same.

    `week`: its device-hours of the last seven days, None where none were seen.
    """
    path = cluster_address(cluster.name)
    latest = [workload_line(f) for f in figures]
    return render(
        "cluster.html.j2",
        site=site,
        cluster=cluster,
        answer=_answer(cluster, latest, week),
        price=price_text(cluster.price),
        heard=ago(cluster.seen_unix_seconds, now),
        latest=latest,
        week=week,
        week_bar=hours_bar("Last seven days", week) if week else None,
        nodes=[_node_line(node, now) for node in nodes.items],
        following=address(path, cursor=nodes.next_cursor) + "#nodes" if nodes.next_cursor else "",
        missing=_missing(cluster, figures),
    )


def workload_line(figures: SpecFigures) -> WorkloadLine:
    """Return what is said of the latest run of a workload."""
    run, seconds = figures.run, figures.device_seconds_per_million_tokens
    return WorkloadLine(
        run.run_id,
        run.spec_id,
        run.spec.kind,
        run.spec.preset,
        "" if figures.score is None else f"{figures.score:.1f}",
        "" if figures.usd_per_million_tokens is None else money(figures.usd_per_million_tokens),
        "" if seconds is None else fixed(seconds, decimals(seconds, digits=3)),
    )


def hours_bar(title: str, total: FleetTotal) -> Bar:
    """Return how device-hours divide into busy, idle and unknown."""
    amount = f"{fixed(total.hours.present, 1)} device-hours"
    return stacked_bar(title, amount, [(c, getattr(total.hours, c.name)) for c in FLEET], kind="Device-hours")


def price_text(price: ClusterPrice | None) -> str:
    """Write what a cluster is priced by; empty without a price."""
    if price is None:
        return ""
    if price.usd_per_device_hour is not None:
        return f"{money(price.usd_per_device_hour)} per device-hour"
    return f"price book {price.price_book}" + (f", row {price.price_row}" if price.price_row else ", by hardware")


def _answer(cluster: ClusterView, latest: Sequence[WorkloadLine], week: FleetTotal | None) -> str:
    """What a token costs on the cluster and what idles there, in one sentence."""
    told = next((line for line in latest if line.usd), None) or next(
        (line for line in latest if line.device_seconds), None
    )
    if told is None:
        sentence = f"What a token costs on {cluster.name} is not known"
    else:
        cost = told.usd or f"{told.device_seconds} device-seconds"
        sentence = f"A million tokens of {told.preset} ({told.kind}) cost {cost} on {cluster.name}"
        if told.score:
            sentence += f", of which {told.score} % bought work at the hardware's limit"
    if week is None or not week.hours.present:
        return f"{sentence}."
    idle = percent(week.hours.idle / week.hours.present).replace("%", " %")
    return f"{sentence}; {idle} of its device-hours of the last seven days were idle."


def _node_line(node: NodeView, now: float) -> NodeLine:
    kinds = Counter(f"{d.vendor} {d.model}".strip() if d.vendor not in d.model else d.model
                    for d in node.devices if d.kind == "accelerator")  # fmt: skip
    devices = ", ".join(f"{count(number)} × {kind}" for kind, number in kinds.items())
    absences = [f"{a.metric} of {a.device}: {a.reason}" for a in node.absences]
    return NodeLine(node, ago(node.seen_unix_seconds, now), devices, absences)


def _missing(cluster: ClusterView, figures: Sequence[SpecFigures]) -> list[str]:
    """What is not known about the cluster, and what would tell it."""
    missing = []
    if not cluster.nodes:
        missing.append("No agent has reported from it, so nothing is known of its nodes: `tokenstone agent --api URL`.")
    if cluster.price is None:
        missing.append("It has no price, so idle time is told in hours alone: `PUT /v1/cluster-prices` sets one.")
    if not cluster.runs:
        missing.append("No run was made on it, so nothing can be said of what its tokens cost.")
    elif not figures:
        missing.append("No run on it has ended with figures yet.")
    elif all(f.usd_per_million_tokens is None for f in figures):
        missing.append(
            "No run on it was scored with a price, so its tokens are told in device-seconds: "
            "`POST /v1/runs/RUN/scores` scores a run with one."
        )
    return missing
