"""The fleet: how the device-hours of every accelerator were spent, day by day, and what that cost.

For one accelerator and one day (UTC), with all times in seconds:

    present   = overlap of the day with [first window, last window + 7 days], up to now
    observed  = sum of the durations of its `accel_busy_ratio` windows that begin on the day, at most `present`
    busy      = sum over those windows of mean x duration
    idle      = observed - busy
    unknown   = present - observed
    allocated = time of `present` in which a run held the device; runs at the same time count once

so that present = busy + idle + unknown, always. Unknown is not idle: the agent was silent, or the driver does not tell.
A device that has said nothing for seven days is taken to have left; until then its silence is unknown time that is
paid for. Allocated time is by the runs that the service knows; jobs of other schedulers are not among them.

Worked example: a device, first seen long ago, whose windows cover 18 of 24 hours at a mean of 0.5, at 2 $/h.

>>> day = DeviceDay("c", "a model", 0, present=24 * 3600, observed=18 * 3600, busy=9 * 3600, allocated=12 * 3600)
>>> [row] = fleet_rows([day], lambda *_: (Price(usd_per_device_hour=2, basis="rental", source="ours"), ""))
>>> row.hours.idle, row.hours.unknown, row.usd.idle, row.usd.unknown
(9.0, 6.0, 18.0, 12.0)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from tokenstone import hardware
from tokenstone.cost import SECONDS_PER_HOUR, Price, PriceBook
from tokenstone.errors import InvalidValue

SECONDS_PER_DAY = 86_400
GONE_AFTER_SECONDS = 7 * SECONDS_PER_DAY
"""A device that has said nothing for so long is taken to have left."""
SCHEMA_VERSION = 1

Interval = tuple[float, float]
PriceOf = Callable[[str, str | None, date], tuple[Price | None, str]]
"""The price of a cluster's hardware (a catalogue name, or None) on a day; or None and why there is none."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class Spent(_Row):
    """Device-hours, or what they cost in dollars. `busy`, `idle` and `unknown` add up to `present`."""

    present: float
    allocated: float
    busy: float
    idle: float
    unknown: float


class FleetRow(_Row):
    """One day of one cluster's devices of one model."""

    cluster: str
    day: date
    model: str
    hardware: str | None
    devices: int
    hours: Spent
    usd: Spent | None
    """None without a price, for `price_reason`."""
    price: Price | None
    price_reason: str


class FleetTotal(_Row):
    """All days and models of one cluster together."""

    cluster: str
    hours: Spent
    usd: Spent | None
    """Of the device-hours that have a price; None where none has."""
    unpriced_hours: float
    """Device-hours that `usd` leaves out."""


class Fleet(_Row):
    """The fleet from `start` to `end`, both included."""

    schema_version: int = SCHEMA_VERSION
    start: date
    end: date
    created_unix_seconds: float
    totals: list[FleetTotal]
    """The most idle money first."""
    rows: list[FleetRow]


@dataclass(frozen=True, slots=True)
class DeviceDay:
    """One accelerator on one day, in seconds. `day` counts from 1970-01-01."""

    cluster: str
    model: str
    day: int
    present: float
    observed: float
    busy: float
    allocated: float


def present_seconds(day: int, first: float, last: float, now: float) -> Interval:
    """When a device was there on a day: begin and end, the same where it was not."""
    begin = max(day * SECONDS_PER_DAY, first)
    end = min((day + 1) * SECONDS_PER_DAY, last + GONE_AFTER_SECONDS, now)
    return begin, max(begin, end)


def covered_seconds(intervals: Iterable[Interval], within: Interval) -> float:
    """Length of what the intervals cover of `within`; where they overlap, it counts once.

    >>> covered_seconds([(0, 10), (5, 20), (30, 99)], (8, 40))
    22.0
    """
    total, reached = 0.0, within[0]
    for interval in sorted(intervals):
        begin, end = max(interval[0], reached), min(interval[1], within[1])
        if end > begin:
            total, reached = total + end - begin, end
    return total


def fleet_rows(days: Iterable[DeviceDay], price_of: PriceOf) -> list[FleetRow]:
    """Add up device-days by cluster, day and model, and price them."""
    groups: dict[tuple[str, int, str], list[DeviceDay]] = defaultdict(list)
    for device in days:
        if device.present > 0:
            groups[(device.cluster, device.day, device.model)].append(device)
    return [_row(*key, groups[key], price_of) for key in sorted(groups)]


def fleet_totals(rows: Sequence[FleetRow]) -> list[FleetTotal]:
    """Add up rows by cluster, the most idle money first, then the most idle hours."""
    totals = []
    for cluster in {row.cluster for row in rows}:
        mine = [row for row in rows if row.cluster == cluster]
        totals.append(
            FleetTotal(
                cluster=cluster,
                hours=_sum([row.hours for row in mine]),
                usd=_sum(priced) if (priced := [row.usd for row in mine if row.usd is not None]) else None,
                unpriced_hours=math.fsum(row.hours.present for row in mine if row.usd is None),
            )
        )
    return sorted(totals, key=lambda total: (-(total.usd.idle if total.usd else 0), -total.hours.idle, total.cluster))


def price_of_hardware(book: PriceBook, name: str | None, on: date) -> tuple[Price | None, str]:
    """The one row of a book that prices that hardware on that day; or None and why."""
    if name is None:
        return None, "the device is not in the hardware catalogue: price it by a row or a figure"
    keys = sorted({row.key for row in book.rows if row.hardware == name})
    if len(keys) != 1:
        found = f"several ({', '.join(keys)}): name one" if keys else "none"
        return None, f"rows of price book {book.name} {book.version} for {name}: {found}"
    return price_of_row(book, keys[0], on)


def price_of_row(book: PriceBook, key: str, on: date) -> tuple[Price | None, str]:
    """The price of a row on a day; or None and why."""
    try:
        return book.resolve(key, on=on), ""
    except InvalidValue as error:
        return None, error.what


def _row(cluster: str, day: int, model: str, devices: list[DeviceDay], price_of: PriceOf) -> FleetRow:
    seconds = {
        "present": math.fsum(d.present for d in devices),
        "allocated": math.fsum(d.allocated for d in devices),
        "busy": math.fsum(min(d.busy, d.observed, d.present) for d in devices),
        "idle": math.fsum(min(d.observed, d.present) - min(d.busy, d.observed, d.present) for d in devices),
        "unknown": math.fsum(d.present - min(d.observed, d.present) for d in devices),
    }
    hours = {name: value / SECONDS_PER_HOUR for name, value in seconds.items()}
    known, date_ = hardware.identify(model), day_of(day)
    price, reason = price_of(cluster, known, date_)
    return FleetRow(
        cluster=cluster,
        day=date_,
        model=model,
        hardware=known,
        devices=len(devices),
        hours=Spent(**hours),
        usd=None if price is None else Spent(**{n: h * price.usd_per_device_hour for n, h in hours.items()}),
        price=price,
        price_reason=reason,
    )


def _sum(parts: Sequence[Spent]) -> Spent:
    return Spent(**{name: math.fsum(getattr(part, name) for part in parts) for name in Spent.model_fields})


def day_of(number: int) -> date:
    """The date of a day counted from 1970-01-01."""
    return date(1970, 1, 1) + timedelta(days=number)


def day_number(day: date) -> int:
    """A date as a count of days from 1970-01-01."""
    return (day - date(1970, 1, 1)).days


def today(now: float) -> date:
    """The day of a moment, in UTC."""
    return datetime.fromtimestamp(now, UTC).date()
