"""Checkpoints come back as they were, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tokenstone.errors import InvalidFile, NotWritable
from tokenstone.model import CPU_TINY
from workloads import checkpoint as checkpoints
from workloads.checkpoint import Checkpoint
from workloads.files import require_writable, whole_file
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction


def trained(tokenizer: Tokenizer) -> Checkpoint:
    model = MoeModel(CPU_TINY, seed=9)
    model.routers()[0].bias_E += 0.25
    return Checkpoint(model, CPU_TINY, tokenizer, "python-stdlib", "ab" * 32)


def test_round_trip(tokenizer: Tokenizer, tmp_path: Path) -> None:
    original = trained(tokenizer)
    path = tmp_path / "model.pt"
    checkpoints.save(path, original)
    loaded = checkpoints.load(path)
    ids = torch.randint(512, (2, 12))
    with torch.inference_mode():
        assert torch.equal(loaded.model(ids), original.model(ids))
    assert loaded.model.routers()[0].bias_E.tolist() == pytest.approx([0.25] * 16)
    assert loaded.tokenizer.to_str() == tokenizer.to_str()
    assert (loaded.shape, loaded.data, loaded.data_sha256) == (CPU_TINY, "python-stdlib", "ab" * 32)
    assert list(tmp_path.iterdir()) == [path]


def test_further_heads_come_back_too(tokenizer: Tokenizer, tmp_path: Path) -> None:
    prediction = MultiTokenPrediction(CPU_TINY, depths=2, seed=4)
    checkpoints.save(tmp_path / "model.pt", replace(trained(tokenizer), prediction=prediction))
    loaded = checkpoints.load(tmp_path / "model.pt").prediction
    assert loaded is not None
    for name, tensor in prediction.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "other", "absent", "folder"])
def test_what_is_not_a_checkpoint_is_refused(damage: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    checkpoints.save(path, trained(tokenizer))
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:10_000])
        case "text":
            path.write_text("{}")
        case "empty":
            path.write_bytes(b"")
        case "other":
            torch.save([1, 2, 3], path)
        case "absent":
            path.unlink()
        case "folder":
            path = tmp_path
    with pytest.raises(InvalidFile, match=str(path)):
        checkpoints.load(path)


def write_half(path: Path) -> None:
    with whole_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_that_cannot_be_written_are_told_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "facts.json")
    for path in (tmp_path, tmp_path / "absent" / "facts.json"):
        with pytest.raises(NotWritable, match=str(path)):
            require_writable(path)
        with pytest.raises(NotWritable), whole_file(path) as temporary:
            temporary.write_text("{}")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tokenizers import Tokenizer, models
from tokenstone.errors import NotWritable
from tokenstone.model import CPU_TINY
from workloads import checkpoint
from workloads.moe.model import MoeModel

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
content = checkpoint.Checkpoint(MoeModel(CPU_TINY), CPU_TINY, Tokenizer(models.BPE()), "python-stdlib", "")
try:
    checkpoint.save(Path(sys.argv[1]), content)
except NotWritable as error:
    print(error)
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []
