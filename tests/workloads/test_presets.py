"""Presets are valid, told apart by spec id, and cheap to read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tokenstone.errors import UnknownName
from workloads.moe.config import MoeConfig
from workloads.presets import INFERENCE, TRAINING, inference_spec, training_spec


def test_presets_name_themselves_and_models_that_we_have() -> None:
    assert set(INFERENCE) == {"cpu-tiny", "cpu-small"}
    assert set(TRAINING) == {*INFERENCE, "gpu-1", "gpu-1-80gb", "gpu-8", "deepseek-v3"}
    for name in TRAINING:
        assert training_spec(name).preset == name
        MoeConfig.of(training_spec(name).model)
    for name in INFERENCE:
        assert inference_spec(name).preset == name
        assert training_spec(name).model == inference_spec(name).model
    specs = [*TRAINING.values(), *INFERENCE.values()]
    assert len({spec.spec_id for spec in specs}) == len(specs)


def test_unknown_presets_say_which_there_are() -> None:
    for find in (training_spec, inference_spec):
        with pytest.raises(UnknownName, match="did you mean 'cpu-small'"):
            find("cpu-smal")


def test_presets_do_not_import_torch() -> None:
    code = "import sys, workloads.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
