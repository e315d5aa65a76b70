"""From tokens to text while they come: no character is cut in two, and nothing after a stop text gets out."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from tokenizers import Tokenizer


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of each token of a byte-level BPE (GPT-2's alphabet of printable stand-ins for bytes)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet |= {chr(256 + place): byte for place, byte in enumerate(others)}
    words = (tokenizer.id_to_token(index) or "" for index in range(tokenizer.get_vocab_size()))
    return [bytes(alphabet[letter] for letter in word) for word in words]


class TextStream:
    """The text of one answer, piece by piece; `ended` once a stop text came."""

    def __init__(self, vocabulary: Sequence[bytes], stops: Sequence[str]) -> None:
        self._vocabulary, self._stops = vocabulary, stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.ended = False

    def add(self, token_ids: Sequence[int], *, last: bool) -> str:
        """Text that is sure by now; at the `last` call, all that is left."""
        received = b"".join(self._vocabulary[t] if t < len(self._vocabulary) else b"" for t in token_ids)
        self._held += self._decoder.decode(received, final=last)
        cut = min((place for stop in self._stops if (place := self._held.find(stop)) >= 0), default=None)
        if cut is not None:
            self.ended = True
            return self._held[:cut]
        sure = len(self._held) if last else len(self._held) - self._possible_stop()
        text, self._held = self._held[:sure], self._held[sure:]
        return text

    def _possible_stop(self) -> int:
        """Characters at the end that may be the beginning of a stop text."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest
