"""Real text and its tokens: the corpus, a tokenizer trained on it here, and the corpus as one tensor of tokens.

The default corpus is the Python standard library's own sources: on every machine, real, and free of downloads.
Everything is a pure function of the corpus, so that two runs on one Python version see the same tokens.
"""

from __future__ import annotations

import codecs
import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenstone.errors import InvalidFile, InvalidValue

if TYPE_CHECKING:  # the load generator reads the corpus too, and needs no torch for it
    from torch import Tensor

STANDARD_LIBRARY = "python-stdlib"
CORPUS_BYTES = 2_000_000
"""Longest corpus, several times what the presets train on; a longer file is read to here."""

_CHUNK_CHARACTERS = 20_000
_OTHER_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip"})


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text, where it is from, and the SHA-256 of its UTF-8 bytes."""

    name: str
    text: str
    sha256: str


def load_corpus(data: str) -> Corpus:
    """Read "python-stdlib" or a text file. Raises InvalidFile for one that cannot be read as UTF-8 text."""
    content = _standard_library() if data == STANDARD_LIBRARY else _file(Path(data))
    try:
        # Incremental, since the limit may have cut a character in two.
        text = codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError as error:
        raise InvalidFile(f"not UTF-8 text: {error.reason} at byte {error.start}", where=data) from None
    return Corpus(data, text, hashlib.sha256(text.encode()).hexdigest())


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(CORPUS_BYTES)
    except OSError as error:
        hint = f"give a text file, or {STANDARD_LIBRARY}"
        raise InvalidFile(f"cannot be read: {error.strerror or error}", where=str(path), hint=hint) from error


def _standard_library() -> bytes:
    root = Path(sysconfig.get_paths()["stdlib"])
    content = bytearray()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        if not _OTHER_FOLDERS.intersection(path.relative_to(root).parts):
            content += path.read_bytes().decode("utf-8", errors="replace").encode()
        if len(content) >= CORPUS_BYTES:
            break
    if not content:
        hint = "this Python ships no sources: name a text file as data"
        raise InvalidFile("no Python sources found", where=str(root), hint=hint)
    return bytes(content[:CORPUS_BYTES])


def train_tokenizer(corpus: Corpus, vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE of at most `vocabulary` words; at least 256, one per byte."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary < len(alphabet):
        raise InvalidValue(f"a vocabulary of {vocabulary} words", where="vocabulary", hint="bytes alone are 256")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_chunks(corpus.text), trainer)
    return tokenizer


def encode(corpus: Corpus, tokenizer: Tokenizer) -> Tensor:
    """The whole corpus as tokens, int64."""
    import torch  # noqa: PLC0415

    encoded = tokenizer.encode_batch(_chunks(corpus.text))
    return torch.tensor([token for chunk in encoded for token in chunk.ids], dtype=torch.int64)


def _chunks(text: str) -> list[str]:
    return [text[i : i + _CHUNK_CHARACTERS] for i in range(0, len(text), _CHUNK_CHARACTERS)]


def random_windows(tokens_N: Tensor, count: int, length: int, *, seed: int) -> Tensor:
    """`count` stretches of `length` consecutive tokens from random places, (count, length)."""
    import torch  # noqa: PLC0415

    places = len(tokens_N) - length + 1
    if places < 1:
        raise InvalidFile(
            f"the text has {len(tokens_N)} tokens, one sequence needs {length}", where="data", hint="give a longer text"
        )
    starts = torch.randint(places, (count, 1), generator=torch.Generator().manual_seed(seed))
    return tokens_N[starts + torch.arange(length)]
