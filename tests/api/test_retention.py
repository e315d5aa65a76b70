"""Hourly roll-ups and forgetting: what is kept, what it says, and that runs can be scored again for ever."""

import math
import threading

import pytest
from sqlalchemy import select, text

from api import examples
from api.housekeeping import keep_house
from api.store.engine import connect
from api.store.horizons import FORGOTTEN, horizon
from api.store.partitions import partitions_of
from api.store.retention import prune
from api.store.rollups import roll_up_step
from api.store.tables import ClusterHour, Hour
from api.store.windows import SeriesSelector, query_windows

HOUR, DAY = 3600.0, 86_400.0
MIDNIGHT = 1_700_006_400.0  # 2023-11-15 00:00 UTC
GAUGE = {"metric": "accel_power_watts", "device": "GPU-0"}
COUNTER = {"metric": "accel_energy_joules_total", "device": "GPU-0"}


@pytest.fixture
def store(database, api):
    opened = connect(database)
    yield opened
    opened.close()


@pytest.fixture
def house(store, clock):
    """Keep house as the service does, at a time."""

    def keep(now: float, days: float = 7) -> None:
        keep_house(store, keep_days=days, now=now, stop=threading.Event())

    return keep


@pytest.fixture
def push(api, batch, clock):
    """Hand over windows (start, count, mean, delta) of a gauge and a counter; the service's clock stands after them."""
    sequence = iter(range(1000))

    def send(rows, node: str = "node-1") -> None:
        clock.now = max([clock.now, *(start for start, *_ in rows)])
        n = len(rows)
        document = batch(
            node=node, sequence=next(sequence), epoch=f"e-{node}",
            series=[GAUGE, COUNTER], series_index=[0] * n + [1] * n,
            start_unix_seconds=[row[0] for row in rows] * 2, duration_seconds=[10.0] * 2 * n,
            count=[row[1] for row in rows] * 2, mean=[row[2] for row in rows] + [None] * n,
            minimum=[row[2] - 1 for row in rows] + [None] * n, maximum=[row[2] + 1 for row in rows] + [None] * n,
            delta=[None] * n + [row[3] for row in rows],
        )  # fmt: skip
        answer = api.post("/v1/windows", json=document)
        assert answer.status_code == 200, answer.text

    return send


def hours(store, entity=Hour) -> list[dict]:
    names = [column.name for column in entity.__table__.columns]
    with store.reading() as session:
        found = session.execute(
            select(*(getattr(entity, name) for name in names)).order_by(*entity.__table__.primary_key)
        )
        return [row._asdict() for row in found]


def windows(api, **params) -> list[dict]:
    return api.get("/v1/windows", params={"limit": 1000, **params}).json()["items"]


def test_an_hour_is_the_sum_of_its_windows(store, push, house):
    push([(MIDNIGHT, 1, 100.0, 5.0), (MIDNIGHT + 3590, 3, 200.0, 7.0), (MIDNIGHT + 3600, 1, 900.0, 1.0)])
    house(MIDNIGHT + 2 * HOUR + 120)
    counter, _, gauge, later = hours(store)
    assert gauge | {"series_id": 0} == {
        "series_id": 0, "start_unix_seconds": MIDNIGHT, "observed_seconds": 20.0, "count": 4,
        "mean": (100 + 3 * 200) / 4, "minimum": 99.0, "maximum": 201.0, "delta": None, "integral": 3000.0,
    }  # fmt: skip
    assert (later["start_unix_seconds"], later["mean"]) == (MIDNIGHT + HOUR, 900.0)
    assert (counter["delta"], counter["mean"], counter["integral"]) == (12.0, None, None)


def test_an_hour_of_a_cluster_is_the_sum_of_its_series(store, push, house):
    push([(MIDNIGHT, 1, 100.0, 5.0)])
    push([(MIDNIGHT + 10, 3, 200.0, 7.0)], node="node-2")
    house(MIDNIGHT + HOUR + 120)
    counter, gauge = hours(store, ClusterHour)
    assert (gauge["metric"], gauge["series"], gauge["mean"], gauge["minimum"], gauge["maximum"]) == (
        "accel_power_watts", 2, (100 + 3 * 200) / 4, 99.0, 201.0,
    )  # fmt: skip
    assert (gauge["observed_seconds"], gauge["integral"]) == (20.0, 3000.0)
    assert (counter["delta"], counter["count"]) == (12.0, 4)


def test_an_hour_that_is_not_over_is_left_alone(store, push, house):
    push([(MIDNIGHT, 1, 100.0, 5.0)])
    house(MIDNIGHT + HOUR + 10)
    assert hours(store) == []


