"""The list of runs and its groups, on both databases."""

import pytest

from api.store.run_list import ORDERS, RunFilter, page_of_run_rows, run_groups, runs_of_group


@pytest.fixture
def store(api, end_run, start_run):
    """Three runs with figures, at three prices, the last without; one without figures."""
    for number, price in enumerate((3.0, 1.0, None)):
        end_run(api, f"run-{number}", cluster="c0" if number else "c1")
        if price is not None:
            scored = api.post(f"/v1/runs/run-{number}/scores", json={"usd_per_device_hour": price})
            assert scored.status_code == 201
    start_run(api, "open")
    return api.app.state.store


def names(store, order="newest", limit=2, **wanted) -> list[str]:
    found, cursor = [], None
    with store.reading() as session:
        while True:
            page = page_of_run_rows(session, RunFilter(**wanted), order=order, cursor=cursor, limit=limit)
            found += [row.run_id for row in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return found


def test_runs_are_listed_filtered_sorted_and_grouped(store):
    assert names(store) == ["open", "run-2", "run-1", "run-0"]
    assert names(store, "cost") == ["run-1", "run-0", "open", "run-2"], "without a price last, the newest first"
    assert names(store, "score")[-1] == "open"
    for order in ORDERS:
        assert sorted(names(store, order, limit=1)) == ["open", "run-0", "run-1", "run-2"], order
    assert names(store, cluster="c0") == ["run-2", "run-1"]
    assert names(store, state="running") == ["open"]
    assert names(store, kind="training") == names(store)
    assert names(store, kind="inference") == []
    with store.reading() as session:
        [row] = page_of_run_rows(session, RunFilter(cluster="c1"), order="cost", cursor=None, limit=9).items
        groups = run_groups(session, None)
        assert [(g.cluster, g.runs, g.preset) for g in groups] == [("c0", 2, "cpu-tiny"), ("c1", 1, "cpu-tiny")]
        assert run_groups(session, "c1") == [groups[1]]
        assert runs_of_group(session, groups[0].spec_id, "c0", limit=9) == ["run-2", "run-1"]
        assert runs_of_group(session, groups[0].spec_id, "default", limit=9) == [], "an open run has no figures"
    assert (row.run_id, row.devices, row.hardware) == ("run-0", 1, "a processor")
    assert row.usd_per_million_tokens == pytest.approx(3.0 * 100 / 3600 / 20480 * 1e6)
