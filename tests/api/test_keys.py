"""Who may do what, and what is written down of it."""

import pytest

from api import examples

PUBLIC = {("GET", "/healthz"), ("GET", "/readyz")}


def operations(api) -> list[tuple[str, str, dict]]:
    paths = api.get("/openapi.json").json()["paths"]
    return [(method.upper(), path, told) for path, methods in paths.items() for method, told in methods.items()]


def test_without_a_key_nothing_but_health_answers(guarded, problem):
    for method, path, operation in operations(guarded):
        if (method, path) in PUBLIC:
            assert guarded.request(method, path).status_code == 200
            continue
        document = problem(guarded.request(method, path), 401)
        assert document["where"] == "header.Authorization"
        assert {"401", "403"} <= set(operation["responses"]), path
        assert operation["security"] == [{"apiKey": []}], path


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer x", "Basic dXNlcjpw", "Bearer tsk_000000000000_" + "A" * 43, "Bearer ' OR 1=1 --", "tsk"],
)
def test_what_is_no_key_is_refused(guarded, problem, header):
    response = guarded.get("/v1/runs", headers={"Authorization": header})
    problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_key_with_one_character_changed_is_refused(guarded, key, problem):
    headers = key(guarded, "read")
    assert guarded.get("/v1/runs", headers=headers).status_code == 200
    text = headers["Authorization"]
    problem(guarded.get("/v1/runs", headers={"Authorization": text[:-1] + ("A" if text[-1] != "A" else "B")}), 401)


def test_each_scope_opens_what_it_says_and_no_more(guarded, key, problem, batch):
    reads, writes, admin = (key(guarded, scope) for scope in ("read", "ingest", "admin"))
    requests = {
        "read": ("GET", "/v1/nodes", None),
        "ingest": ("POST", "/v1/windows", batch()),
        "admin": ("POST", "/v1/keys", examples.KEY),
    }
    allowed = {"read": {"read"}, "ingest": {"ingest"}, "admin": {"read", "ingest", "admin"}}
    for scope, headers in {"read": reads, "ingest": writes, "admin": admin}.items():
        for needed, (method, path, body) in requests.items():
            response = guarded.request(method, path, json=body, headers=headers)
            if needed in allowed[scope]:
                assert response.status_code in {200, 201}, response.text
            else:
                assert f"the scope {needed}" in problem(response, 403)["detail"]


def test_every_operation_that_changes_something_refuses_a_reader(guarded, key, problem):
    headers = key(guarded, "read")
    for method, path, operation in operations(guarded):
        if method != "GET":
            body = next(iter(operation["requestBody"]["content"].values()))["examples"]["example"]["value"] \
                if "requestBody" in operation else None  # fmt: skip
            problem(guarded.request(method, path, json=body, headers=headers), 403)


def test_a_key_of_one_cluster_neither_sees_nor_fills_another(guarded, key, problem, batch, clock):
    admin, mine = key(guarded, "admin"), key(guarded, "read", "ingest", cluster="mine")
    for cluster in ("mine", "other"):
        guarded.post("/v1/windows", json=batch(cluster=cluster), headers=admin)
        guarded.post("/v1/runs", json=examples.RUN | {"run_id": f"run-{cluster}", "cluster": cluster}, headers=admin)
        guarded.post(f"/v1/runs/run-{cluster}/state", json={"state": "running"}, headers=admin)
        guarded.put(f"/v1/runs/run-{cluster}/facts", json=examples.FACTS, headers=admin)
    refused = guarded.post("/v1/windows", json=batch(cluster="other"), headers=mine)
    assert problem(refused, 403)["where"] == "body.cluster"
    assert guarded.post("/v1/windows", json=batch(cluster="mine", sequence=1), headers=mine).status_code == 200
    wanted = examples.RUN | {"run_id": "new", "cluster": "other"}
    assert problem(guarded.post("/v1/runs", json=wanted, headers=mine), 403)["where"] == "body.cluster"
    for path in ("", "/facts", "/phases", "/ledger", "/score", "/bill", "/scores"):
        assert guarded.get(f"/v1/runs/run-mine{path}", headers=mine).status_code == 200, path
        assert problem(guarded.get(f"/v1/runs/run-other{path}", headers=mine), 403)["where"] == "run_id", path
    problem(guarded.post("/v1/runs/run-other/scores", json={}, headers=mine), 403)
    problem(guarded.put("/v1/runs/run-other/facts", json=examples.FACTS, headers=mine), 403)
    problem(guarded.post("/v1/runs/run-other/state", json={"state": "failed"}, headers=mine), 403)
    for path in ("/v1/reports", "/v1/reports/html"):
        problem(guarded.get(path, params={"run": "run-other"}, headers=mine), 403)
    problem(guarded.get("/v1/comparisons", params={"a": "run-mine", "b": "run-other"}, headers=mine), 403)
    for path in ("runs", "nodes", "devices", "clusters"):
        items = guarded.get(f"/v1/{path}", headers=mine).json()["items"]
        assert {item.get("cluster", item.get("name")) for item in items} == {"mine"}, path
        assert problem(guarded.get(f"/v1/{path}?cluster=other", headers=mine), 403)["where"] == "query.cluster"
    assert len(guarded.get("/v1/windows", headers=mine).json()["items"]) == 2
    problem(guarded.get("/v1/fleet?cluster=other", headers=mine), 403)
    problem(guarded.get("/v1/clusters/other", headers=mine), 403)
    problem(guarded.get("/metrics", headers=mine), 403)
    assert [s["runs"] for s in guarded.get("/v1/specs", headers=mine).json()["items"]] == [1]


