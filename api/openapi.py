"""The description of the API: problem documents in every answer that can be one, and groups of paths."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from api.errors import PROBLEM
from tokenstone.wire import Problem

TAGS = [
    {"name": "telemetry", "description": "Windows that the agents send, and the nodes they come from."},
    {"name": "runs", "description": "Runs: created, running, then complete, failed or invalid."},
    {"name": "results", "description": "What is said about runs: ledger, score, bill, report, comparison."},
    {"name": "fleet", "description": "Clusters, what they cost, and how their device-hours were spent."},
    {"name": "catalogues", "description": "Hardware, metrics and price books."},
    {"name": "administration", "description": "API keys, and the log of what administrators did."},
    {"name": "operation", "description": "Is the service well? Where does Prometheus find the agents?"},
]

Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """Describe answers of these statuses as problem documents, for `responses=`."""
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


EVERYWHERE = problems(400, 422, 429, 500, 503)
GUARDED = EVERYWHERE | problems(401, 403)
WITH_BODY = GUARDED | problems(413, 415, 507)


LINKS = {
    ("post", "/v1/runs"): {"run_id": "$response.body#/run_id"},
    ("put", "/v1/runs/{run_id}/facts"): {"run_id": "$response.body#/run_id"},
    ("get", "/v1/runs/{run_id}/scores"): {
        "run_id": "$request.path.run_id", "number": "$response.body#/items/0/number",
    },
    ("post", "/v1/price-books"): {"name": "$response.body#/name", "version": "$response.body#/version"},
    ("post", "/v1/keys"): {"prefix": "$response.body#/prefix"},
}  # fmt: skip
"""What an answer tells that other paths ask for."""
_OF_FACTS = {"read_facts", "list_phases", "ledger", "score", "bill", "add_score"}
"""Operations that a run answers once it has its facts."""


def _add_links(paths: dict[str, Any]) -> None:
    """Say in each answer of LINKS which operations can follow it."""
    for (method, path), told in LINKS.items():
        links = {}
        for other, operations in paths.items():
            needed = set(re.findall(r"{(\w+)}", other))
            if needed and needed <= told.keys():
                parameters = {name: told[name] for name in sorted(needed)}
                for operation in operations.values():
                    if (method, path) == ("post", "/v1/runs") and operation["operationId"] in _OF_FACTS:
                        continue
                    links[operation["operationId"]] = {
                        "operationId": operation["operationId"],
                        "parameters": parameters,
                    }
        for status, response in paths[path][method]["responses"].items():
            if status.startswith("2"):
                response["links"] = links


def install(app: FastAPI, *, asks_for_keys: bool) -> None:
    """Add the schema of problem documents, to which `problems` refers, to the description of `app`.

    A service that asks for no keys does not say that it does.
    """
    described = app.openapi  # replaced below, as FastAPI documents it

    def completed() -> dict[str, Any]:
        document = described()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).setdefault("Problem", Problem.model_json_schema())
        _add_links(document["paths"])
        if not asks_for_keys:
            components.pop("securitySchemes", None)
            for methods in document["paths"].values():
                for operation in methods.values():
                    operation.pop("security", None)
                    for status in ("401", "403"):
                        operation["responses"].pop(status, None)
        return document

    app.openapi = completed  # type: ignore[method-assign]
