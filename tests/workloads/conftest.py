from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from workloads.device import Device, select_device
from workloads.text import STANDARD_LIBRARY, Corpus, load_corpus, train_tokenizer


@pytest.fixture(scope="session")
def device() -> Device:
    """One thread: small operations on two, beside other programs, wait more than they work."""
    return select_device(threads=1)


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return load_corpus(STANDARD_LIBRARY)


@pytest.fixture(scope="session")
def short_text(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text file whose tokenizer is trained in no time."""
    path = tmp_path_factory.mktemp("data") / "short.txt"
    path.write_text(corpus.text[:200_000], encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def tokenizer(corpus: Corpus) -> Tokenizer:
    return train_tokenizer(corpus, 512)
