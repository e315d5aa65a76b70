"""What `tokenstone train` takes and refuses, before anything is started."""

import json
from pathlib import Path

import pytest
import torch

from cli import train_demands
from cli.launch import Launch, require_no_launcher
from cli.train_demands import demands
from cli.train_plan import make_spec
from tokenstone.errors import InvalidValue, UsageError
from tokenstone.run import TrainingSpec
from workloads.moe.model import MoeModel
from workloads.presets import TRAINING
from workloads.training.parallel.schedules import schedule_kind
from workloads.training.parallel.stages import cut


@pytest.fixture
def dry_run(tokenstone):
    """`tokenstone train --dry-run` with these arguments: (exit code, stdout, stderr)."""
    return lambda *arguments: tokenstone("train", "--dry-run", *arguments)


@pytest.fixture
def weighed(dry_run):
    def call(*arguments: str):
        code, out, err = dry_run(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return call


def test_one_rank_holds_all_and_sends_nothing(weighed):
    alone = weighed("--preset", "cpu-small")
    assert alone["parameters_per_device"] == alone["parameters_total"] == 8_470_528
    assert alone["state_bytes_per_device"] == 8_470_528 * 16
    assert alone["memory_bytes_per_device"] == alone["state_bytes_per_device"] + alone["activation_bytes_per_device"]
    assert alone["expert_exchange_bytes_per_step"] == alone["pipeline_bytes_per_step"] == 0
    assert alone["gradient_bytes_per_step"] == 0


def test_two_expert_ranks_share_the_experts(weighed):
    shared = weighed("--preset", "cpu-small", "--nproc", "2")
    assert shared["parameters_per_device"] == 8_470_528 - 6_291_456 // 2
    # 512 tokens a rank, 2 experts each, 4 layers; half of the rows leave; 256 fp32 values; out and home, twice.
    assert shared["expert_exchange_bytes_per_step"] == 512 * 2 * 4 // 2 * 256 * 4 * 4


def test_fp8_dispatch_sends_about_a_quarter_on_the_way_out(weighed):
    options = ("--preset", "cpu-small", "--nproc", "2", "--combine", "bf16")
    plain, coded = weighed(*options), weighed(*options, "--dispatch", "fp8")
    saved = plain["expert_exchange_bytes_per_step"] - coded["expert_exchange_bytes_per_step"]
    rows = 512 * 2 * 4 // 2
    assert saved == 2 * rows * (4 * 256 - (256 + 2 * 4))  # one fp32 scale per 128 values


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--preset", "cpu-huge"], "cpu-small"),
        (["--nproc", "3"], "3 ranks"),
        (["--nproc", "4", "--pipeline", "3"], "3 pipeline ranks"),
        (["--nproc", "4", "--experts", "3"], "--experts"),
        (["--nproc", "2", "--pipeline", "2", "--schedule", "DualPipeV", "--micro-batches", "2"], "4 micro-batches"),
        (["--nproc", "2", "--pipeline", "2", "--schedule", "Interleaved1F1B", "--micro-batches", "1"], "rounds of 2"),
        (["--preset", "cpu-tiny", "--nproc", "2", "--pipeline", "2", "--schedule", "ZBVZeroBubble"], "2 layers"),
        (["--nproc", "2", "--micro-batches", "4"], "--micro-batches"),
        (["--nproc", "2", "--pipeline", "2", "--data-parallel", "fsdp"], "--data-parallel"),
        (["--nproc", "2", "--redundant-experts", "3"], "--redundant-experts"),
        (["--redundant-experts", "2"], "--redundant-experts"),
        (["--balancing", "sequence"], "--balance-alpha"),
        (["--text", "no-such-file.txt"], "no-such-file.txt"),
        (["--schedule", "GPipe"], "--schedule"),
        (["--steps", "0"], "--steps"),
        (["--hardware", "h100"], "h100-sxm"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(dry_run, arguments, says):
    code, out, err = dry_run(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_every_preset_is_weighed_and_what_cannot_fit_is_refused(dry_run):
    fits = {}
    for preset in TRAINING:
        code, out, err = dry_run("--preset", preset, "--hardware", "h100-sxm", "--json")
        weighed = json.loads(out)  # printed even where it does not fit
        assert weighed["ranks"] == TRAINING[preset].layout.ranks
        fits[preset] = code == 0
        assert fits[preset] == (weighed["memory_bytes_per_device"] <= 80e9)
        if not fits[preset]:
            assert code == 2
            assert "do not fit in the 80.0 GB of a h100-sxm" in err
            assert err.count("\n") == 1
    assert fits == {
        "cpu-tiny": True, "cpu-small": True, "gpu-1": False, "gpu-1-80gb": True, "gpu-8": True, "deepseek-v3": False,
    }  # fmt: skip


def test_without_an_accelerator_what_the_host_cannot_hold_is_refused(dry_run, monkeypatch):
    monkeypatch.setattr(train_demands, "_accelerator_memory", lambda: (None, ""))
    code, _, err = dry_run("--preset", "deepseek-v3")
    assert code == 2
    assert "of this host" in err


def test_deepseek_v3_is_weighed_as_published(weighed):
    document = weighed("--preset", "deepseek-v3", "--hardware", "h200-sxm")
    assert document["parameters_total"] == pytest.approx(671.0e9, rel=1e-3)
    assert document["parameters_active"] == pytest.approx(36.5e9, rel=1e-2)
    assert document["flops_per_token"] == pytest.approx(249.8e9, rel=1e-3)
    assert document["tokens_per_step"] == 15360 * 4096


@pytest.mark.parametrize("schedule", ["1F1B", "Interleaved1F1B", "ZBVZeroBubble", "DualPipeV"])
def test_the_fullest_device_holds_what_the_workload_would_give_it(schedule):
    """Against the stages and experts that the workload cuts, with real modules on the meta device."""
    spec = make_spec(preset="cpu-small", nproc=4, pipeline=2, schedule=schedule, micro_batches=4, batch_sequences=8)
    with torch.device("meta"):
        model = MoeModel(spec.model)
    count = 2 if schedule == "1F1B" else 4
    held = []
    for rank in range(2):
        parameters = 0
        for stage in schedule_kind(schedule).stages_of(rank, 2):
            for name, parameter in cut(model, stage, count).named_parameters():
                if parameter.ndim > 1:  # norms' gains are not counted
                    parameters += parameter.numel() // (2 if ".routed." in name else 1)
        held.append(parameters)
    assert demands(spec).parameters_per_device == max(held)


def test_recomputation_saves_activations_and_micro_batches_divide_them():
    def activations(**changes):
        return demands(make_spec(preset="gpu-1-80gb", **changes)).activation_bytes_per_device

    assert activations(recompute="none") > activations(recompute="cheap") > activations(recompute="blocks")
    assert activations(micro_batches=2) == activations() / 2


def test_a_preset_keeps_its_layout_unless_asked(monkeypatch):
    assert make_spec(preset="gpu-8") == TRAINING["gpu-8"]
    four = make_spec(preset="gpu-8", nproc=4)
    assert (four.layout.experts, four.layout.schedule) == (4, "DualPipeV")
    assert make_spec(preset="gpu-1", nproc=8).layout.experts == 8
    assert make_spec(preset="gpu-8", linear_precision=None).dispatch_precision == "fp8"


def launch(**changes):
    given = {"every": None, "folder": None, "resume": False, "max_restarts": 0}
    return Launch.of(
        TRAINING["cpu-tiny"], data=Path("data"), collective_timeout=300, profile_steps=0, **(given | changes)
    )


def test_checkpoints_are_kept_apart_by_spec_and_only_where_wanted():
    assert "--checkpoint-folder" not in launch().arguments
    arguments = launch(every=10, max_restarts=2).arguments
    assert str(Path("data/checkpoints").absolute() / TRAINING["cpu-tiny"].spec_id) in arguments
    assert launch(resume=True).arguments[-1] == "--resume"
    with pytest.raises(InvalidValue, match="--checkpoint-folder"):
        launch(folder=Path("somewhere"))


@pytest.mark.parametrize(
    ("environment", "says"),
    [({"RANK": "0", "WORLD_SIZE": "4"}, "WORLD_SIZE"), ({"SLURM_PROCID": "1", "SLURM_NTASKS": "8"}, "SLURM_NTASKS")],
)
def test_started_by_a_launcher_the_command_says_what_to_start_instead(environment, says):
    with pytest.raises(UsageError, match=says) as refusal:
        require_no_launcher(environment)
    assert "workloads.main" in refusal.value.hint
    require_no_launcher({"RANK": "0", "WORLD_SIZE": "1"})
    require_no_launcher({})


def test_a_launcher_on_many_nodes_gets_its_spec_as_a_file(tokenstone, tmp_path):
    path = tmp_path / "spec.json"
    assert tokenstone("train", "--preset", "deepseek-v3", "--write-spec", str(path)) == (0, "", "")
    assert TrainingSpec.model_validate_json(path.read_bytes()) == TRAINING["deepseek-v3"]
    code, _, err = tokenstone("train", "--write-spec", str(tmp_path / "nowhere" / "spec.json"))
    assert code == 1
    assert "nowhere" in err


def test_layers_and_sequences_make_room_for_a_layout() -> None:
    asked = {"preset": "cpu-tiny", "nproc": 4, "experts": 2, "pipeline": 2, "schedule": "DualPipeV", "micro_batches": 4}
    with pytest.raises(InvalidValue, match="--batch-sequences"):
        make_spec(**asked)
    spec = make_spec(**asked, layers=4, batch_sequences=8)
    assert (spec.model.layers, spec.batch_sequences) == (4, 8)
    assert spec.model.name != make_spec(preset="cpu-tiny").model.name
