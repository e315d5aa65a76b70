"""The life of a run, as its client lives it."""

import pytest

from api import examples

LIFE = "/v1/runs/train-1"


def state(api, to: str, reason: str = ""):
    return api.post(f"{LIFE}/state", json={"state": to, "reason": reason})


def test_a_run_is_created_once(api, problem):
    first = api.post("/v1/runs", json=examples.RUN)
    assert (first.status_code, first.headers["location"]) == (201, LIFE)
    assert first.json()["state"] == "created"
    again = api.post("/v1/runs", json=examples.RUN)
    assert (again.status_code, again.json()) == (200, first.json())
    other = problem(api.post("/v1/runs", json=examples.RUN | {"cluster": "other"}), 409)
    assert other["where"] == "run_id"
    assert api.get(LIFE).json() == first.json()


def test_a_run_goes_from_created_to_complete(api, clock, start_run):
    created_at = clock.now
    run = start_run(api)
    assert (run["state"], run["started_unix_seconds"], run["ended_unix_seconds"]) == ("running", created_at, None)
    clock.now += 30
    ended = api.put(f"{LIFE}/facts", json=examples.FACTS)
    assert ended.status_code == 201
    assert (ended.json()["state"], ended.json()["ended_unix_seconds"]) == ("complete", clock.now)
    assert api.get(LIFE).json() == ended.json()


@pytest.mark.parametrize(
    ("path", "impossible"),
    [
        ([], "complete"),
        ([], "invalid"),
        (["running"], "created"),
        (["running"], "complete"),
        (["failed"], "running"),
        (["running", "failed"], "running"),
        (["running", "failed"], "created"),
    ],
)
def test_impossible_steps_are_refused(api, problem, path, impossible):
    api.post("/v1/runs", json=examples.RUN)
    for step in path:
        assert state(api, step).status_code == 200
    before = api.get(LIFE).json()
    assert problem(state(api, impossible), 409)["hint"]
    assert api.get(LIFE).json() == before


def test_a_reason_is_kept(api, start_run):
    start_run(api)
    assert state(api, "failed", "out of memory").json()["reason"] == "out of memory"
    assert state(api, "failed", "again").json()["reason"] == "out of memory"


def test_a_silent_client_loses_its_run(api, clock, start_run, problem):
    start_run(api)
    clock.now += 60
    assert api.get(LIFE).json()["state"] == "running"
    clock.now += 1
    lost = api.get(LIFE).json()
    assert (lost["state"], lost["reason"]) == ("failed", "client lost")
    assert lost["ended_unix_seconds"] == clock.now - 1
    problem(state(api, "running"), 409)
    problem(api.put(f"{LIFE}/facts", json=examples.FACTS), 409)


def test_a_run_that_never_began_is_lost_too(api, clock):
    api.post("/v1/runs", json=examples.RUN)
    clock.now += 61
    assert [run["state"] for run in api.get("/v1/runs").json()["items"]] == ["failed"]


def test_the_present_state_keeps_a_run_alive(api, clock, start_run):
    start_run(api)
    for _ in range(5):
        clock.now += 50
        assert state(api, "running").json()["state"] == "running"


def test_an_ended_run_has_no_lease(api, clock, end_run):
    end_run(api)
    clock.now += 1e6
    assert api.get(LIFE).json()["state"] == "complete"


def test_lost_runs_are_found_at_start_and_without_being_asked_for(open_api, clock, start_run, eventually):
    start_run(open_api())
    clock.now += 61
    api = open_api()
    eventually(lambda: 'state="failed"} 1.0' in api.get("/metrics").text)
    api = open_api(lease_check_seconds=0.01)
    start_run(api, "train-2")
    clock.now += 61
    eventually(lambda: 'state="failed"} 2.0' in api.get("/metrics").text)


def test_facts_are_told_once(api, end_run, problem):
    complete = end_run(api)
    again = api.put(f"{LIFE}/facts", json=examples.FACTS)
    assert (again.status_code, again.json()) == (200, complete)
    problem(api.put(f"{LIFE}/facts", json=examples.FACTS | {"tokens": 1}), 409)
    assert len(api.get(f"{LIFE}/scores").json()["items"]) == 1


def test_facts_must_be_those_of_the_run(api, start_run, problem):
    start_run(api)
    serving = {"kind": "inference", "started_unix_seconds": 1.7e9, "allocated_seconds": 1, "device_count": 1,
               "startup_seconds": 1, "iterations": {}, "requests": {}}  # fmt: skip
    assert problem(api.put(f"{LIFE}/facts", json=serving), 422)["where"] == "body.kind"
    two = examples.FACTS | {"devices": examples.FACTS["devices"] * 2}
    assert "2 devices" in problem(api.put(f"{LIFE}/facts", json=two), 422)["detail"]
    assert api.get(LIFE).json()["state"] == "running"


def test_facts_need_a_running_run(api, problem):
    problem(api.put(f"{LIFE}/facts", json=examples.FACTS), 404)
    api.post("/v1/runs", json=examples.RUN)
    problem(api.put(f"{LIFE}/facts", json=examples.FACTS), 409)


def test_facts_that_do_not_balance_make_the_run_invalid(api, start_run):
    start_run(api)
    run = api.put(f"{LIFE}/facts", json=examples.FACTS | {"allocated_seconds": 50}).json()
    assert (run["state"], run["reason"]) == ("invalid", "ledger_residual")
    assert api.get(f"{LIFE}/ledger").json()["residual_seconds"] == pytest.approx(-50)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"run_id": "a/b"}, "body.run_id"),
        ({"devices": []}, "body.devices"),
        ({"devices": [{"id": "d", "node": "n", "hardware": "h9000"}]}, "body.devices.0.hardware"),
        ({"lease_seconds": 0}, "body.lease_seconds"),
        ({"spec": {"kind": "training"}}, "body.spec.training.preset"),
        ({"spec": {"kind": "prayer"}}, "body.spec"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(api, problem, change, where):
    assert problem(api.post("/v1/runs", json=examples.RUN | change), 422)["where"] == where
    assert api.get("/v1/runs").json()["items"] == []


def test_runs_are_listed_newest_first_and_in_whole_pages(api, start_run, every_page):
    for number in range(7):
        start_run(api, f"run-{number}", cluster="even" if number % 2 == 0 else "odd")
    api.post("/v1/runs/run-3/state", json={"state": "failed"})
    assert [run["run_id"] for run in every_page(api, "/v1/runs", 3)] == [f"run-{n}" for n in reversed(range(7))]
    assert [run["run_id"] for run in every_page(api, "/v1/runs", 3, state="failed")] == ["run-3"]
    assert len(every_page(api, "/v1/runs", 3, cluster="even")) == 4


def test_pages_of_runs_do_not_shift_while_runs_are_made(api, start_run):
    for number in range(4):
        start_run(api, f"run-{number}")
    first = api.get("/v1/runs", params={"limit": 2}).json()
    start_run(api, "run-4")
    second = api.get("/v1/runs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [run["run_id"] for run in first["items"] + second["items"]] == ["run-3", "run-2", "run-1", "run-0"]
    assert second["next_cursor"] is None
