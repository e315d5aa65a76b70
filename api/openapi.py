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
    {"name": "results", "description": "What is said about a run: ledger, score, bill, report."},
    {"name": "catalogues", "description": "Hardware, metrics and price books."},
    {"name": "operation", "description": "Is the service well?"},
]

Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """Describe answers of these statuses as problem documents, for `responses=`."""
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


EVERYWHERE = problems(422, 500, 503)
WITH_BODY = problems(400, 413, 415, 422, 500, 503)


def install(app: FastAPI) -> None:
    """Add the schema of problem documents, to which `problems` refers, to the description of `app`."""
    described = app.openapi  # replaced below, as FastAPI documents it

    def with_problems() -> dict[str, Any]:
        document = described()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.setdefault("Problem", Problem.model_json_schema())
        return document

    app.openapi = with_problems  # type: ignore[method-assign]
