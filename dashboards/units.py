"""How Grafana writes a value in a unit, for the pictures. `UNITS` are all that the boards may use."""

from __future__ import annotations

from datetime import UTC, datetime

UNITS = frozenset(
    {"none", "percentunit", "s", "bytes", "Bps", "pps", "watt", "joule", "celsius", "hertz", "currencyUSD",
     "dateTimeAsIso"}
)  # fmt: skip
_COLORS = {
    "green": "#73BF69", "dark-green": "#37872D", "light-green": "#96D98D", "yellow": "#FADE2A", "orange": "#FF9830",
    "dark-orange": "#FA6400", "red": "#F2495C", "dark-red": "#C4162A", "purple": "#B877D9", "dark-purple": "#8F3BB8",
    "light-purple": "#CA95E5", "blue": "#5794F2", "light-blue": "#8AB8FF", "text": "#d8d9da",
}  # fmt: skip
_SUFFIX = {"Bps": "B/s", "pps": " p/s", "watt": " W", "joule": " J", "hertz": " Hz", "none": "", "celsius": " °C"}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def colored(name: str) -> str:
    """The hexadecimal colour of one of Grafana's names."""
    return _COLORS.get(name, name)


def shown(value: float, unit: str, decimals: float | None = None) -> str:  # noqa: PLR0911  a table of units
    """Write a value."""
    if unit == "percentunit":
        return f"{100 * value:.{1 if decimals is None else int(decimals)}f}%"
    if unit == "dateTimeAsIso":
        return f"{datetime.fromtimestamp(value / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    if unit == "currencyUSD":
        return f"${_digits(value, decimals)}"
    if unit == "s":
        return _duration(value)
    if unit == "bytes":
        power = next((p for p in (4, 3, 2, 1) if abs(value) >= 1024**p), 0)
        return f"{_digits(value / 1024**power, decimals)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    if (unit in {"none", "celsius"} and 1e-3 <= abs(value) < 1e6) or value == 0:
        return f"{_digits(value, decimals)}{_SUFFIX[unit]}"
    size, prefix = next(((s, p) for s, p in _PREFIXES if abs(value) >= s), (1.0, ""))
    return f"{_digits(value / size, decimals)} {prefix}{_SUFFIX[unit].strip()}".strip()


def _digits(value: float, decimals: float | None) -> str:
    if decimals is not None:
        return f"{value:,.{int(decimals)}f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    for size, name in ((31_536_000, "year"), (604_800, "week"), (86_400, "day"), (3600, "hour"), (60, "min")):
        if abs(seconds) >= size:
            count = seconds / size
            return f"{count:.3g} {name}{'s' if name != 'min' and count != 1 else ''}"
    if abs(seconds) >= 1 or seconds == 0:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if abs(seconds) >= 1e-3 else f"{1e6 * seconds:.3g} µs"
