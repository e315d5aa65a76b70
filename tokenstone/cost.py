"""Prices and the bill.

A price is dollars per device-hour: rented (one figure) or owned (the sum of its components). Price books hold
dated rows; a user's own file or a flag takes their place. The bill is price x ledger, and its lines add up to the
cost exactly, because both are made of the same device-seconds.
"""

from __future__ import annotations

import math
import tomllib
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tokenstone.day import Day
from tokenstone.errors import InvalidFile, InvalidValue, UnknownName
from tokenstone.ledger import Ledger

HOURS_PER_YEAR = 8760.0
SECONDS_PER_HOUR = 3600.0
MILLION = 1e6

Money = Annotated[float, Field(ge=0, le=1e12)]
Component = Literal[
    "accelerators", "network", "storage", "control_plane", "support", "facility", "power", "capital", "staff",
    "goodput_loss",
]  # fmt: skip
"""Parts of the owned cost of a device-hour. `control_plane` includes the hosts' processors and memory."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Capital(_Row):
    """Something bought, per device, written off in a straight line."""

    usd_per_device: Money
    years: Annotated[float, Field(gt=0, le=50)]

    @property
    def usd_per_device_hour(self) -> float:
        """Write-off of one hour."""
        return self.usd_per_device / (self.years * HOURS_PER_YEAR)

    def interest_per_device_hour(self, yearly_rate: float) -> float:
        """Cost of the money: the annuity at `yearly_rate` less the straight-line write-off."""
        if yearly_rate == 0:
            return 0.0
        annuity: float = self.usd_per_device * yearly_rate / (1 - (1 + yearly_rate) ** -self.years)
        return annuity / HOURS_PER_YEAR - self.usd_per_device_hour


class Power(_Row):
    """Electricity of one device with its share of the node and of the facility's overhead."""

    watts_per_device: Annotated[float, Field(ge=0, le=1e6)]
    pue: Annotated[float, Field(ge=1, le=5)]
    usd_per_kwh: Annotated[float, Field(ge=0, le=100)]

    @property
    def usd_per_device_hour(self) -> float:
        """Cost of one hour at that draw."""
        return self.watts_per_device / 1000 * self.pue * self.usd_per_kwh


class Hourly(_Row):
    """A part of the cost that is known per device-hour."""

    usd_per_device_hour: Money


class OwnedCost(_Row):
    """The owned view (total cost of ownership), each part bought, per hour or as power."""

    accelerators: Capital | Hourly
    network: Capital | Hourly | None = None
    storage: Capital | Hourly | None = None
    control_plane: Capital | Hourly | None = None
    support: Capital | Hourly | None = None
    facility: Capital | Hourly | None = None
    power: Power | Hourly | None = None
    staff: Hourly | None = None
    cost_of_capital_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Yearly rate on everything bought."""
    goodput_loss_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the hours that are paid and cannot be used: broken nodes, maintenance."""

    def components(self) -> dict[Component, float]:
        """Dollars per usable device-hour by component; they add up to the price."""
        parts: dict[Component, float] = {}
        interest = 0.0
        names: tuple[Component, ...] = (
            "accelerators", "network", "storage", "control_plane", "support", "facility", "power", "staff",
        )  # fmt: skip
        for name in names:
            part = getattr(self, name)
            if part is not None:
                parts[name] = part.usd_per_device_hour
            if isinstance(part, Capital):
                interest += part.interest_per_device_hour(self.cost_of_capital_ratio)
        if interest:
            parts["capital"] = interest
        if self.goodput_loss_ratio:
            paid = math.fsum(parts.values())
            parts["goodput_loss"] = paid / (1 - self.goodput_loss_ratio) - paid
        return parts


class Price(_Row):
    """Dollars per device-hour, by component where they are known, and where the figure is from."""

    usd_per_device_hour: Money
    components: dict[str, float] | None = None
    basis: Literal["rental", "owned"]
    source: str

    @property
    def usd_per_device_second(self) -> float:
        """The same per device-second."""
        return self.usd_per_device_hour / SECONDS_PER_HOUR


