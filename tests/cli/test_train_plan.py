"""What `tokenstone train` takes and refuses, before anything is started."""

import json

import pytest


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
    assert alone["memory_bytes_per_device"] == 8_470_528 * 16
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


def test_what_cannot_fit_is_refused(monkeypatch):
    from cli.train_plan import check_memory, demands, make_spec  # noqa: PLC0415
    from tokenstone.errors import InvalidValue  # noqa: PLC0415
    from tokenstone.model import DEEPSEEK_V3  # noqa: PLC0415

    base = dict.fromkeys(("steps", "seed", "bias_update_rate", "text", "experts", "micro_batches"))
    small = make_spec(preset="cpu-small", nproc=1, pipeline=1, schedule="1F1B", overlap=True, **base)
    check_memory(demands(small), "h100-sxm")
    with pytest.raises(InvalidValue, match=r"do not fit in the 80.0 GB of a h100-sxm"):
        check_memory(demands(small.model_copy(update={"model": DEEPSEEK_V3})), "h100-sxm")
    with pytest.raises(InvalidValue, match="this host"):
        check_memory(demands(small.model_copy(update={"model": DEEPSEEK_V3})), None)
