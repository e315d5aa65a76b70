"""Whatever goes wrong at whatever path, the answer is a problem document."""

import re

import pytest

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def operations(api) -> list[tuple[str, str, dict]]:
    """(method, path with names that nothing has, description) of every operation."""
    paths = api.get("/openapi.json").json()["paths"]
    named = {"{run_id}": "nobody", "{number}": "7", "{form}": "csv"}
    return [
        (method.upper(), re.sub(r"{\w+}", lambda found: named.get(found[0], "nothing"), path), operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]


def test_a_method_that_a_path_does_not_take(api, operations, problem):
    allowed: dict[str, set[str]] = {}
    for method, path, _ in operations:
        allowed.setdefault(path, set()).add(method)
    for path, methods in allowed.items():
        response = api.request("PATCH", path)
        problem(response, 405)
        assert set(response.headers["allow"].split(", ")) == methods


def test_a_name_that_nothing_has(api, operations, problem):
    checked = 0
    for method, path, operation in operations:
        if ("nobody" in path or "nothing" in path) and "requestBody" not in operation:
            assert "there" in (document := problem(api.request(method, path), 404))["detail"] or document["hint"]
            checked += 1
    assert checked >= 6


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 400), (b"[1]", 422), (b'{"a": NaN}', 422), (b"", 422), (b"5", 422)]
)
def test_a_body_that_is_not_what_it_should_be(api, operations, problem, content, status):
    checked = 0
    for method, path, operation in operations:
        if "requestBody" in operation:
            problem(api.request(method, path, content=content, headers=JSON), status)
            checked += 1
    assert checked >= 6


@pytest.mark.parametrize("path", ["/v1", "/v2/runs", "/v1/runs/a/b/c", "/v1/runs/", "/v1/runs/x/../y"])
def test_a_path_that_is_none(api, problem, path):
    problem(api.get(path), 404)


@pytest.mark.parametrize("path", ["/%00", "/v1/runs/a%00b", "/v1/nodes?cluster=a%00"])
def test_a_character_that_no_database_keeps(api, problem, path):
    assert "NUL" in problem(api.get(path), 422)["detail"]


def test_a_fault_of_ours_tells_the_client_nothing(api, problem):
    def fail() -> None:
        raise RuntimeError("the password is swordfish")

    api.app.add_api_route("/fail", fail)
    response = api.get("/fail")
    problem(response, 500)
    assert "swordfish" not in response.text


def test_values_are_not_repeated(api, problem):
    response = api.post("/v1/runs", json={"run_id": 5, "password": "swordfish"})
    problem(response, 422)
    assert "swordfish" not in response.text
