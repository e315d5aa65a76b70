"""The process entry, as a real process: it works, speaks JSON, and ends when and how it should."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tokenstone.ledger import inference_ledger, training_ledger
from tokenstone.wire import InferenceFacts, TrainingFacts
from workloads.presets import inference_spec, training_spec

ENTRY = [sys.executable, "-P", "-m", "workloads.main"]
DEADLINE_SECONDS = 60


def write_specs(folder: Path) -> tuple[Path, Path]:
    train, infer = folder / "train.json", folder / "infer.json"
    train.write_text(training_spec("cpu-tiny").model_dump_json())
    infer.write_text(inference_spec("cpu-tiny").model_dump_json())
    return train, infer


def run(*arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, events, and what it said on stderr."""
    done = subprocess.run(
        [*ENTRY, *map(str, arguments)], capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.slow
def test_train_then_serve_what_was_trained(tmp_path: Path) -> None:
    train, infer = write_specs(tmp_path)
    facts_path, model = tmp_path / "facts.json", tmp_path / "model.pt"
    launched = time.monotonic()
    code, events, errors = run(
        "train", "--spec", train, "--out", facts_path, "--checkpoint", model, "--threads", 1, "--launched", launched
    )
    assert (code, errors) == (0, "")
    assert [e["name"] for e in events if e["event"] == "phase"] == [
        "import",
        "startup",
        "warm_up",
        "step",
        "checkpoint",
    ]
    last = [e for e in events if e["event"] == "progress"][-1]
    assert (last["done"], last["total"]) == (12, 12)
    assert last["tokens_per_second"] > 0
    assert events[-1] == {"event": "done"}
    trained = TrainingFacts.model_validate_json(facts_path.read_bytes())
    assert training_ledger(trained, 1.0, None).balanced
    assert trained.loss_last == pytest.approx(last["loss"], abs=1e-4)
    # The import of torch is start-up, and no part of the process before the facts is left out.
    assert trained.devices[0].phases[0].duration_seconds > 0.5
    assert trained.allocated_seconds < time.monotonic() - launched

    code, events, errors = run("infer", "--spec", infer, "--out", facts_path, "--checkpoint", model, "--threads", 1)
    assert (code, errors) == (0, "")
    assert [e["name"] for e in events if e["event"] == "phase"] == ["import", "startup", "warm_up", "serve"]
    served = InferenceFacts.model_validate_json(facts_path.read_bytes())
    assert served.provenance["checkpoint"] == "trained"
    assert inference_ledger(served, [False] * 6, None).balanced
    assert sorted(p.name for p in tmp_path.iterdir()) == ["facts.json", "infer.json", "model.pt", "train.json"]


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["train"], 2, "--spec"),
        (["explode"], 2, "explode"),
        (["train", "--spec", "SPEC", "--out", "OUT", "--threads", "many"], 2, "many"),
        (["train", "--spec", "INFER", "--out", "OUT"], 2, "inference"),
        (["train", "--spec", "absent.json", "--out", "OUT"], 2, "No such file"),
        (["train", "--spec", "BROKEN", "--out", "OUT"], 2, "not a workload spec"),
        (["train", "--spec", "SPEC", "--out", "OUT", "--launched", "1e12"], 2, "monotonic"),
        (["train", "--spec", "SPEC", "--out", "/nowhere/facts.json"], 1, "folder"),
        (["train", "--spec", "SPEC", "--out", "OUT", "--checkpoint", "/nowhere/model.pt"], 1, "folder"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(arguments: list[str], code: int, what: str, tmp_path: Path) -> None:
    train, infer = write_specs(tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text('{"kind": "training"}')
    names = {"SPEC": train, "INFER": infer, "OUT": tmp_path / "facts.json", "BROKEN": broken}
    got, events, errors = run(*(names.get(argument, argument) for argument in arguments))
    assert (got, errors) == (code, "")
    assert len(events) == 1
    assert events[0]["event"] == "error"
    assert what in events[0]["what"] + events[0]["where"]
    assert not names["OUT"].exists()


@pytest.mark.slow
def test_a_failure_is_one_line_and_no_facts(short_text: str, tmp_path: Path) -> None:
    spec, out = tmp_path / "spec.json", tmp_path / "facts.json"
    changes = {"learning_rate": 1e30, "data": short_text}
    spec.write_text(training_spec("cpu-tiny").model_copy(update=changes).model_dump_json())
    code, events, errors = run("train", "--spec", spec, "--out", out, "--threads", 1)
    assert (code, errors) == (1, "")
    assert " became nan at step" in events[-1]["what"]
    assert "learning rate" in events[-1]["hint"]
    assert not out.exists()


@contextmanager
def training_process(folder: Path, data: str) -> Iterator[subprocess.Popen[str]]:
    """A training run that would take minutes, once its first steps are done."""
    spec = folder / "spec.json"
    changes = {"steps": 100_000, "data": data}
    spec.write_text(training_spec("cpu-tiny").model_copy(update=changes).model_dump_json())
    arguments = ["train", "--spec", spec, "--out", folder / "facts.json", "--checkpoint", folder / "model.pt"]
    process = subprocess.Popen(
        [*ENTRY, *map(str, arguments), "--threads", "1", "--lifeline"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert any('"progress"' in line for line in process.stdout)
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_quietly(number: signal.Signals, short_text: str, tmp_path: Path) -> None:
    with training_process(tmp_path, short_text) as process:
        process.send_signal(number)
        assert process.wait(DEADLINE_SECONDS) == 128 + number
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


@pytest.mark.slow
def test_closing_the_lifeline_ends_it(short_text: str, tmp_path: Path) -> None:
    with training_process(tmp_path, short_text) as process:
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(DEADLINE_SECONDS) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


WRITER = """
import sys, threading
from pathlib import Path
from workloads import ending
from workloads.files import whole_file

ending.end_on_signals()
with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    threading.Event().wait()
"""


def test_a_signal_in_the_middle_of_writing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            assert len(list(tmp_path.iterdir())) == 1
            process.terminate()
            assert process.wait(DEADLINE_SECONDS) == 143
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []
