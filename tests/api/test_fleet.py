"""The fleet view: hours that add up, and money by the price in force on each day."""

import pytest

from api import examples

DAY = 86_400
FIRST = 19_675  # 2023-11-14, the day of the tests' clock
MIDNIGHT = FIRST * DAY


@pytest.fixture
def busy(api, batch, clock):
    """Send windows of a device: (start, seconds, mean of busy) each."""
    sequences = iter(range(1000))

    def send(windows, *, device="GPU-0", model="NVIDIA H100 80GB HBM3", **where) -> None:
        start, seconds, mean = (list(column) for column in zip(*windows, strict=True))
        count = len(windows)
        answer = api.post("/v1/windows", json=batch(
            devices=[{"id": device, "kind": "accelerator", "vendor": "v", "model": model}],
            series=[{"metric": "accel_busy_ratio", "device": device}], series_index=[0] * count,
            start_unix_seconds=start, duration_seconds=seconds, count=[1] * count, mean=mean, minimum=mean,
            maximum=mean, delta=[None] * count, sequence=next(sequences), **where,
        ))  # fmt: skip
        assert answer.status_code == 200, answer.text

    return send


def fleet(api, **params) -> dict:
    answer = api.get("/v1/fleet", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def hour(number: float) -> float:
    return MIDNIGHT + number * 3600


def test_a_silent_agent_is_unknown_and_never_idle(api, busy, clock):
    clock.now = hour(24)
    busy([(hour(0), 3600, 1.0), (hour(1), 3600, 0.25), (hour(20), 3600, 0.0)])
    [row] = fleet(api, start="2023-11-14", end="2023-11-14")["rows"]
    assert row["hours"] == {"present": 24, "allocated": 0, "busy": 1.25, "idle": 1.75, "unknown": 21}
    assert (row["devices"], row["hardware"], row["usd"]) == (1, "h100-sxm", None)
    assert "no price is set" in row["price_reason"]


def test_a_day_that_is_not_over_counts_up_to_now(api, busy, clock):
    clock.now = hour(6)
    busy([(hour(0), 3600, 1.0)])
    [row] = fleet(api, start="2023-11-14", end="2023-11-14")["rows"]
    assert (row["hours"]["present"], row["hours"]["unknown"]) == (6, 5)


def test_a_device_counts_from_its_first_window_until_a_week_of_silence(api, busy, clock):
    clock.now = hour(24 * 30)
    busy([(hour(12), 3600, 1.0)])
    rows = fleet(api, start="2023-11-10", end="2023-12-10")["rows"]
    assert [row["day"] for row in rows] == [f"2023-11-{day}" for day in range(14, 22)]
    assert [row["hours"]["present"] for row in rows] == [12, *[24] * 6, 12]
    assert sum(row["hours"]["unknown"] for row in rows) == 7 * 24 - 1


def test_allocated_hours_are_those_in_which_a_run_held_the_device_once(api, busy, clock, start_run):
    busy([(hour(0), 3600, 0.5)])
    device = [{"id": "GPU-0", "node": "node-1"}]
    clock.now = hour(2)
    start_run(api, "one", devices=device, lease_seconds=80_000)
    clock.now = hour(3)
    start_run(api, "two", devices=device, lease_seconds=80_000)
    clock.now = hour(5)
    api.post("/v1/runs/one/state", json={"state": "failed"})
    clock.now = hour(8)
    start_run(api, "elsewhere", devices=[{"id": "GPU-0", "node": "node-2"}])
    [row] = fleet(api, start="2023-11-14", end="2023-11-14")["rows"]
    assert row["hours"]["allocated"] == 6


def test_money_is_by_the_price_in_force_on_the_day(api, busy, clock):
    clock.now = hour(47)
    busy([(hour(0), 3600, 0.0), (hour(24), 3600, 0.0)])
    for day, usd in (("2023-01-01", 2.0), ("2023-11-15", 3.0), ("2024-01-01", 99.0)):
        price = {"cluster": "default", "effective_from": day, "usd_per_device_hour": usd}
        assert api.put("/v1/cluster-prices", json=price).status_code == 200
    view = fleet(api, start="2023-11-14", end="2023-11-15")
    assert [row["usd"]["idle"] for row in view["rows"]] == [2.0, 3.0]
    assert view["totals"][0]["usd"]["idle"] == 5.0
    assert view["totals"][0]["usd"]["present"] == 24 * 2 + 23 * 3
    for row in view["rows"]:
        usd = row["usd"]
        assert usd["busy"] + usd["idle"] + usd["unknown"] == pytest.approx(usd["present"])
    assert api.get("/v1/clusters/default").json()["price"]["usd_per_device_hour"] == 3.0
    assert [price["usd_per_device_hour"] for price in api.get("/v1/cluster-prices").json()] == [99.0, 3.0, 2.0]


def test_a_price_book_prices_each_device_by_its_hardware(api, busy, clock):
    clock.now = hour(2)
    rows = [
        {"key": f"{name}/ours", "hardware": name, "basis": "rental", "usd_per_device_hour": usd, "source": "contract",
         "effective_from": "2023-01-01"}
        for name, usd in (("h100-sxm", 2.0), ("a100-sxm-80gb", 1.0))
    ]  # fmt: skip
    api.post("/v1/price-books", json=examples.PRICE_BOOK | {"rows": rows})
    busy([(hour(0), 3600, 0.0)])
    busy([(hour(0), 3600, 0.0)], device="GPU-1", model="a device of nobody")
    view = fleet(api, price_book="ours", start="2023-11-14", end="2023-11-14")
    by_model = {row["model"]: row for row in view["rows"]}
    assert by_model["NVIDIA H100 80GB HBM3"]["usd"]["idle"] == 2.0
    assert by_model["a device of nobody"]["usd"] is None
    assert "not in the hardware catalogue" in by_model["a device of nobody"]["price_reason"]
    [total] = view["totals"]
    assert (total["usd"]["idle"], total["unpriced_hours"]) == (2.0, 2.0)
    by_row = fleet(api, price_book="ours", price_row="h100-sxm/ours", start="2023-11-14", end="2023-11-14")
    assert by_row["totals"][0]["usd"]["idle"] == 4.0
    assert fleet(api, usd_per_device_hour=5, start="2023-11-14", end="2023-11-14")["totals"][0]["usd"]["idle"] == 10.0


def test_two_rows_for_one_hardware_are_not_chosen_between(api, busy, clock):
    clock.now = hour(2)
    busy([(hour(0), 3600, 0.0)])
    [row] = fleet(api, price_book="published", start="2023-11-14", end="2023-11-14")["rows"]
    assert row["usd"] is None
    assert "several" in row["price_reason"]


def test_the_cluster_that_burns_most_comes_first(api, busy, clock):
    clock.now = hour(2)
    busy([(hour(0), 3600, 0.9)], cluster="a")
    busy([(hour(0), 3600, 0.1)], cluster="b")
    view = fleet(api, usd_per_device_hour=1, start="2023-11-14", end="2023-11-14")
    assert [total["cluster"] for total in view["totals"]] == ["b", "a"]


def test_the_fleet_is_a_page_too(api, busy, clock):
    clock.now = hour(2)
    page = api.get("/v1/fleet/html")
    assert "No accelerator was seen" in page.text
    busy([(hour(0), 3600, 0.25)], model="<script>alert(1)</script>")
    page = api.get("/v1/fleet/html", params={"usd_per_device_hour": 4})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "$3.00" in page.text
    assert "<script" not in page.text


@pytest.mark.parametrize(
    ("params", "where"),
    [
        ({"start": "2023-11-14", "end": "2023-11-13"}, "query.end"),
        ({"start": "2023-01-01", "end": "2023-11-13"}, "query.start"),
        ({"start": "0"}, "query.start"),
        ({"end": "2023-02-30"}, "query.end"),
        ({"price_row": "x"}, "query.price_row"),
        ({"price_book": "ours", "usd_per_device_hour": 1}, "query.price_book"),
        ({"price_book": "nobodys"}, "price_book"),
        ({"usd_per_device_hour": "NaN"}, "query.usd_per_device_hour"),
    ],
)
def test_a_fleet_that_makes_no_sense_is_refused(api, problem, params, where):
    for path in ("/v1/fleet", "/v1/fleet/html"):
        assert problem(api.get(path, params=params), 422)["where"] == where


@pytest.mark.parametrize(
    "price",
    [
        {},
        {"usd_per_device_hour": 1, "price_book": "published"},
        {"price_row": "x"},
        {"usd_per_device_hour": -1},
        {"price_book": "nobodys"},
        {"price_book": "published", "price_row": "nothing"},
        {"usd_per_device_hour": 1, "effective_from": 5},
    ],
)
def test_a_cluster_price_that_makes_no_sense_is_refused(api, problem, price):
    body = {"cluster": "default", "effective_from": "2023-01-01"} | price
    problem(api.put("/v1/cluster-prices", json=body), 422)
    assert api.get("/v1/cluster-prices").json() == []