@pytest.mark.only("sqlite")
def test_a_key_is_told_once_and_its_secret_is_nowhere_kept(guarded, key, data, problem):
    admin = key(guarded, "admin")
    made = guarded.post("/v1/keys", json=examples.KEY, headers=admin).json()
    secret = made["key"].split("_", 2)[2]
    assert made["prefix"] in made["key"]
    listed = guarded.get("/v1/keys", headers=admin).text
    assert made["prefix"] in listed
    assert secret not in listed + guarded.get("/v1/audit", headers=admin).text
    assert guarded.get(f"/v1/keys/{made['prefix']}", headers=admin).json()["cluster"] == "lab-1"
    stored = b"".join(path.read_bytes() for path in data.iterdir() if path.is_file())
    assert made["prefix"].encode() in stored
    assert secret.encode() not in stored


def test_a_revoked_key_is_refused_at_once_and_stays_listed(guarded, key, problem, clock):
    admin = key(guarded, "admin")
    made = guarded.post("/v1/keys", json={"name": "n", "scopes": ["read"]}, headers=admin).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert guarded.get("/v1/runs", headers=headers).status_code == 200
    clock.now += 5
    for _ in range(2):
        revoked = guarded.delete(f"/v1/keys/{made['prefix']}", headers=admin)
        assert revoked.json()["revoked_unix_seconds"] == clock.now
    problem(guarded.get("/v1/runs", headers=headers), 401)
    assert made["prefix"] in {entry["prefix"] for entry in guarded.get("/v1/keys", headers=admin).json()["items"]}
    problem(guarded.delete("/v1/keys/tsk_none", headers=admin), 404)


def test_a_key_expires(guarded, key, problem, clock):
    headers = key(guarded, "read", expires=clock.now + 10)
    assert guarded.get("/v1/runs", headers=headers).status_code == 200
    clock.now += 10
    problem(guarded.get("/v1/runs", headers=headers), 401)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"scopes": []}, "body.scopes"),
        ({"scopes": ["root"]}, "body.scopes.0"),
        ({"name": ""}, "body.name"),
        ({"cluster": "<b>"}, "body.cluster"),
        ({"scopes": ["admin"], "cluster": "mine"}, "body"),
        ({"expires_unix_seconds": 1.0}, "body.expires_unix_seconds"),
        ({"name": "a\0b"}, "body.name"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(api, problem, change, where):
    assert problem(api.post("/v1/keys", json=examples.KEY | change), 422)["where"] == where
    assert api.get("/v1/keys").json()["items"] == []


def test_acts_of_administrators_are_written_down_with_who_and_which_request(guarded, key, clock):
    admin = key(guarded, "admin")
    prefix = "_".join(admin["Authorization"].removeprefix("Bearer ").split("_")[:2])
    made = guarded.post("/v1/keys", json=examples.KEY, headers=admin | {"X-Request-ID": "act-1"}).json()
    guarded.delete(f"/v1/keys/{made['prefix']}", headers=admin)
    guarded.put("/v1/cluster-prices", json=examples.CLUSTER_PRICE, headers=admin)
    guarded.put("/v1/cluster-prices", json=examples.CLUSTER_PRICE, headers=admin)
    guarded.post("/v1/price-books", json=examples.PRICE_BOOK, headers=admin)
    entries = guarded.get("/v1/audit", headers=admin).json()["items"]
    assert [(entry["action"], entry["target"]) for entry in entries] == [
        ("price book added", "ours@2026-11"),
        ("cluster priced", "default"),
        ("key revoked", made["prefix"]),
        ("key created", made["prefix"]),
    ]
    assert {entry["actor"] for entry in entries} == {prefix}
    assert (entries[-1]["request_id"], entries[-1]["at_unix_seconds"]) == ("act-1", clock.now)


def test_on_loopback_no_key_is_asked_for_and_none_is_described(api):
    assert api.get("/v1/runs").status_code == 200
    assert api.get("/v1/runs", headers={"Authorization": "Bearer of another service"}).status_code == 200
    assert "securitySchemes" not in api.get("/openapi.json").json()["components"]
