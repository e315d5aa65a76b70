"""`tokenstone infer` for real: the engine behind HTTP, endpoints of others, and endpoints that fail."""

import json
import math
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tokenstone.errors import UsageError

pytestmark = pytest.mark.slow

DISTRIBUTION = {"count", "mean", "p50", "p90", "p95", "p99"}


@contextmanager
def scripted(*script):
    """A scripted endpoint in a process of its own."""
    command = [sys.executable, "-m", "workloads.load.scripted", json.dumps(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield json.loads(process.stdout.readline())["url"]
        process.stdin.close()


def document(marked, *arguments, code=0):
    result = marked.run("infer", *arguments, "--json")
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout), result.stderr


def test_the_reference_engine_ends_in_a_balanced_ledger_and_a_bill(marked, tmp_path):
    found, _ = document(
        marked, "--preset", "cpu-tiny", "--requests", "12", "--rate", "40", "--data", str(tmp_path), "--threads", "1",
        "--price-per-device-hour", "2",
    )  # fmt: skip
    assert {"run_id", "requests", "errors", "input_tokens", "output_tokens", "output_tokens_per_second",
            "goodput_requests_per_second", "goodput_ratio", "validity"} <= found.keys()  # fmt: skip
    for name in ("ttft_seconds", "tpot_seconds", "itl_seconds", "e2e_seconds"):
        assert found[name].keys() == DISTRIBUTION
        assert 0 < found[name]["p50"] <= found[name]["p99"]
    assert (found["requests"], found["errors"]) == (12, 0)
    assert (found["input_tokens"], found["output_tokens"]) == (12 * 16, 12 * 8)
    assert found["state"] == "complete"
    assert set(found["validity"]) <= {"valid", "client_saturated"}  # the latter on a machine with much else to do
    total = math.fsum(found["ledger_seconds"].values()) + found["residual_seconds"]
    assert total == pytest.approx(found["allocated_seconds"])
    assert found["ledger_seconds"]["ideal"] > 0
    usd = found["usd_per_million_input_tokens"] * 192 / 1e6 + found["usd_per_million_output_tokens"] * 96 / 1e6
    assert usd == pytest.approx(found["allocated_seconds"] / 3600 * 2)
    assert "TTFT" in found["definitions"]
    assert found["absent"] == {"joules_per_token": "no energy counter on every device of the run"}
    page = Path(found["report_path"]).read_text()
    assert "40 a second (Poisson)" in page
    assert "ITL" in page


def test_an_endpoint_s_scripted_latencies_and_its_cost(marked, tmp_path):
    with scripted({"ttft_seconds": 0.15, "gap_seconds": 0.03}) as url:
        found, _ = document(
            marked, "--endpoint", url, "--model", "scripted", "--requests", "20", "--rate", "40", "--output-tokens",
            "5", "--data", str(tmp_path), "--devices", "4", "--hardware", "h100-sxm", "--price-per-device-hour", "2",
            "--slo", "ttft=1s,tpot=1s",
        )  # fmt: skip
    # Never less than the script; how little more on a quiet machine is measured by bench/loadgen.py.
    assert 0.149 < found["ttft_seconds"]["p50"] < 0.3
    assert 0.029 < found["tpot_seconds"]["p50"] < 0.06
    assert found["goodput_ratio"] == 1
    assert "no_iterations" in found["validity"]
    assert found["score"] is None
    assert found["absent"]["score"]
    assert found["residual_seconds"] == pytest.approx(0, abs=1e-9)
    assert found["ledger_seconds"]["compute"] > 0
    usd = found["usd_per_million_tokens"] * found["tokens"] / 1e6
    assert usd == pytest.approx(found["allocated_seconds"] / 3600 * 2)


def test_without_devices_there_is_no_cost_and_without_an_objective_no_goodput(marked, tmp_path):
    with scripted({"gap_seconds": 0.01}, {"status": 500, "message": "broken"}) as url:
        trace = tmp_path / "trace.jsonl"
        line = '{"arrival_seconds": %s, "input_tokens": 5, "output_tokens": 3}\n'
        trace.write_text("".join(line % (i / 20) for i in range(6)) + "bad\n")
        found, _ = document(
            marked, "--endpoint", f"{url}/v1", "--model", "scripted", "--trace", str(trace), "--data", str(tmp_path),
            "--price-per-device-hour", "2",
        )  # fmt: skip
    assert (found["requests"], found["errors"], found["errors_by_kind"]) == (6, 3, {"server_error": 3})
    assert "devices_unknown" in found["validity"]
    for name in ("usd_per_million_tokens", "device_seconds_per_million_tokens", "goodput_ratio"):
        assert found[name] is None
        assert found["absent"][name]
    assert found["provenance"]["trace_bad_lines"].startswith("1: line 7")
    assert "broken" in found["provenance"]["error_server_error"]


def test_an_endpoint_that_is_down_is_reported_and_fails(marked, tmp_path):
    found, _ = document(
        marked, "--endpoint", "http://127.0.0.1:9", "--model", "m", "--requests", "3", "--data", str(tmp_path),
        "--slo", "mlperf-r1", code=1,
    )  # fmt: skip
    assert found["errors_by_kind"] == {"connect": 3}
    assert found["ttft_seconds"] is None
    assert found["goodput_ratio"] == 0
    assert "no_tokens" in found["validity"]
    assert Path(found["report_path"]).exists()


def test_a_sweep_finds_the_frontier_and_draws_it(marked, tmp_path):
    with scripted({"ttft_seconds": 0.02, "gap_seconds": 0.01}) as url:
        result = marked.run(
            "infer", "--sweep", "--endpoint", url, "--model", "scripted", "--requests", "8", "--output-tokens", "4",
            "--concurrency", "2", "--slo", "ttft=1ms", "--devices", "1", "--data", str(tmp_path), "--json",
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    closed = [point for point in found["points"] if point["concurrency"]]
    assert [point["concurrency"] for point in closed] == [1, 2]
    assert closed[1]["output_tokens_per_second_per_device"] > 1.5 * closed[0]["output_tokens_per_second_per_device"]
    assert closed[0]["interactivity"] == pytest.approx(100, rel=0.3)
    # No rate can meet it: each try halves the rate before.
    rates = [point["rate"] for point in found["points"] if point["rate"]]
    assert found["highest_rate_within_objective"] is None
    assert rates == [pytest.approx(rates[0] / 2**i) for i in range(len(rates))]
    picture = Path(found["picture_path"]).read_text()
    assert picture.startswith("<svg")
    assert "http" not in picture.replace('xmlns="http://www.w3.org/2000/svg"', "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--endpoint", "http://x"], "--model"),
        (["--endpoint", "nonsense", "--model", "m"], "nonsense"),
        (["--endpoint", "http://user:pass@x", "--model", "m"], "TOKENSTONE_ENDPOINT_API_KEY"),
        (["--model", "m"], "--endpoint"),
        (["--rate", "2", "--concurrency", "3"], "contradict"),
        (["--rate", "-1"], "--rate"),
        (["--burstiness", "0.5"], "--rate"),
        (["--slo", "ttft=2"], "ttft=2s"),
        (["--slo", "mlperf-r2"], "mlperf-r1"),
        (["--traffic", "chatt"], "chat"),
        (["--traffic", "chat", "--input-tokens", "5"], "--scale"),
        (["--trace", "missing.jsonl"], "missing.jsonl"),
        (["--preset", "cpu-huge"], "cpu-small"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(tmp_path, arguments, says):
    result = CliRunner().invoke(app, ["infer", *arguments, "--data", str(tmp_path / "data")])
    assert isinstance(result.exception, UsageError)
    assert says in str(result.exception)
    assert not (tmp_path / "data" / "tokenstone.db").exists()
