"""Batches for training: a pure function of corpus, seed and step, so that a run can resume at any step.

Shape suffixes: N tokens of the corpus, B sequences, T tokens of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch import Tensor

from tokenstone.errors import TokenstoneError
from workloads.device import Device
from workloads.text import Corpus, PreparedText, prepare_text, random_windows
from workloads.training.parallel.communication import collective

_STEPS_PER_SEED = 1_000_003


@dataclass(frozen=True, slots=True)
class Batches:
    """Draws `batch_sequences` random stretches of the corpus per step."""

    tokens_N: Tensor
    batch_sequences: int
    sequence_length: int
    seed: int

    def at(self, step: int, device: Device) -> tuple[Tensor, Tensor]:
        """Return (inputs_BT, targets_BT) of `step`; the targets are the inputs moved on by one token."""
        windows = random_windows(
            self.tokens_N, self.batch_sequences, self.sequence_length + 1, seed=self.seed * _STEPS_PER_SEED + step
        )
        windows = windows.to(device.torch)
        return windows[:, :-1], windows[:, 1:]


def shared_text(data: str, vocabulary: int, device: Device, cache: Path | None = None) -> PreparedText:
    """As `prepare_text`, by rank 0 for all ranks: text and tokenizer need not be on every node.

    Raises what rank 0 met, on every rank. The text itself does not travel: other ranks get an empty one.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return prepare_text(data, vocabulary, cache)
    prepared: PreparedText | None = None
    said: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            prepared = prepare_text(data, vocabulary, cache)
            corpus = prepared.corpus
            said = [(corpus.name, corpus.sha256, prepared.tokenizer.to_str(), len(prepared.tokens_N))]
        except TokenstoneError as error:
            said = [error]
    with collective("sharing the text"):
        dist.broadcast_object_list(said, src=0)
    [answer] = said
    if isinstance(answer, TokenstoneError):
        raise answer
    name, sha256, tokenizer, count = answer
    tokens_N = torch.empty(count, dtype=torch.int64) if prepared is None else prepared.tokens_N
    tokens_N = tokens_N.to(device.torch)
    with collective("sharing the text"):
        dist.broadcast(tokens_N, src=0)
    return prepared or PreparedText(Corpus(name, "", sha256), Tokenizer.from_str(tokenizer), tokens_N.cpu())
