"""The description of the API is whole, and its examples work."""

import pytest

from api import examples


@pytest.fixture
def document(api) -> dict:
    return api.get("/openapi.json").json()


def test_every_operation_is_described(document):
    ids = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["description"], where
            assert len(operation["tags"]) == 1, where
            ids.append(operation["operationId"])
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], f"{where} {status}"
            if "requestBody" in operation:
                assert {"400", "413", "422"} <= set(operation["responses"]), where
                assert operation["requestBody"]["content"]["application/json"]["examples"], where
    assert len(set(ids)) == len(ids)
    assert {tag["name"] for tag in document["tags"]} == {
        operation["tags"][0] for methods in document["paths"].values() for operation in methods.values()
    }


def test_every_reference_leads_somewhere(document):
    schemas = document["components"]["schemas"]

    def check(part) -> None:
        if isinstance(part, dict):
            if isinstance(target := part.get("$ref"), str):
                assert target.removeprefix("#/components/schemas/") in schemas, target
            for value in part.values():
                check(value)
        elif isinstance(part, list):
            for value in part:
                check(value)

    check(document)


def test_the_examples_tell_one_story_that_works(api):
    answers = [
        api.post("/v1/price-books", json=examples.PRICE_BOOK),
        api.post("/v1/runs", json=examples.RUN),
        api.post("/v1/runs/train-1/state", json=examples.CHANGE),
        api.post("/v1/windows", json=examples.BATCH),
        api.put("/v1/runs/train-1/facts", json=examples.FACTS),
        api.post("/v1/runs/train-1/scores", json=examples.PRICE),
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 200, 200, 201, 201]
    assert answers[3].json()["window_seconds"] == 1.0
    assert answers[-1].json()["validity"] == ["valid"]
