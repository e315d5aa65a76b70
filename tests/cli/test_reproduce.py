"""The command that a report prints does the same work: it makes a spec of the same id."""

import shlex

import pytest

from cli import infer_plan
from tokenstone.errors import Conflict
from tokenstone.reproduce import command
from tokenstone.run import InferenceSpec, TrainingSpec
from workloads.presets import training_spec


@pytest.mark.parametrize(
    "options",
    [
        "--preset cpu-tiny",
        "--preset cpu-small --nproc 2 --experts 2 --steps 7 --seed 3 --linear fp8",
        "--preset cpu-small --nproc 4 --pipeline 2 --experts 2 --schedule ZBVZeroBubble --micro-batches 2",
        "--preset cpu-small --nproc 2 --data-parallel fsdp --experts 1 --recompute cheap --combine bf16",
        "--preset cpu-small --nproc 2 --redundant-experts 4 --balancing sequence --balance-alpha 0.0001",
        "--preset cpu-small --nproc 2 --pipeline 2 --schedule DualPipeV --no-overlap --prediction-depths 1",
    ],
)
def test_a_training_is_made_again_by_its_command(options, tokenstone, tmp_path):
    def spec_of(*words: str) -> TrainingSpec:
        code, _, error = tokenstone("train", *words, "--write-spec", str(tmp_path / "spec.json"))
        assert code == 0, error
        return TrainingSpec.model_validate_json((tmp_path / "spec.json").read_text())

    wanted = spec_of(*options.split())
    line, missing = command(wanted)
    assert missing == ""
    program, part, *words = shlex.split(line)
    assert (program, part) == ("tokenstone", "train")
    assert spec_of(*words).spec_id == wanted.spec_id


@pytest.mark.parametrize(
    "options",
    [
        "--preset cpu-tiny",
        "--preset cpu-tiny --requests 9 --input-tokens 30 --output-tokens 8 --rate 3 --slo ttft=500ms,e2e=2s",
        "--preset cpu-tiny --rate 3 --burstiness 0.5 --shared-prefix 8 --prefix-groups 2 --turns 2 --seed 4",
        "--preset cpu-tiny --concurrency 3 --max-batch 2 --temperature 0.5",
    ],
)
def test_a_serving_is_made_again_by_its_command(options, tokenstone, monkeypatch):
    made: list[InferenceSpec] = []
    make = infer_plan.make_spec

    def caught(wanted):
        made.append(make(wanted))
        raise Conflict("enough is known")

    monkeypatch.setattr(infer_plan, "make_spec", caught)
    tokenstone("infer", *options.split())
    line, missing = command(made[0])
    assert missing == ""
    tokenstone(*shlex.split(line)[1:])
    assert made[1].spec_id == made[0].spec_id


def test_what_a_command_cannot_say_is_named():
    spec = training_spec("cpu-tiny").model_copy(update={"data": "/a text", "link_bits_per_second": 5e7})
    line, missing = command(spec)
    assert "--text '/a text'" in line
    assert "the text itself" in missing
    assert "50 Mbit/s" in missing
