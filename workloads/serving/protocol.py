"""What OpenAI's clients send, as far as the reference engine can do it; what it cannot is refused, never ignored.

Keys that only other servers know are passed over, as those servers do. `ignore_eos` and `return_token_ids` are vLLM's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workloads.serving.errors import ApiError

Count = Annotated[int, Field(ge=1, le=2**31)]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1), "best_of": (None, 1), "echo": (None, False), "suffix": (None, ""), "logprobs": (None, False),
    "top_logprobs": (None, 0), "logit_bias": (None, {}), "presence_penalty": (None, 0), "frequency_penalty": (None, 0),
    "tools": (None, []), "functions": (None, []), "audio": (None,), "top_k": (None, -1, 0), "min_p": (None, 0),
    "repetition_penalty": (None, 1), "min_tokens": (None, 0), "response_format": (None, {"type": "text"}),
    "prompt_logprobs": (None,),
}  # fmt: skip
"""Parameters that are not implemented, and the values that ask for nothing."""


class StreamOptions(BaseModel):
    """What comes with a stream."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class Generation(BaseModel):
    """What both routes share."""

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    def check(self) -> None:
        """Raise ApiError for a parameter that would change the answer and is not implemented."""
        if len(self.stops) > 4 or "" in self.stops:
            raise ApiError(400, "stop: give at most 4 texts, none of them empty", param="stop")
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL and value not in _NEUTRAL[name]:
                raise ApiError(
                    400, f"{name} is not supported by this server: leave it out", param=name,
                    code="unsupported_parameter",
                )  # fmt: skip


class CompletionRequest(Generation):
    """`POST /v1/completions`."""

    prompt: (
        str
        | Ids
        | Annotated[list[str], Field(min_length=1, max_length=256)]
        | Annotated[list[Ids], Field(min_length=1, max_length=256)]
    )

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one, each text or ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [token for token in self.prompt if isinstance(token, int)]
        return [ids] if ids else [part for part in self.prompt if not isinstance(part, int)]


class Part(BaseModel):
    """A part of a message; only text is understood."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def text(self) -> str:
        """Its text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Generation):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: Count | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        return self

    @property
    def prompt_text(self) -> str:
        """The conversation as one text, by the reference model's template: role, line, text, empty line."""
        said = "".join(f"{message.role}\n{message.text}\n\n" for message in self.messages)
        return f"{said}assistant\n"
