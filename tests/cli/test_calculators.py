"""The calculators, as a script would call them: keys, figures, errors, exit codes."""

import json
import subprocess
import sys

import pytest

H800 = ["--model", "deepseek-v3", "--hardware", "h800-sxm", "--devices", "2048", "--seq", "4096", "--dtype", "bf16"]


@pytest.fixture
def document(tokenstone):
    def call(*arguments: str):
        code, out, err = tokenstone(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return call


@pytest.mark.parametrize(("attention", "gflops"), [("full", "280.51"), ("causal", "249.81")])
def test_flops(document, attention, gflops):
    result = document("calc", "flops", "--model", "deepseek-v3", "--seq", "4096", "--attention", attention)
    assert f"{result['flops_per_token'] / 1e9:.2f}" == gflops
    assert f"{result['parameters_total'] / 1e9:.3f}" == "671.025"
    assert f"{result['parameters_active'] / 1e9:.3f}" == "36.518"
    assert attention in result["convention"]


@pytest.mark.parametrize(("attention", "percent"), [("full", "43.73"), ("causal", "38.94")])
@pytest.mark.parametrize("rate", [("--tokens-per-day", "272.80e9"), ("--tokens-per-second", str(272.80e9 / 86400))])
def test_mfu(document, attention, percent, rate):
    result = document("calc", "mfu", *H800, *rate, "--attention", attention)
    assert f"{100 * result['mfu_ratio']:.2f}" == percent
    assert result["peak_flops_per_second"] == 989e12
    assert result["flops_per_second_per_device"] == pytest.approx(result["mfu_ratio"] * 989e12)


def test_kv(document):
    assert document("calc", "kv", "--model", "deepseek-v3", "--dtype", "bf16")["kv_bytes_per_token"] == 70272


def test_training_cost(document):
    result = document(
        "calc", "cost", "--devices", "1", "--hours", "2788e3", "--price-per-device-hour", "2",
        "--training-tokens", "14.8e12",
    )  # fmt: skip
    assert result["cost_usd"] == pytest.approx(5.576e6)
    assert result["usd_per_million_tokens"] == pytest.approx(5.576e6 / 14.8e6)


SERVING = ["calc", "cost", "--devices", "1814", "--hours", "24", "--price-per-device-hour", "2",
           "--input-tokens", "608e9", "--cached-input-tokens", "342e9", "--output-tokens", "168e9"]  # fmt: skip


def test_serving_cost_with_the_split_stated(document):
    result = document(*SERVING, "--prefill-share", "0.25")
    assert f"{result['cost_usd']:,.0f}" == "87,072"
    assert result["usd_per_million_input_tokens"] == pytest.approx(0.25 * 87072 / 608e3)
    assert result["usd_per_million_uncached_input_tokens"] == pytest.approx(0.25 * 87072 / 266e3)
    assert result["usd_per_million_output_tokens"] == pytest.approx(0.75 * 87072 / 168e3)
    assert "25.0%" in result["split"]


def test_serving_cost_without_a_split_has_no_split_prices(document):
    result = document(*SERVING)
    assert result["usd_per_million_tokens"] == pytest.approx(87072 / 776e3)
    assert result["usd_per_million_input_tokens"] is None
    assert "--prefill-share" in result["split"]


def test_all_hardware_has_its_provenance(document):
    accelerators = document("hardware")
    assert len(accelerators) == 11
    for accelerator in accelerators:
        for figure in accelerator["figures"]:
            assert {"dtype", "dense", "scope", "source", "date", "verified"} <= figure.keys()
    h800 = document("hardware", "h800-sxm")
    unverified = {figure["quantity"] for figure in h800["figures"] if not figure["verified"]}
    assert unverified == {"memory_bytes", "memory_bytes_per_second", "power_watts"}


def test_metrics_are_listed(document):
    metrics = {metric["name"]: metric for metric in document("metrics")}
    assert metrics["accel_energy_joules_total"]["kind"] == "counter"
    assert all(metric["help"] and metric["unit"] for metric in metrics.values())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["calc", "flops", "--model", "deepseek-v9"], "deepseek-v3"),
        (["calc", "flops", "--model", "deepseek-v3", "--seq", "0"], "--seq"),
        (["calc", "flops", "--model", "deepseek-v3", "--seq", "-4096"], "--seq"),
        (["calc", "flops", "--model", "missing/config.json"], "missing/config.json"),
        (["calc", "mfu", *H800[:2], "--hardware", "h100", "--devices", "8", "--tokens-per-second", "1"], "h100-sxm"),
        (["calc", "mfu", *H800[:6], "--dtype", "fp4", "--tokens-per-second", "1"], "fp4"),
        (["calc", "mfu", *H800[:6], "--dtype", "float99", "--tokens-per-second", "1"], "float99"),
        (["calc", "mfu", *H800], "--tokens-per-day"),
        (["calc", "mfu", *H800, "--tokens-per-second", "1", "--tokens-per-day", "1"], "--tokens-per-day"),
        (["calc", "mfu", *H800, "--tokens-per-second", "-5"], "--tokens-per-second"),
        (["calc", "mfu", *H800, "--tokens-per-second", "1e12"], "check the rate"),
        (["calc", "kv", "--model", "deepseek-v3", "--dtype", "bf17"], "bf16"),
        (["calc", "cost", "--devices", "-1", "--hours", "1", "--price-per-device-hour", "1"], "--devices"),
        (["calc", "cost", "--devices", "1", "--hours", "inf", "--price-per-device-hour", "1"], "--hours"),
        (
            ["calc", "cost", "--devices", "1", "--hours", "1", "--price-per-device-hour", "-1"],
            "--price-per-device-hour",
        ),
        ([*SERVING, "--prefill-share", "1.5"], "--prefill-share"),
        ([*SERVING, "--training-tokens", "5"], "--training-tokens"),
        ([*SERVING[:8], "--training-tokens", "0"], "--training-tokens"),
        ([*SERVING[:8], "--training-tokens", "1.5"], "whole"),
        ([*SERVING[:8], "--input-tokens", "1", "--cached-input-tokens", "2"], "--cached-input-tokens"),
        ([*SERVING[:8], "--prefill-share", "0.5"], "--input-tokens"),
        (["hardware", "h200"], "h200-sxm"),
        (["frobnicate"], "frobnicate"),
        (["calc", "flops"], "--model"),
        (["calc", "flops", "--model", "deepseek-v3", "--frob"], "--frob"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(tokenstone, arguments, says):
    code, out, err = tokenstone(*arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert err.startswith("tokenstone: ")
    assert err.count("\n") == 1


def test_a_broken_config_names_file_and_key(tokenstone, tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}')
    code, _, err = tokenstone("calc", "flops", "--model", str(path))
    assert code == 2
    assert str(path) in err
    assert "num_hidden_layers" in err


def test_help_and_calculators_import_nothing_heavy():
    """`--help` answers at once because only the command that runs imports what it needs."""
    heavy = ("torch", "fastapi", "sqlalchemy", "rich", "httpx", "prometheus_client", "pydantic")
    code = (
        "import sys, cli.main\n"
        "from typer.testing import CliRunner\n"
        "loaded = [name for name in sys.argv[1:] if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code, *heavy], check=True)


def test_version(tokenstone):
    code, out, _ = tokenstone("--version")
    assert code == 0
    assert out.startswith("tokenstone 0.")
