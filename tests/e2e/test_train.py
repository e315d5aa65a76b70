"""`tokenstone train` for real: torchrun, two ranks, the service behind it, and a rank that dies."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
from e2e_support import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(tmp_path) -> list[str]:
    text = tmp_path / "text.txt"
    text.write_text(Path(json.__file__).read_text() * 3)
    return ["train", "--preset", "cpu-tiny", "--nproc", "2", "--text", str(text), "--data", str(tmp_path)]


def test_two_ranks_end_in_a_balanced_ledger_here_and_in_another_service(marked, tiny, tmp_path):
    result = marked.run(*tiny, "--steps", "4", "--price-per-device-hour", "1", "--json")
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
    # The spec and the facts that a launcher's processes leave are the same two files.
    files = [str(tmp_path / f"train-{name}.json") for name in ("spec", "facts")]
    with marked.start("serve", "--port", "0", "--json", "--data", str(tmp_path / "other")) as service:
        url = json.loads(service.stdout.readline())["url"]
        submitted = [marked.run("submit", *files, "--api", url, "--json") for _ in range(2)]
        service.terminate()
    assert submitted[0].returncode == 0, submitted[0].stderr
    theirs, again = (json.loads(done.stdout) for done in submitted)
    assert again["run_id"] == theirs["run_id"]
    assert theirs["ledger_seconds"].keys() != document["ledger_seconds"].keys()  # nobody told the limit of this device
    assert theirs["validity"] == ["unknown_peak"]
    assert (theirs["tokens"], theirs["allocated_seconds"]) == (document["tokens"], document["allocated_seconds"])


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


def test_a_rank_that_dies_fails_the_run_and_leaves_no_process(marked, tiny):
    with marked.start(*tiny, "--steps", "100000") as training:
        assert eventually(lambda: len(ranks_of(marked)) == 2, 90)
        os.kill(ranks_of(marked)[-1], signal.SIGKILL)
        _, err = training.communicate(timeout=120)
        assert training.returncode == 1
        assert err.strip().splitlines()[-1].startswith("tokenstone: train")
    assert eventually(lambda: not marked.alive())


def test_a_killed_training_leaves_no_rank(marked, tiny):
    with marked.start(*tiny, "--steps", "100000") as training:
        assert eventually(lambda: len(ranks_of(marked)) == 2, 90)
        training.kill()
        training.communicate(timeout=60)
    assert eventually(lambda: not marked.alive())
