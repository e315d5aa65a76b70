"""Errors in the shape that OpenAI's clients understand: {"error": {message, type, param, code}}."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse


class ApiError(Exception):
    """What a client gets instead of an answer."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None,
        kind: str = "invalid_request_error", retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.kind = status, message, code, param, kind
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, object]:
        """As JSON."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        """As HTTP."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse(self.body, self.status, headers)


def too_long(prompt: int, wanted: int, context: int) -> ApiError:
    """The prompt and the answer that is asked for do not fit."""
    return ApiError(
        400,
        f"This model's maximum context length is {context} tokens; {prompt} in the prompt and {wanted} asked for are "
        f"{prompt + wanted}. Shorten the prompt or lower max_tokens.",
        code="context_length_exceeded", param="max_tokens" if prompt < context else "prompt",
    )  # fmt: skip


def install(app: FastAPI) -> None:
    """Give every error of the application this shape."""

    @app.exception_handler(ApiError)
    async def _known(_: Request, error: ApiError) -> JSONResponse:
        return error.response

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"] if part != "body")
        return ApiError(400, f"{place}: {problem['msg']}" if place else problem["msg"], param=place or None).response

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, f"{error.detail}: {request.method} {request.url.path}").response

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        return ApiError(500, f"the server failed: {type(error).__name__}", kind="server_error").response
