"""Files that pass between launchers and the service: specs, facts, probes."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tokenstone.errors import InvalidFile
from tokenstone.run import TrainingSpec
from tokenstone.wire import Probe, TrainingFacts

Model = TypeVar("Model", bound=BaseModel)


def read_spec(path: Path) -> TrainingSpec:
    """Read a spec of training; raises InvalidFile."""
    return _read(TrainingSpec, path, "a spec of training", "`tokenstone train --write-spec FILE` writes one")


def read_probe(path: Path) -> Probe:
    """Read a probe; raises InvalidFile."""
    return _read(Probe, path, "a probe", "`tokenstone probe --json` prints one")


def read_facts(path: Path) -> TrainingFacts:
    """Read the facts of a training; raises InvalidFile."""
    return _read(TrainingFacts, path, "facts of a training", "rank 0 of the workload writes them to its --out")


def _read(model: type[Model], path: Path, what: str, hint: str) -> Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidFile(f"cannot be read: {error.strerror or error}", where=str(path), hint=hint) from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "it"
        raise InvalidFile(f"not {what}: {place}: {problem['msg']}", where=str(path), hint=hint) from None
