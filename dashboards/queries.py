"""Parts of PromQL that all boards share, and the template variables that they stand on.

The service's figures are stored ones: every replica of it, over one database, exports the same. They are therefore
taken as a maximum over the replicas, and never added up over them.
"""

from __future__ import annotations

from dataclasses import dataclass

AGENT = 'job=~"$job",cluster=~"$cluster",node=~"$node"'
"""Selects the series that agents serve. Prometheus adds `cluster` and `node` when it discovers them."""
DEVICE = f'{AGENT},device=~"$device"'
SERVICE = 'job=~"$job",cluster=~"$cluster"'
"""Selects the series that the service serves."""
RUN = f'{SERVICE},run_id=~"$run"'


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel. An instant one shows what is so at the end of the time range."""

    expression: str
    legend: str = ""
    instant: bool = False


def over_time(expression: str, legend: str) -> Query:
    """A query over the whole time range."""
    return Query(expression, legend)


def now(expression: str, legend: str = "") -> Query:
    """A query at the end of the time range."""
    return Query(expression, legend, instant=True)


def stored(metric: str, by: str, where: str = SERVICE) -> str:
    """A figure of the service, once per `by`, however many replicas serve it."""
    return f"max by ({by}) ({metric}{{{where}}})"


def rate(metric: str, where: str = DEVICE) -> str:
    """Per-second rate of a counter."""
    return f"rate({metric}{{{where}}}[$__rate_interval])"