def test_late_windows_mend_the_hour(store, push, house, clock):
    push([(MIDNIGHT, 1, 100.0, 5.0)])
    house(MIDNIGHT + HOUR + 120)
    clock.now = MIDNIGHT + 2 * HOUR
    push([(MIDNIGHT + 20, 1, 300.0, 5.0)])
    house(MIDNIGHT + 2 * HOUR + 30)
    assert hours(store)[0]["count"] == 1  # it may not be the last of them
    house(MIDNIGHT + 2 * HOUR + 120)
    assert (hours(store)[1]["count"], hours(store)[1]["mean"]) == (2, 200.0)
    assert hours(store, ClusterHour)[1]["mean"] == 200.0


def test_old_windows_are_forgotten_and_their_hours_stay(api, store, push, house):
    push([(MIDNIGHT, 1, 100.0, 5.0), (MIDNIGHT + 8 * DAY, 1, 200.0, 5.0)])
    house(MIDNIGHT + 8 * DAY + 2 * HOUR)
    assert {row["start_unix_seconds"] for row in windows(api)} == {MIDNIGHT + 8 * DAY}
    assert [row["start_unix_seconds"] for row in hours(store)] == [MIDNIGHT, MIDNIGHT + 8 * DAY] * 2


def test_nothing_is_forgotten_before_it_is_rolled_up(api, store, push, clock):
    push([(MIDNIGHT, 1, 100.0, 5.0)])
    assert list(prune(store, keep_days=1, now=MIDNIGHT + 30 * DAY)) == []
    assert len(windows(api)) == 2


def test_windows_that_come_after_their_day_is_forgotten_go_into_the_hour_once(api, store, push, house, clock):
    push([(MIDNIGHT, 1, 100.0, 5.0)])
    push([(MIDNIGHT + 8 * DAY, 1, 1.0, 1.0)])
    house(MIDNIGHT + 8 * DAY + 2 * HOUR)
    push([(MIDNIGHT + 20, 3, 300.0, 7.0), (MIDNIGHT + HOUR, 1, 5.0, 2.0)])
    house(MIDNIGHT + 8 * DAY + 4 * HOUR)
    first, second = hours(store)[-3:-1]
    assert (first["count"], first["mean"], first["minimum"], first["maximum"], first["observed_seconds"]) == (
        4, 250.0, 99.0, 301.0, 20.0,
    )  # fmt: skip
    assert first["integral"] == 4000.0
    assert (second["start_unix_seconds"], second["mean"]) == (MIDNIGHT + HOUR, 5.0)
    assert hours(store, ClusterHour)[0]["delta"] == 12.0
    assert {row["start_unix_seconds"] for row in windows(api)} == {MIDNIGHT + 8 * DAY}


def test_a_run_is_scored_again_from_the_same_windows_however_old(api, batch, big_batch, end_run, clock, house):
    """The windows of a run, and only those, outlive their days; the evaluation has the same inputs and figures."""
    started = examples.FACTS["started_unix_seconds"]
    api.post("/v1/windows", json=big_batch(200, start=started - 50))
    end_run(api)
    before = api.post("/v1/runs/train-1/scores", json={}).json()
    house(started + 30 * DAY)
    kept = [row["start_unix_seconds"] for row in windows(api)]
    assert kept == [started + i for i in range(-1, 101)]
    after = api.post("/v1/runs/train-1/scores", json={}).json()
    assert after["inputs_hash"] == before["inputs_hash"]
    assert after == before


def test_a_run_that_has_not_ended_keeps_its_windows(api, big_batch, start_run, clock, house):
    start_run(api, lease_seconds=86_400)
    api.post("/v1/windows", json=big_batch(10, start=clock.now + 10))
    house(clock.now + 30 * DAY)
    assert len(windows(api)) == 10


def test_forgetting_that_is_interrupted_goes_on(api, store, push, house, clock):
    for node in range(5):
        push([(MIDNIGHT + 10 * i, 1, 100.0, 5.0) for i in range(5)], node=f"n{node}")
    now = MIDNIGHT + 9 * DAY
    with store.writing() as session:
        while roll_up_step(session, now=now):
            pass
    next(prune(store, keep_days=1, now=now), None)  # and the process dies
    house(now, days=1)
    assert windows(api) == []
    with store.reading() as session:
        assert horizon(session, FORGOTTEN) == MIDNIGHT + 8 * DAY


