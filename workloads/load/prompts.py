"""Prompts of a wanted length: tokens where the tokenizer is known, words where it is not.

Every stretch is named by a key, so that the same key gives the same text on every run and for every request that
shares it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from tokenstone.errors import InvalidFile
from workloads.text import STANDARD_LIBRARY, load_corpus

Prompt = str | list[int]
"""Text, or ids of tokens."""


class PromptSource(Protocol):
    """Makes stretches of a wanted length and joins them."""

    def stretch(self, tokens: int, key: Sequence[int]) -> Prompt:
        """About `tokens` tokens, exactly where they are sent as ids."""

    def join(self, parts: Sequence[Prompt]) -> Prompt:
        """The parts one after the other."""

    def answer(self, text: str, token_ids: Sequence[int]) -> Prompt:
        """What an endpoint answered, as a part of the next prompt."""

    def count(self, text: str) -> int | None:
        """Tokens of a text; None without a tokenizer."""


@dataclass(frozen=True, slots=True)
class TokenPrompts:
    """Stretches of a real text as ids of tokens, for an endpoint whose tokenizer is at hand and that takes ids."""

    tokenizer: Tokenizer
    corpus: list[int] = field(repr=False)

    def stretch(self, tokens: int, key: Sequence[int]) -> Prompt:
        """As `ids`."""
        return self.ids(tokens, key)

    def ids(self, tokens: int, key: Sequence[int]) -> list[int]:
        """Consecutive tokens from a random place; what is longer than the corpus repeats it."""
        start = int(np.random.default_rng(list(key)).integers(len(self.corpus)))
        doubled = self.corpus[start:] + self.corpus[:start]
        return (doubled * (tokens // len(doubled) + 1))[:tokens]

    def join(self, parts: Sequence[Prompt]) -> Prompt:
        """One list of ids."""
        return [token for part in parts for token in part if isinstance(token, int)]

    def answer(self, text: str, token_ids: Sequence[int]) -> Prompt:
        """The ids that came, or the text encoded where none came."""
        return list(token_ids) if token_ids else list(self.tokenizer.encode(text).ids)

    def count(self, text: str) -> int | None:
        """Encode and count."""
        return len(self.tokenizer.encode(text).ids)


@dataclass(frozen=True, slots=True)
class TextPrompts:
    """Text whose length a local tokenizer measured; the endpoint, encoding it again, may count a few tokens more."""

    tokens: TokenPrompts

    def stretch(self, tokens: int, key: Sequence[int]) -> Prompt:
        """As TokenPrompts, decoded."""
        return str(self.tokens.tokenizer.decode(self.tokens.ids(tokens, key)))

    def join(self, parts: Sequence[Prompt]) -> Prompt:
        """One text."""
        return "".join(str(part) for part in parts)

    def answer(self, text: str, token_ids: Sequence[int]) -> Prompt:  # noqa: ARG002  the protocol's
        """The text."""
        return text

    def count(self, text: str) -> int | None:
        """Encode and count."""
        return self.tokens.count(text)


_COMMON = """
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room
mother area money story fact month lot right study book eye job word business issue side kind head house
service friend father power hour game line end member law car city community name team minute idea body
information back parent face others level office door health person art war history party result change
morning reason research girl
"""
_WORDS = _COMMON.split()


@dataclass(frozen=True, slots=True)
class WordPrompts:
    """Common English words, about one token each in most vocabularies; the endpoint's own count is what is reported."""

    def stretch(self, tokens: int, key: Sequence[int]) -> Prompt:
        """`tokens` words."""
        chosen = np.random.default_rng(list(key)).integers(len(_WORDS), size=tokens)
        return "".join(f" {_WORDS[index]}" for index in chosen)

    def join(self, parts: Sequence[Prompt]) -> Prompt:
        """One text."""
        return "".join(str(part) for part in parts)

    def answer(self, text: str, token_ids: Sequence[int]) -> Prompt:  # noqa: ARG002  the protocol's
        """The text."""
        return text

    def count(self, text: str) -> int | None:  # noqa: ARG002  the protocol's
        """Unknown."""
        return None


def token_prompts(tokenizer_path: Path) -> TokenPrompts:
    """Prompts by a tokenizer: a `tokenizer.json`, or the folder that holds one. Raises InvalidFile."""
    path = tokenizer_path / "tokenizer.json" if tokenizer_path.is_dir() else tokenizer_path
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain exceptions of its own
        raise InvalidFile(
            f"not a tokenizer: {error}", where=str(path), hint="give a tokenizer.json, or the folder with one"
        ) from error
    text = load_corpus(STANDARD_LIBRARY).text[:400_000]
    return TokenPrompts(tokenizer, list(tokenizer.encode(text).ids))
