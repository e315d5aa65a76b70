"""Speculation: multi-token prediction guesses the token after the next, and the next pass checks the guess on the way.

A guess is accepted if it equals the token that would have been drawn there without it: under greedy sampling the
likeliest one, else the one that the request's seed and the position give. So speculation changes no output, and a
guess g is right with the probability p(g) that rejection sampling would accept it with.

Only the first depth is used: it reads what the trunk knows at a token and the token after it.
"""

from __future__ import annotations

from collections.abc import Sequence as Many


def count_right(drafts: Many[int], chosen: Many[int]) -> int:
    """How many guesses, from the first, are what was chosen in their places."""
    right = 0
    for guess, token in zip(drafts, chosen, strict=False):
        if guess != token:
            break
        right += 1
    return right
