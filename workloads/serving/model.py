"""The model that is served, and the tokenizer that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from tokenstone.errors import InvalidFile, InvalidValue
from tokenstone.model import ModelShape
from workloads import checkpoint as checkpoints
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction
from workloads.text import STANDARD_LIBRARY, Corpus, load_corpus, train_tokenizer


@dataclass(frozen=True, slots=True)
class Served:
    """Weights, tokenizer, and the text that both were made of."""

    model: MoeModel
    tokenizer: Tokenizer
    corpus: Corpus
    trained: bool
    prediction: MultiTokenPrediction | None = None


def load_served(shape: ModelShape, checkpoint: Path | None, *, seed: int) -> Served:
    """Take the checkpoint, or without one an untrained model of that shape.

    Raises InvalidValue for a checkpoint of another model, InvalidFile for one that is unusable or whose text is gone.
    """
    if checkpoint is None:
        corpus = load_corpus(STANDARD_LIBRARY)
        return Served(MoeModel(shape, seed=seed), train_tokenizer(corpus, shape.vocabulary), corpus, trained=False)
    loaded = checkpoints.load(checkpoint)
    if loaded.shape != shape:
        raise InvalidValue(
            f"the checkpoint holds {loaded.shape.name}, {shape.name} was asked for", where=str(checkpoint),
            hint="serve the model that was trained",
        )  # fmt: skip
    corpus = load_corpus(loaded.data)
    if corpus.sha256 != loaded.data_sha256:
        raise InvalidFile(
            "the text has changed since the model was trained on it", where=loaded.data, hint="train again"
        )
    return Served(loaded.model, loaded.tokenizer, corpus, trained=True, prediction=loaded.prediction)
