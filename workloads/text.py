"""Real text and its tokens: the corpus, a tokenizer trained on it here, and the corpus as one tensor of tokens.

The default corpus is the Python standard library's own sources: on every machine, real, and free of downloads.
Everything is a pure function of the corpus, so that two runs on one Python version see the same tokens.
"""

from __future__ import annotations

import codecs
import hashlib
import pickle
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenstone.errors import InvalidFile, InvalidValue, NotWritable
from workloads.files import whole_file

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


class PreparedText(NamedTuple):
    """A corpus, the tokenizer that was trained on it, and its tokens."""

    corpus: Corpus
    tokenizer: Tokenizer
    tokens_N: Tensor


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


def prepare_text(data: str, vocabulary: int, cache: Path | None = None) -> PreparedText:
    """Read the corpus, train a tokenizer on it and encode it; or find tokenizer and tokens in the folder `cache`.

    What is cached is named after everything that it depends on. A cache that cannot be read or written is no error.
    Raises InvalidFile for an unusable corpus, InvalidValue for a vocabulary of fewer than 256 words.
    """
    corpus = load_corpus(data)
    key = f"tokens-{corpus.sha256[:24]}-{vocabulary}-{tokenizers.__version__}.pt"
    path = None if cache is None else cache / key
    import torch  # noqa: PLC0415

    if path is not None and path.is_file():
        with suppress(OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError):
            cached = torch.load(path, weights_only=True)
            return PreparedText(corpus, Tokenizer.from_str(cached["tokenizer"]), cached["tokens"])
    tokenizer = train_tokenizer(corpus, vocabulary)
    prepared = PreparedText(corpus, tokenizer, encode(corpus, tokenizer))
    if path is not None:
        with suppress(OSError, NotWritable):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary, temporary.open("wb") as file:
                torch.save({"tokenizer": tokenizer.to_str(), "tokens": prepared.tokens_N}, file)
    return prepared


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