def rental(usd_per_device_hour: float) -> Price:
    """A price given by hand; raises InvalidValue for one below 0 or not finite."""
    if not (math.isfinite(usd_per_device_hour) and 0 <= usd_per_device_hour <= 1e6):
        raise InvalidValue(
            f"a price of {usd_per_device_hour} dollars per device-hour",
            where="--price-per-device-hour",
            hint="give a number from 0 to 1,000,000",
        )
    return Price(usd_per_device_hour=usd_per_device_hour, basis="rental", source="given by the user")


class PriceRow(_Row):
    """One dated price. A later row of the same key takes over from its date on."""

    key: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
    hardware: str | None = None
    basis: Literal["rental", "owned"]
    usd_per_device_hour: Money | None = None
    owned: OwnedCost | None = None
    effective_from: Day
    source: Annotated[str, Field(min_length=1, max_length=500)]
    verified: bool = False
    note: Annotated[str, Field(max_length=500)] = ""

    @model_validator(mode="after")
    def _has_one_price(self) -> Self:
        if (self.usd_per_device_hour is None) == (self.owned is None):
            raise ValueError(f"row {self.key!r} needs either usd_per_device_hour or an owned table, and not both")
        return self


class PriceBook(_Row):
    """Dated prices under a name and a version."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
    currency: Literal["USD"] = "USD"
    rows: list[PriceRow] = Field(min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _rows_are_unique(self) -> Self:
        seen: set[tuple[str, date]] = set()
        for row in self.rows:
            if (row.key, row.effective_from) in seen:
                raise ValueError(f"row {row.key!r} of {row.effective_from} stands there twice")
            seen.add((row.key, row.effective_from))
        return self

    def resolve(self, key: str, *, on: date | None = None) -> Price:
        """Return the price in force `on` a day (default: the latest); raises UnknownName or InvalidValue."""
        rows = [row for row in self.rows if row.key == key]
        if not rows:
            raise UnknownName("price row", key, {row.key for row in self.rows}, where=f"price book {self.name}")
        in_force = [row for row in rows if on is None or row.effective_from <= on]
        if not in_force:
            first = min(row.effective_from for row in rows)
            raise InvalidValue(f"price row {key!r} begins on {first}", where=self.name, hint=f"{on} is before that")
        row = max(in_force, key=lambda row: row.effective_from)
        components = row.owned.components() if row.owned is not None else None
        total = math.fsum(components.values()) if components is not None else row.usd_per_device_hour
        assert total is not None  # noqa: S101  a row has one of the two (validated above)
        source = f"{self.name} {self.version}, {row.key} from {row.effective_from}: {row.source}"
        return Price(
            usd_per_device_hour=total,
            components={**components} if components is not None else None,
            basis=row.basis,
            source=source if row.verified else f"{source} (unverified)",
        )


def builtin_book() -> PriceBook:
    """The shipped price book: published points with their dates. Never used unless a row is named."""
    text = resources.files("tokenstone").joinpath("prices.toml").read_text(encoding="utf-8")
    return _book(tomllib.loads(text))


def load_book(path: Path) -> PriceBook:
    """Read a price book (TOML); raises InvalidFile naming what is wrong in it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidFile("no such file", where=str(path), hint="give a price book in TOML") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"cannot be read: {error}", where=str(path)) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidFile(f"is not TOML: {error}", where=str(path)) from error
    try:
        return _book(data)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise InvalidFile(
            f"is not a price book: {place + ': ' if place else ''}{problem['msg']}",
            where=str(path),
            hint="docs/methodology.md shows one",
        ) from error


def _book(data: dict[str, Any]) -> PriceBook:
    return PriceBook.model_validate({**{k: v for k, v in data.items() if k != "row"}, "rows": data.get("row", [])})


# --- the bill --------------------------------------------------------------------------------------------------

IDLE_CATEGORIES = frozenset({"idle", "queue_idle"})
"""Allocated and not used: the usage basis leaves them out."""


TokenKind = Literal[
    "trained", "input and output", "input", "uncached input", "output", "output within the objective", "all"
]  # fmt: skip


