"""`tokenstone train` for real: torchrun, two ranks, the service behind it, and a rank that dies."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
from e2e_support import eventually

pytestmark = pytest.mark.slow

TINY = ["train", "--preset", "cpu-tiny", "--nproc", "2"]


def test_two_ranks_end_in_a_balanced_ledger(marked, tmp_path):
    result = marked.run(*TINY, "--steps", "4", "--data", str(tmp_path), "--price-per-device-hour", "1", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert {
        "run_id", "tokens", "tokens_per_second", "loss_first", "loss_last", "model_flops_per_second",
        "measured_peak_flops_per_second", "ledger_seconds", "allocated_seconds", "residual_seconds",
        "exposed_communication_ratio", "bubble_ratio", "max_violation",
    } <= document.keys()  # fmt: skip
    assert document["state"] == "complete"
    assert document["validity"] == ["valid"]
    total = math.fsum(document["ledger_seconds"].values()) + document["residual_seconds"]
    assert total == pytest.approx(document["allocated_seconds"])
    assert 0 < document["exposed_communication_ratio"] < 1
    assert document["usd_per_million_tokens"] > 0
    assert "experts 2" in document["provenance"]["layout"]
    assert Path(document["report_path"]).exists()


def ranks_of(marked) -> list[int]:
    """Process ids of the ranks: marked, and told their rank by torchrun."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if marked.mark.encode() in environment and b"\0LOCAL_RANK=" in environment:
            found.append(int(folder.name))
    return found


def test_a_rank_that_dies_fails_the_run_and_leaves_no_process(marked, tmp_path):
    with marked.start(*TINY, "--steps", "100000", "--data", str(tmp_path)) as training:
        assert eventually(lambda: len(ranks_of(marked)) == 2, 90)
        os.kill(ranks_of(marked)[-1], signal.SIGKILL)
        _, err = training.communicate(timeout=120)
        assert training.returncode == 1
        assert err.strip().splitlines()[-1].startswith("tokenstone: train")
    assert eventually(lambda: not marked.alive())


def test_a_killed_training_leaves_no_rank(marked, tmp_path):
    with marked.start(*TINY, "--steps", "100000", "--data", str(tmp_path)) as training:
        assert eventually(lambda: len(ranks_of(marked)) == 2, 90)
        training.kill()
        training.communicate(timeout=60)
    assert eventually(lambda: not marked.alive())
