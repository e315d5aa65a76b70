"""Named traffic: what kinds of work ask for. The shapes are round numbers of ours, no measurement of any service.

`scaled` fits them to a model with a short context; the proportions stay.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenstone.errors import UnknownName
from tokenstone.run import Lengths


@dataclass(frozen=True, slots=True)
class Distribution:
    """Lengths, and how many requests share one prompt."""

    lengths: Lengths
    group_size: int = 1


DISTRIBUTIONS: dict[str, Distribution] = {
    "chat": Distribution(
        Lengths(name="chat", input_tokens=512, output_tokens=256, input_sigma=0.8, output_sigma=0.6,
                input_limit=4096, output_limit=2048),
    ),
    "long-context": Distribution(
        Lengths(name="long-context", input_tokens=16_384, output_tokens=512, input_sigma=0.5, output_sigma=0.5,
                input_limit=65_536, output_limit=2048),
    ),
    "reasoning": Distribution(
        Lengths(name="reasoning", input_tokens=256, output_tokens=8192, input_sigma=0.5, output_sigma=0.7,
                input_limit=1024, output_limit=32_768),
    ),
    "rollout": Distribution(
        Lengths(name="rollout", input_tokens=512, output_tokens=4096, input_sigma=0.3, output_sigma=0.6,
                input_limit=2048, output_limit=16_384),
        group_size=8,
    ),
}  # fmt: skip


def distribution(name: str) -> Distribution:
    """Return a named distribution; raises UnknownName."""
    try:
        return DISTRIBUTIONS[name]
    except KeyError:
        raise UnknownName("distribution", name, DISTRIBUTIONS, where="--traffic") from None


def scaled(lengths: Lengths, factor: float) -> Lengths:
    """Shorten (or stretch) all lengths by one factor, at least one token each."""
    names = ("input_tokens", "output_tokens", "input_limit", "output_limit")
    return lengths.model_copy(update={name: max(1, round(getattr(lengths, name) * factor)) for name in names})
