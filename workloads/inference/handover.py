"""What one engine needs to go on with another one's request."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workloads.inference.request import Request


@dataclass(frozen=True, slots=True)
class Handover:
    """A request between two engines. Of its tokens, all but the last are cached: latents_YSM of every layer."""

    request: Request
    seed: int
    tokens: list[int]
    drafts: list[int]
    cached_prompt_tokens: int
    latents_YSM: Tensor
