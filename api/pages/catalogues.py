"""What is known before anything runs: hardware, prices, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from api.pages.environment import Site, address, render
from api.pages.format import money, si
from api.pages.roofline import Limit, roofline_chart
from tokenstone.cost import PriceBook, PriceRow
from tokenstone.hardware import Accelerator, Figure, Quantity
from tokenstone.metric import Metric
from tokenstone.wire import ClusterPrice, Page

_UNITS: dict[Quantity, str] = {
    "peak_flops_per_second": "FLOP/s", "memory_bytes": "B", "memory_bytes_per_second": "B/s",
    "scale_up_bytes_per_second": "B/s", "network_bytes_per_second": "B/s", "power_watts": "W",
}  # fmt: skip
_TITLES: dict[Quantity, str] = {
    "peak_flops_per_second": "peak", "memory_bytes": "memory", "memory_bytes_per_second": "memory bandwidth",
    "scale_up_bytes_per_second": "scale-up links, one direction", "network_bytes_per_second": "network, one direction",
    "power_watts": "power",
}  # fmt: skip
COLUMNS: tuple[tuple[str, Quantity], ...] = (
    ("Peak, dense", "peak_flops_per_second"),
    ("Memory", "memory_bytes"),
    ("Bandwidth", "memory_bytes_per_second"),
    ("Links", "scale_up_bytes_per_second"),
    ("Network", "network_bytes_per_second"),
    ("Power", "power_watts"),
)


@dataclass(frozen=True, slots=True)
class FigureLine:
    """A published figure as it is written."""

    title: str
    value: str
    figure: Figure


@dataclass(frozen=True, slots=True)
class PriceLine:
    """A row of a price book, and what a device-hour costs by it."""

    row: PriceRow
    usd: str
    parts: list[tuple[str, str]]


def hardware_html(site: Site, accelerators: Sequence[Accelerator]) -> str:
    """Return the page of all accelerators."""
    rows = [
        (a, [[_line(f) for f in a.figures if f.quantity == quantity] for _, quantity in COLUMNS]) for a in accelerators
    ]
    return render("hardware.html.j2", site=site, rows=rows, columns=[title for title, _ in COLUMNS])


def accelerator_html(site: Site, accelerator: Accelerator) -> str:
    """Return the page of one accelerator: its figures with their sources, and its roofline."""
    memory = accelerator.figure("memory_bytes_per_second")
    limits = [
        Limit(f.dtype or "", f.value, memory.value if memory else None)
        for f in accelerator.figures
        if f.quantity == "peak_flops_per_second"
    ]
    lines = [_line(figure) for figure in accelerator.figures]
    return render("accelerator.html.j2", site=site, accelerator=accelerator, lines=lines, chart=roofline_chart(limits))


def prices_html(site: Site, books: Page[PriceBook], clusters: Sequence[ClusterPrice]) -> str:
    """Return the page of price books and of what clusters are priced by."""
    following = address("/prices", cursor=books.next_cursor) if books.next_cursor else ""
    shown = [(book, [_price_line(row) for row in book.rows]) for book in books.items]
    return render("prices.html.j2", site=site, books=shown, clusters=clusters, following=following)


def registry_html(site: Site, metrics: Sequence[Metric]) -> str:
    """Return the page of all metrics, by resource."""
    resources = dict.fromkeys(metric.resource for metric in metrics)
    groups = [(resource, [m for m in metrics if m.resource == resource]) for resource in resources]
    return render("registry.html.j2", site=site, groups=groups, count_of=len(metrics))


def _line(figure: Figure) -> FigureLine:
    title = _TITLES[figure.quantity]
    if figure.dtype:
        title = f"{title}, {figure.dtype}, {'dense' if figure.dense else 'sparse'}"
    unit = "OP/s" if figure.dtype and figure.dtype.startswith("int") else _UNITS[figure.quantity]
    return FigureLine(title, si(figure.value, unit), figure)


def _price_line(row: PriceRow) -> PriceLine:
    parts = row.owned.components() if row.owned is not None else {}
    total = sum(parts.values()) if row.usd_per_device_hour is None else row.usd_per_device_hour
    return PriceLine(row, money(total), [(name.replace("_", " "), money(usd)) for name, usd in parts.items()])
