"""The description of the API: problem documents in every answer that can be one, and groups of paths."""

from __future__ import annotations

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
WITH_BODY = GUARDED | problems(413, 415)


def install(app: FastAPI) -> None:
    """Add the schema of problem documents, to which `problems` refers, to the description of `app`."""
    described = app.openapi  # replaced below, as FastAPI documents it

    def with_problems() -> dict[str, Any]:
        document = described()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.setdefault("Problem", Problem.model_json_schema())
        return document

    app.openapi = with_problems  # type: ignore[method-assign]
