"""Prices, price books, and bills that add up."""

import math
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstone.cost import Capital, OwnedCost, builtin_book, load_book, make_bill, rental, serving_cost
from tokenstone.errors import InvalidFile, InvalidValue, UnknownName

amounts = st.floats(0, 1e6, allow_nan=False)
categories = st.dictionaries(st.sampled_from(["ideal", "kernel_inefficiency", "idle", "startup"]), amounts, min_size=1)


@given(categories, st.integers(1, 10**12), st.floats(0, 1e4))
def test_the_lines_of_a_bill_add_up_to_the_cost(seconds, tokens, hourly):
    bill = make_bill(seconds, tokens, "trained", rental(hourly))
    cost = math.fsum(seconds.values()) / 3600 * hourly
    assert bill.usd == pytest.approx(cost)
    assert math.fsum(line.usd for line in bill.lines) == pytest.approx(bill.usd)
    assert math.fsum(line.usd_per_million_tokens for line in bill.lines) == pytest.approx(bill.usd_per_million_tokens)
    assert bill.usd_per_million_tokens == pytest.approx(cost / tokens * 1e6)
    assert bill.usage_usd_per_million_tokens <= bill.usd_per_million_tokens * (1 + 1e-12)


def test_without_a_price_the_bill_is_in_device_seconds():
    bill = make_bill({"ideal": 30.0, "idle": 10.0}, 2_000_000, "trained", None)
    assert bill.usd is None
    assert bill.usd_per_million_tokens is None
    assert bill.device_seconds_per_million_tokens == 20
    assert all(line.usd is None for line in bill.lines)


def test_no_tokens_means_no_bill():
    assert make_bill({"idle": 10.0}, 0, "trained", rental(1)) is None


def test_usage_basis_leaves_idle_time_out():
    bill = make_bill({"ideal": 3600.0, "idle": 3600.0}, 1_000_000, "trained", rental(2))
    assert bill.usd_per_million_tokens == 4
    assert bill.usage_usd_per_million_tokens == 2


@given(st.floats(0, 1e7), st.floats(0, 1), st.integers(1, 10**12), st.integers(1, 10**12))
def test_input_and_output_never_bear_the_cost_twice(cost, share, read, written):
    shares = serving_cost(cost, input_tokens=read, cached_input_tokens=0, output_tokens=written, prefill_share=share)
    both = shares.usd_per_million_input_tokens * read + shares.usd_per_million_output_tokens * written
    assert both / 1e6 == pytest.approx(cost)


def test_more_cached_than_read_is_refused():
    with pytest.raises(InvalidValue, match="cached"):
        serving_cost(1, input_tokens=10, cached_input_tokens=11, output_tokens=1, prefill_share=0.5)


BOOK = """
name = "site"
version = "3"

[[row]]
key = "h100"
basis = "rental"
usd_per_device_hour = 2.5
effective_from = 2025-01-01
source = "contract"

[[row]]
key = "h100"
basis = "rental"
usd_per_device_hour = 2.0
effective_from = 2026-01-01
source = "contract, renewed"

[[row]]
key = "own"
basis = "owned"
effective_from = 2026-01-01
source = "controller"
verified = true
[row.owned]
accelerators = { usd_per_device = 26280, years = 3 }
network = { usd_per_device_hour = 0.2 }
power = { watts_per_device = 1000, pue = 1.25, usd_per_kwh = 0.08 }
staff = { usd_per_device_hour = 0.1 }
goodput_loss_ratio = 0.2
"""


@pytest.fixture
def book_file(tmp_path):
    def write(text: str):
        path = tmp_path / "prices.toml"
        path.write_text(text)
        return path

    return write


def test_the_row_in_force_is_chosen_by_date(book_file):
    book = load_book(book_file(BOOK))
    assert book.resolve("h100", on=date(2025, 6, 1)).usd_per_device_hour == 2.5
    assert book.resolve("h100", on=date(2026, 6, 1)).usd_per_device_hour == 2.0
    assert book.resolve("h100").usd_per_device_hour == 2.0
    with pytest.raises(InvalidValue, match="2025-01-01"):
        book.resolve("h100", on=date(2024, 1, 1))
    with pytest.raises(UnknownName, match="h100"):
        book.resolve("h200")


def test_an_owned_price_is_the_sum_of_its_components(book_file):
    price = load_book(book_file(BOOK)).resolve("own")
    # 26280 / (3 x 8760) = 1.0; 1 kW x 1.25 x 0.08 = 0.1; a fifth of the hours is lost, so all is divided by 0.8.
    assert price.components == {
        "accelerators": pytest.approx(1.0),
        "network": pytest.approx(0.2),
        "power": pytest.approx(0.1),
        "staff": pytest.approx(0.1),
        "goodput_loss": pytest.approx(1.4 / 0.8 - 1.4),
    }
    assert price.usd_per_device_hour == pytest.approx(1.75)
    assert "unverified" not in price.source


def test_cost_of_capital_is_the_annuity_less_the_write_off():
    owned = OwnedCost(accelerators=Capital(usd_per_device=8760, years=1), cost_of_capital_ratio=0.1)
    assert owned.components()["accelerators"] == pytest.approx(1.0)
    assert owned.components()["capital"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("usd_per_device_hour = 2.5", "usd_per_device_hour = -2.5"), "greater than or equal to 0"),
        (("usd_per_device_hour = 2.5", "usd_per_device_hour = nan"), "rows.0"),
        (("usd_per_device_hour = 2.5", ""), "either usd_per_device_hour"),
        (('2026-01-01\nsource = "contract, renewed"', '2025-01-01\nsource = "x"'), "twice"),
        (('name = "site"', 'nome = "site"'), "nome|name"),
        (('basis = "rental"', 'basis = "stolen"'), "basis"),
        (("years = 3", "years = 0"), "years"),
        (("[[row]]", "[[row"), "TOML"),
    ],
)
def test_a_damaged_book_is_refused_with_place_and_reason(book_file, change, message):
    path = book_file(BOOK.replace(*change))
    with pytest.raises(InvalidFile, match=message) as caught:
        load_book(path)
    assert str(path) in str(caught.value)


def test_the_published_book_is_dated_sourced_and_leaves_out_what_nobody_published():
    book = builtin_book()
    assert book.resolve("h200-sxm/rental-3y").usd_per_device_hour == 1.60
    assert book.resolve("gb200/neocloud").usd_per_device_hour == 2.75
    assert all(row.source for row in book.rows)
    assert not any("ascend" in row.key for row in book.rows)
    assert "unverified" in book.resolve("h800-sxm/deepseek").source


@pytest.mark.parametrize("price", [-1, float("nan"), float("inf"), 1e9])
def test_absurd_prices_are_refused(price):
    with pytest.raises(InvalidValue, match="per-device-hour"):
        rental(price)
