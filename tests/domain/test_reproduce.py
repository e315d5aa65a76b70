"""The command in a report does the same work again: it gives the same spec id."""

import shlex
from inspect import signature

import pytest
from typer.testing import CliRunner

from cli import train
from cli.infer_plan import Wanted
from cli.infer_plan import make_spec as infer_spec
from cli.main import app
from cli.train_plan import make_spec as train_spec
from tokenstone.cost import rental
from tokenstone.reproduce import MODELS, reproduction
from tokenstone.run import TrainingSpec
from workloads.presets import INFERENCE, TRAINING

NOTHING = dict.fromkeys(
    ("endpoint", "model", "api", "tokenizer", "devices", "dtype", "rate", "burstiness", "concurrency", "traffic",
     "requests", "input_tokens", "output_tokens", "trace", "slo", "seed", "max_batch"), None,
) | {"scale": 1.0, "shared_prefix": 0, "prefix_groups": 1, "turns": 1, "temperature": 0.0, "request_timeout": 120.0,
     "max_seconds": 3600.0, "preset": "cpu-tiny"}  # fmt: skip


@pytest.mark.parametrize("preset", list(TRAINING))
@pytest.mark.parametrize(
    "changes", [{}, {"seed": 7, "steps": 3, "recompute": "blocks", "simulated_latency_seconds": 0.25, "overlap": False}]
)
def test_a_training_command_gives_the_same_spec(preset, changes, tmp_path):
    spec = train_spec(preset=preset, **changes)
    command = shlex.split(reproduction(spec).command)
    out = tmp_path / "spec.json"
    result = CliRunner().invoke(app, [*command[1:], "--write-spec", str(out)])
    assert result.exit_code == 0, result.output
    assert TrainingSpec.model_validate_json(out.read_text()).spec_id == spec.spec_id
    assert "simulated_latency" not in signature(train.command).parameters  # its option is --simulated-latency


@pytest.mark.parametrize(
    "changes",
    [{}, {"rate": 3.5, "slo": "ttft=2s,tpot=80ms"}, {"rate": 2.0, "burstiness": 0.5, "seed": 3},
     {"concurrency": 2, "shared_prefix": 8, "prefix_groups": 2, "turns": 2, "temperature": 0.7},
     {"traffic": "chat"}, {"endpoint": "http://x/v1", "model": "m|<b>", "input_tokens": 9, "dtype": "fp8"}],
)  # fmt: skip
def test_an_inference_command_gives_the_same_spec(changes, monkeypatch):
    spec = infer_spec(Wanted(**NOTHING | changes))
    told = {}
    monkeypatch.setattr("cli.infer_plan.make_spec", lambda wanted: told.update(spec=infer_spec(wanted)) or told["spec"])
    monkeypatch.setattr("cli.site.make_site", lambda **_: (_ for _ in ()).throw(SystemExit(0)))
    command = shlex.split(reproduction(spec).command.replace("URL", "http://x/v1"))
    CliRunner().invoke(app, command[1:])
    assert told["spec"].spec_id == spec.spec_id


def test_the_price_and_what_a_command_cannot_say_stand_beside_it():
    spec = TRAINING["cpu-tiny"]
    assert reproduction(spec, rental(2.5)).command.endswith("--price-per-device-hour 2.5")
    assert "ablate" in reproduction(spec.model_copy(update={"link_bits_per_second": 1e6})).note
    variant = spec.model_copy(update={"model": spec.model.model_copy(update={"layers": 7})})
    assert (reproduction(variant).command, "variant" in reproduction(variant).note) == (None, True)
    own = spec.model_copy(update={"preset": "my job"})
    assert "its own program" in reproduction(own).note
    assert reproduction(INFERENCE["cpu-tiny"]).command == "tokenstone bench --preset cpu-tiny"
    assert {name: spec.model for name, spec in TRAINING.items()} == MODELS
