"""Corpus, tokenizer and batches: real, deterministic, and clear about what cannot be used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tokenstone.errors import InvalidFile, InvalidValue
from workloads.device import Device
from workloads.text import (
    CORPUS_BYTES,
    STANDARD_LIBRARY,
    Corpus,
    encode,
    load_corpus,
    random_windows,
    train_tokenizer,
)
from workloads.training.data import Batches


def test_the_standard_library_is_the_same_text_and_tokens_each_time(corpus: Corpus, tokenizer: Tokenizer) -> None:
    again = load_corpus(STANDARD_LIBRARY)
    assert again == corpus
    assert len(corpus.text.encode()) == pytest.approx(CORPUS_BYTES, abs=4)
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()
    assert "import " in corpus.text
    assert train_tokenizer(again, 512).to_str() == tokenizer.to_str()


def test_tokens_decode_to_the_text(corpus: Corpus, tokenizer: Tokenizer) -> None:
    tokens = encode(corpus, tokenizer)
    assert tokenizer.decode(tokens.tolist()) == corpus.text
    assert int(tokens.max()) < 512
    assert len(tokens) < len(corpus.text) / 2


def test_a_users_file(tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_text("rosa, à, 漢字, 🌹\n" * 50, encoding="utf-8")
    corpus = load_corpus(str(path))
    assert corpus.text == path.read_text(encoding="utf-8")
    tokenizer = train_tokenizer(corpus, 300)
    assert tokenizer.decode(encode(corpus, tokenizer).tolist()) == corpus.text


def test_a_long_file_is_cut_between_characters(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_bytes(("x" + "漢" * CORPUS_BYTES).encode())
    assert set(load_corpus(str(path)).text) == {"x", "漢"}


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    binary = tmp_path / "image.png"
    binary.write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(InvalidFile, match="not UTF-8 text"):
        load_corpus(str(binary))
    with pytest.raises(InvalidFile, match="No such file"):
        load_corpus(str(tmp_path / "absent.txt"))
    short = Corpus("short", "tiny", "")
    with pytest.raises(InvalidFile, match="one sequence needs 65"):
        random_windows(encode(short, train_tokenizer(short, 256)), 4, 65, seed=0)


def test_a_vocabulary_below_the_bytes_is_refused(corpus: Corpus) -> None:
    with pytest.raises(InvalidValue, match="255 words"):
        train_tokenizer(corpus, 255)


def test_batches_are_stretches_of_the_text_and_depend_on_seed_and_step_alone(device: Device) -> None:
    batches = Batches(torch.arange(1000), 4, 16, seed=7)
    inputs, targets = batches.at(3, device)
    assert inputs.shape == targets.shape == (4, 16)
    assert torch.equal(inputs + 1, targets)
    assert torch.equal(inputs[:, :1] + torch.arange(16), inputs)
    assert torch.equal(batches.at(3, device)[0], inputs)
    assert not torch.equal(batches.at(4, device)[0], inputs)
    assert not torch.equal(Batches(torch.arange(1000), 4, 16, seed=8).at(3, device)[0], inputs)


def test_every_place_of_the_text_can_be_drawn() -> None:
    starts = random_windows(torch.arange(12), 500, 10, seed=0)[:, 0]
    assert set(starts.tolist()) == {0, 1, 2}