class BillLine(_Row):
    """One ledger category in device-seconds and, where there is a price, in dollars."""

    category: str
    device_seconds: float
    device_seconds_per_million_tokens: float
    usd: float | None
    usd_per_million_tokens: float | None
    share_ratio: float


class Bill(_Row):
    """What tokens cost, itemised. The lines add up to the totals (allocation basis: idle included)."""

    tokens: int
    token_kind: TokenKind
    device_seconds: float
    device_seconds_per_million_tokens: float
    usd: float | None
    usd_per_million_tokens: float | None
    usage_usd_per_million_tokens: float | None
    """Without idle time: what the tokens would cost if idle devices were somebody else's."""
    lines: list[BillLine]
    price: Price | None


def make_bill(seconds: dict[str, float], tokens: int, kind: TokenKind, price: Price | None) -> Bill | None:
    """Itemise device-seconds by category over `tokens`; None where there is no token to bear the cost."""
    if tokens <= 0:
        return None
    rate = None if price is None else price.usd_per_device_second
    total = math.fsum(seconds.values())
    lines = [
        BillLine(
            category=name,
            device_seconds=value,
            device_seconds_per_million_tokens=value / tokens * MILLION,
            usd=_times(rate, value),
            usd_per_million_tokens=_times(rate, value / tokens * MILLION),
            share_ratio=value / total if total else 0.0,
        )
        for name, value in seconds.items()
    ]
    used = math.fsum(value for name, value in seconds.items() if name not in IDLE_CATEGORIES)
    return Bill(
        tokens=tokens,
        token_kind=kind,
        device_seconds=total,
        device_seconds_per_million_tokens=total / tokens * MILLION,
        usd=_times(rate, total),
        usd_per_million_tokens=_times(rate, total / tokens * MILLION),
        usage_usd_per_million_tokens=_times(rate, used / tokens * MILLION),
        lines=lines,
        price=price,
    )


def _times(rate: float | None, amount: float) -> float | None:
    return None if rate is None else rate * amount


def output_seconds(ledger: Ledger) -> dict[str, float]:
    """Device-seconds that decode caused: the ledger less what prefill caused."""
    prefill = ledger.input_seconds or {}
    return {name: seconds - prefill.get(name, 0.0) for name, seconds in ledger.seconds.items()}


# --- the calculator ----------------------------------------------------------------------------------------------


class ServingCost(_Row):
    """Cost of serving, input and output apart. None where the split or the tokens are not given."""

    cost_usd: float
    usd_per_million_tokens: float | None
    usd_per_million_input_tokens: float | None
    usd_per_million_uncached_input_tokens: float | None
    usd_per_million_output_tokens: float | None
    prefill_share: float | None
    split: str


def serving_cost(
    cost_usd: float, *, input_tokens: int, cached_input_tokens: int, output_tokens: int, prefill_share: float | None
) -> ServingCost:
    """Divide a serving cost between input and output by the share of time spent on prefill, never twice in full."""
    if cached_input_tokens > input_tokens:
        raise InvalidValue(
            f"{cached_input_tokens} cached of {input_tokens} input tokens",
            where="--cached-input-tokens",
            hint="input tokens include the cached ones",
        )

    def per_million(share: float | None, tokens: int) -> float | None:
        return None if share is None or tokens == 0 else cost_usd * share / tokens * MILLION

    decode_share = None if prefill_share is None else 1 - prefill_share
    return ServingCost(
        cost_usd=cost_usd,
        usd_per_million_tokens=per_million(1.0, input_tokens + output_tokens),
        usd_per_million_input_tokens=per_million(prefill_share, input_tokens),
        usd_per_million_uncached_input_tokens=per_million(prefill_share, input_tokens - cached_input_tokens),
        usd_per_million_output_tokens=per_million(decode_share, output_tokens),
        prefill_share=prefill_share,
        split=(
            "not split: give --prefill-share, the share of device time spent on prefill"
            if prefill_share is None
            else f"{prefill_share:.1%} of the cost to input (prefill), {1 - prefill_share:.1%} to output (decode)"
        ),
    )
