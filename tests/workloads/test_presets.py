"""Presets are valid, told apart by spec id, and cheap to read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tokenstone.errors import UnknownName
from workloads.moe.config import MoeConfig
from workloads.presets import INFERENCE, TRAINING, inference_spec, training_spec


def test_presets_name_themselves_and_models_that_we_have() -> None:
    assert set(TRAINING) == set(INFERENCE) == {"cpu-tiny", "cpu-small"}
    for name in TRAINING:
        assert training_spec(name).preset == inference_spec(name).preset == name
        assert training_spec(name).model == inference_spec(name).model
        MoeConfig.of(training_spec(name).model)
    assert len({spec.spec_id for spec in [*TRAINING.values(), *INFERENCE.values()]}) == 4


def test_unknown_presets_say_which_there_are() -> None:
    for find in (training_spec, inference_spec):
        with pytest.raises(UnknownName, match="did you mean 'cpu-small'"):
            find("cpu-smal")


def test_presets_do_not_import_torch() -> None:
    code = "import sys, workloads.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
