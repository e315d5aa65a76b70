"""Which token comes next: greedy, or drawn at a temperature from the likeliest ones.

A draw needs one uniform number, and that comes from the request's seed and the token's position alone, not from a
generator with a state. So a request gets the same tokens whatever is served beside it, whether or not it was
preempted, and whether or not its tokens were guessed before: a guess is right exactly if it is what would have been
drawn anyway, which happens as often as the model finds that token likely.

Shape suffixes: R rows to draw from, W words of the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Many
from typing import NamedTuple

import torch
from torch import Tensor

from workloads.inference.request import Sampling


class Draw(NamedTuple):
    """How to choose from one row of logits."""

    sampling: Sampling
    seed: int
    position: int
    """Of the token to be drawn, in its sequence."""


def uniform(seed: int, position: int) -> float:
    """A number from [0, 1), all 2^53 of them equally likely over seeds and positions."""
    text = seed.to_bytes(16, "little", signed=True) + position.to_bytes(8, "little")
    return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 11) * 2.0**-53


def choose(logits_RW: Tensor, draws: Many[Draw]) -> list[int]:
    """The token of each row."""
    chosen: list[int] = logits_RW.argmax(dim=-1).tolist()
    drawn = [row for row, draw in enumerate(draws) if not draw.sampling.greedy]
    if drawn:
        rows = torch.tensor(drawn, device=logits_RW.device)
        tokens = draw_tokens(logits_RW[rows], [draws[row] for row in drawn])
        for row, token in zip(drawn, tokens, strict=True):
            chosen[row] = token
    return chosen


def draw_tokens(logits_RW: Tensor, draws: Many[Draw]) -> list[int]:
    """A random token of each row, by the inverse of its distribution function."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits_RW.device)[:, None]

    uniform_R1 = column([uniform(draw.seed, draw.position) for draw in draws])
    temperature_R1 = column([draw.sampling.temperature for draw in draws])
    top_p_R1 = column([draw.sampling.top_p for draw in draws])
    # fp64, since a sum over a large vocabulary in fp32 loses the unlikely words.
    probabilities_RW = (logits_RW.double() / temperature_R1).softmax(dim=-1)
    words_RW = None
    if any(draw.sampling.top_p < 1 for draw in draws):
        probabilities_RW, words_RW = probabilities_RW.sort(dim=-1, descending=True, stable=True)
    below_RW = probabilities_RW.cumsum(dim=-1)
    if words_RW is not None:
        before_RW = below_RW - probabilities_RW  # a word stays while those before it do not reach top_p
        probabilities_RW = probabilities_RW.where((before_RW < top_p_R1) | (top_p_R1 >= 1), 0.0)
        below_RW = probabilities_RW.cumsum(dim=-1)
    last_R1 = (probabilities_RW > 0).long().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    index_R1 = torch.searchsorted(below_RW, uniform_R1 * below_RW[:, -1:], right=True).minimum(last_R1)
    if words_RW is not None:
        index_R1 = words_RW.gather(1, index_R1)
    tokens: list[int] = index_R1[:, 0].tolist()
    return tokens
