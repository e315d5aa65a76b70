"""A whole serving run by its process entry: the engine in one process, the load in another, facts that add up."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from e2e_support import eventually

from tokenstone.errors import InvalidValue
from tokenstone.flops import inference_work
from tokenstone.ledger import inference_ledger
from tokenstone.model import CPU_TINY
from tokenstone.run import Traffic
from tokenstone.wire import InferenceFacts
from workloads import checkpoint as checkpoints
from workloads.checkpoint import Checkpoint
from workloads.moe.model import MoeModel
from workloads.presets import inference_spec
from workloads.serving.model import load_served

pytestmark = pytest.mark.slow
SPEC = inference_spec("cpu-tiny")


def run(folder, spec, *arguments):
    """(exit code, events, facts or None)."""
    path, out = folder / "spec.json", folder / "facts.json"
    path.write_text(spec.model_dump_json())
    command = [sys.executable, "-P", "-m", "workloads.main", "infer", "--spec", str(path), "--out", str(out)]
    command += ["--threads", "1", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, events, InferenceFacts.model_validate_json(out.read_bytes()) if out.exists() else None


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    code, events, found = run(tmp_path_factory.mktemp("run"), SPEC)
    assert code == 0
    assert [e["name"] for e in events if e["event"] == "phase"] == ["import", "startup", "warm_up", "serve"]
    return found


def test_iterations_divide_into_their_parts_and_do_not_overlap(facts):
    it = facts.iterations
    position = facts.startup_seconds
    for start, duration, model, communication, host in zip(
        it.start_seconds, it.duration_seconds, it.model_seconds, it.communication_seconds, it.host_seconds, strict=True
    ):
        assert start >= position
        assert min(model, host) > 0
        assert model + communication + host == pytest.approx(duration, abs=1e-9)
        position = start + duration
    assert position <= facts.allocated_seconds
    assert inference_ledger(facts, [False] * SPEC.requests, None).balanced


def test_every_token_is_counted_once(facts):
    it, rq = facts.iterations, facts.requests
    computed = [0] * SPEC.requests
    for members, tokens in zip(it.requests, it.request_tokens, strict=True):
        for request, count in zip(members, tokens, strict=True):
            computed[request] += count
    # The prefill yields the first word of the answer.
    assert computed == [SPEC.input_tokens + SPEC.output_tokens - 1] * SPEC.requests
    assert rq.input_tokens == [SPEC.input_tokens] * SPEC.requests
    assert rq.output_tokens == [SPEC.output_tokens] * SPEC.requests
    assert facts.provenance["tokens_counted_by"] == f"usage {SPEC.requests}"


def test_work_is_counted_from_what_was_asked(facts):
    least = inference_work(CPU_TINY, dtype="fp32", prefill=[(16, 0)])
    assert sum(facts.iterations.flops) > SPEC.requests * least.flops
    assert facts.iterations.prefill_flops[0] == facts.iterations.flops[0] >= least.flops


def test_every_request_comes_before_its_tokens(facts):
    rq = facts.requests
    for arrival, first, end in zip(rq.arrival_seconds, rq.first_token_seconds, rq.end_seconds, strict=True):
        assert facts.startup_seconds <= arrival < first < end <= facts.allocated_seconds
    assert sum(facts.inter_token.buckets.values()) == SPEC.requests * (SPEC.output_tokens - 1)
    assert facts.provenance["checkpoint"] == "untrained"


def test_a_trained_model_prefixes_and_turns(tmp_path, tokenizer, facts):
    path = tmp_path / "model.pt"
    sha = facts.provenance["data_sha256"]
    checkpoints.save(path, Checkpoint(MoeModel(CPU_TINY, seed=5), CPU_TINY, tokenizer, "python-stdlib", sha))
    traffic = Traffic(concurrency=1, shared_prefix_tokens=32, turns=2)
    spec = SPEC.model_copy(update={"traffic": traffic, "input_tokens": 40, "requests": 4})
    code, _, found = run(tmp_path, spec, "--checkpoint", path)
    assert code == 0
    assert found.provenance["checkpoint"] == "trained"
    rq = found.requests
    assert rq.input_tokens == [40, 40 + 8 + 40] * 2  # the second turn sends prompt and answer of the first
    assert rq.cached_input_tokens[0] == 0
    assert rq.cached_input_tokens[2] == 32
    assert rq.cached_input_tokens[1] >= 32


def test_a_checkpoint_of_another_model_is_refused(tmp_path, tokenizer):
    path = tmp_path / "model.pt"
    checkpoints.save(path, Checkpoint(MoeModel(CPU_TINY, seed=5), CPU_TINY, tokenizer, "python-stdlib", "0"))
    with pytest.raises(InvalidValue, match="cpu-tiny, another was asked for"):
        load_served(CPU_TINY.model_copy(update={"name": "another", "layers": 3}), path, seed=0)


def test_no_engine_outlives_its_load(tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(SPEC.model_copy(update={"requests": 100_000}).model_dump_json())
    command = [sys.executable, "-P", "-m", "workloads.main", "infer", "--spec", str(path), "--out", str(tmp_path / "f")]
    marked = os.environ | {"TOKENSTONE_TEST_MARK": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=marked) as load:
        for line in load.stdout:
            if json.loads(line).get("name") == "startup":  # the engine is there and says so
                break
        load.kill()
    assert eventually(lambda: not any(str(tmp_path) in environment for environment in _environments()))


def _environments():
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield (folder / "environ").read_text(errors="replace")