@pytest.mark.only("postgresql")
def test_days_are_partitions_made_ahead_and_dropped(store, push, house, clock):
    clock.now = MIDNIGHT + 100
    push([(MIDNIGHT, 1, 100.0, 5.0)])
    house(MIDNIGHT + 200)
    with store.reading() as session:
        names = partitions_of(session.connection())
        assert names == [
            "windows_20231115",
            "windows_20231116",
            "windows_20231117",
            "windows_20231118",
            "windows_default",
        ]
        count = "SELECT count(*) FROM windows_20231115"
        assert session.execute(text(count)).scalar() == 2
    house(MIDNIGHT + 9 * DAY)
    with store.reading() as session:
        names = partitions_of(session.connection())
    assert "windows_20231115" not in names
    assert names[-2] == "windows_20231127"


@pytest.mark.only("postgresql")
def test_windows_of_a_day_without_a_partition_move_into_it(store, push, house, clock, api):
    clock.now = MIDNIGHT - 40 * DAY
    with store.writing() as session:
        row = "INSERT INTO windows VALUES (1, :start, 1, 1, 1, 1, 1, NULL)"
        session.execute(text(row), {"start": MIDNIGHT + 5})
    push([(MIDNIGHT, 1, 100.0, 5.0)])
    with store.reading() as session:
        for name, count in (("windows_20231115", 3), ("windows_default", 0)):
            assert session.execute(text(f"SELECT count(*) FROM {name}")).scalar() == count  # noqa: S608


def test_steps_merge_windows_and_weigh_them(store, push):
    push([(MIDNIGHT, 1, 100.0, 5.0), (MIDNIGHT + 10, 3, 200.0, 7.0), (MIDNIGHT + 60, 1, 50.0, 1.0)])
    gauge = SeriesSelector(metric="accel_power_watts")
    with store.reading() as session:
        first = query_windows(session, gauge, MIDNIGHT, MIDNIGHT + 120, 60, "series", 1, None)
        second = query_windows(session, gauge, MIDNIGHT, MIDNIGHT + 120, 60, "series", 1, first.next_cursor)
    [row], [later] = first.items, second.items
    assert (row.start_unix_seconds, row.duration_seconds, row.count, row.mean) == (MIDNIGHT, 20.0, 4, 175.0)
    assert (row.minimum, row.maximum) == (99.0, 201.0)
    assert (later.start_unix_seconds, later.mean, second.next_cursor) == (MIDNIGHT + 60, 50.0, None)


@pytest.mark.parametrize("step", [HOUR, DAY])
def test_steps_of_hours_say_the_same_before_and_after_forgetting(store, push, house, step):
    rows = [(MIDNIGHT + 10 * i * 111, 1 + i % 3, 1.0 + i, 1.0) for i in range(170)]
    push(rows)

    def ask():
        with store.reading() as session:
            pages = query_windows(
                session, SeriesSelector(), MIDNIGHT - DAY, MIDNIGHT + 9 * DAY, step, "series", 1000, None
            )
        return pages.items

    before = ask()
    house(rows[-1][0] + 2 * HOUR)
    halfway = ask()
    house(MIDNIGHT + 20 * DAY)
    after = ask()
    assert len(before) == 2 * math.ceil((rows[-1][0] + 1 - MIDNIGHT) / step)
    for other in (halfway, after):
        for a, b in zip(before, other, strict=True):
            assert a.model_dump(exclude={"labels"}) == pytest.approx(b.model_dump(exclude={"labels"}))


def test_a_cluster_by_hours(store, push, house):
    push([(MIDNIGHT, 1, 100.0, 5.0), (MIDNIGHT + HOUR, 1, 300.0, 5.0)])
    push([(MIDNIGHT, 1, 200.0, 6.0)], node="node-2")
    house(MIDNIGHT + 3 * HOUR)
    mine = SeriesSelector(cluster="default", metric="accel_power_watts")
    with store.reading() as session:
        rows = query_windows(session, mine, None, None, HOUR, "cluster", 1, None)
        more = query_windows(session, mine, None, None, HOUR, "cluster", 1, rows.next_cursor)
        [day] = query_windows(session, mine, None, None, DAY, "cluster", 10, None).items
    assert (rows.items[0].mean, more.items[0].mean, more.next_cursor) == (150.0, 300.0, None)
    assert (day.mean, day.count, day.node) == (200.0, 3, "*")


def test_pages_of_many_series_are_complete(api, push):
    for node in range(30):
        push([(MIDNIGHT + 10 * i, 1, 1.0, 1.0) for i in range(3)], node=f"n{node}")
    seen, cursor = [], None
    while True:
        page = api.get("/v1/windows", params={"limit": 7, **({"cursor": cursor} if cursor else {})}).json()
        seen += [(row["node"], row["metric"], row["start_unix_seconds"]) for row in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 30 * 3 * 2
