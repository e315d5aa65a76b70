"""A trained model in one file: shape, weights, tokenizer and what it was trained on. Written whole or not at all."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from tokenizers import Tokenizer

from tokenstone.errors import InvalidFile
from tokenstone.model import ModelShape
from workloads.files import whole_file
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction

_FORMAT = "tokenstone-moe-1"
_HINT = "write one with a training run"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model, its tokenizer, and the corpus (name and SHA-256) that both were trained on."""

    model: MoeModel
    shape: ModelShape
    tokenizer: Tokenizer
    data: str
    data_sha256: str
    prediction: MultiTokenPrediction | None = None
    """The further heads that the model was trained with, on which speculative decoding rests."""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`. Raises NotWritable."""
    content: dict[str, object] = {
        "format": _FORMAT,
        "shape": checkpoint.shape.model_dump_json(),
        "tokenizer": checkpoint.tokenizer.to_str(),
        "data": checkpoint.data,
        "data_sha256": checkpoint.data_sha256,
        "weights": checkpoint.model.state_dict(),
    }
    if checkpoint.prediction is not None:
        content["prediction_depths"] = len(checkpoint.prediction.depths)
        content["prediction_weights"] = checkpoint.prediction.state_dict()
    # Opened here, since torch's own opening turns a missing folder into a RuntimeError.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch covers the system's error, such as a full disk, with its own
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def load(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU. Raises InvalidFile for anything that `save` has not written."""
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise InvalidFile(f"not a checkpoint of format {_FORMAT}", where=str(path), hint=_HINT)
        shape = ModelShape.model_validate_json(content["shape"])
        model = MoeModel(shape)
        model.load_state_dict(content["weights"])
        tokenizer = Tokenizer.from_str(content["tokenizer"])
        prediction = None
        if "prediction_depths" in content:
            prediction = MultiTokenPrediction(shape, depths=content["prediction_depths"])
            prediction.load_state_dict(content["prediction_weights"])
        return Checkpoint(model, shape, tokenizer, content["data"], content["data_sha256"], prediction)
    except OSError as error:
        raise InvalidFile(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, RuntimeError, ValidationError) as error:
        raise InvalidFile(
            "not a checkpoint of the reference model, or a damaged one", where=str(path), hint=_HINT
        ) from error
