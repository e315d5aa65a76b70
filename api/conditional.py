"""What never changes has an `ETag`: who has it already is told so, in a few bytes."""

from __future__ import annotations

import hashlib

from fastapi import Request, Response
from pydantic import BaseModel

from api.openapi import Responses

NOT_MODIFIED: Responses = {304: {"description": "The client has it already (If-None-Match)"}}


def immutable(request: Request, model: BaseModel) -> Response:
    """Answer with something that never changes, or with 304 where the client names it in `If-None-Match`."""
    body = model.model_dump_json().encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=86400, immutable"}
    known = {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)
