"""The whole product on this machine: one command, real processes, real model, real counters."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_support import eventually, read_until

from tokenstone.client import Client

pytestmark = pytest.mark.slow

TINY = ["bench", "--preset", "cpu-tiny"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One priced bench, and a second on the same data without a price."""
    data = tmp_path_factory.mktemp("bench") / "data"
    command = [sys.executable, "-P", "-m", "cli", *TINY, "--data", str(data), "--json"]
    priced = subprocess.run([*command, "--price-per-device-hour", "2"], capture_output=True, text=True, check=False)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert priced.returncode == 0, priced.stderr
    assert again.returncode == 0, again.stderr
    return data, json.loads(priced.stdout), json.loads(again.stdout)


def test_the_document_has_what_others_rely_on(bench):
    _, document, _ = bench
    assert {"score", "usd_per_million_tokens", "device_seconds_per_million_tokens", "training", "inference",
            "bottleneck", "report_path", "validity"} <= document.keys()  # fmt: skip
    assert document["validity"] == ["valid"]
    assert 0 < document["score"] < 100
    for name in ("training", "inference"):
        part = document[name]
        assert part["state"] == "complete"
        assert part["tokens"] > 0
        total = math.fsum(part["ledger_seconds"].values()) + part["residual_seconds"]
        assert total == pytest.approx(part["allocated_seconds"])
        assert abs(part["residual_seconds"]) < 1e-6 * part["allocated_seconds"]
        assert part["ledger_seconds"]["ideal"] > 0
    assert document["training"]["loss_last"] < document["training"]["loss_first"]


def test_the_bill_follows_from_ledger_and_price(bench):
    _, document, _ = bench
    parts = [document["training"], document["inference"]]
    seconds, tokens = (sum(part[key] for part in parts) for key in ("allocated_seconds", "tokens"))
    assert document["device_seconds_per_million_tokens"] == pytest.approx(seconds / tokens * 1e6)
    assert document["usd_per_million_tokens"] == pytest.approx(seconds / 3600 * 2 / tokens * 1e6)
    ideal = sum(part["ledger_seconds"]["ideal"] for part in parts)
    assert document["score"] == pytest.approx(100 * ideal / seconds)
    served = document["inference"]
    usd = served["allocated_seconds"] / 3600 * 2
    input_usd = served["usd_per_million_input_tokens"] * served["input_tokens"] / 1e6
    output_usd = served["usd_per_million_output_tokens"] * served["output_tokens"] / 1e6
    assert input_usd + output_usd == pytest.approx(usd)
    assert "of your $" in document["bottleneck"]["sentence"]


def test_without_a_price_the_bill_is_in_device_seconds(bench):
    _, _, document = bench
    assert document["usd_per_million_tokens"] is None
    assert document["device_seconds_per_million_tokens"] > 0
    assert "device-seconds" in document["bottleneck"]["sentence"]


def test_the_report_is_one_file_that_says_the_score(bench):
    _, _, document = bench
    page = Path(document["report_path"]).read_text()
    assert f"{document['score']:.1f}" in page
    assert "--price-per-device-hour" in page


def test_both_benches_are_in_the_store_with_the_machine_s_windows(bench, marked):
    data, first, second = bench
    with marked.start("serve", "--port", "0", "--data", str(data), "--json") as service:
        url = json.loads(service.stdout.readline())["url"]
        with Client(url) as client:
            runs = {run.run_id: run for run in client.runs()}
            wanted = {document[kind]["run_id"] for document in (first, second) for kind in ("training", "inference")}
            assert wanted == runs.keys()
            assert {run.state for run in runs.values()} == {"complete"}
            assert client.score(first["training"]["run_id"]).score == first["training"]["score"]
            host = {row.resource: row for row in client.score(first["training"]["run_id"]).panel}["host CPU"]
            assert 0 < host.mean_ratio <= 1
        service.send_signal(signal.SIGTERM)
        assert service.wait(20) == 0


def states(marked, data) -> dict[str, str]:
    """Run id -> state and reason, asked of a service on that data."""
    with marked.start("serve", "--port", "0", "--data", str(data), "--json") as service:
        url = json.loads(service.stdout.readline())["url"]
        with Client(url) as client:
            assert eventually(lambda: all(run.state not in {"running", "created"} for run in client.runs()), 60)
            result = {run.run_id: f"{run.state}: {run.reason}" for run in client.runs()}
        service.terminate()
        service.wait(20)
    return result


@pytest.mark.parametrize("stage", ["service: ", "probe: ", "train: ", "infer: "])
def test_ctrl_c_leaves_a_failed_run_and_no_process(marked, tmp_path, stage):
    with marked.start(*TINY, "--data", str(tmp_path)) as bench:
        read_until(bench, stage)
        bench.send_signal(signal.SIGINT)
        _, err = bench.communicate(timeout=60)
        assert bench.returncode == 130
        assert err.strip().splitlines()[-1] == "tokenstone: interrupted"
    assert eventually(lambda: not marked.alive()), marked.alive()
    ended = states(marked, tmp_path)
    interrupted = [state for state in ended.values() if state == "failed: interrupted"]
    assert len(interrupted) == (1 if stage in {"train: ", "infer: "} else 0)
    assert not (tmp_path / "report.html").exists()


def test_a_killed_bench_leaves_no_process_and_its_run_fails(marked, tmp_path):
    with marked.start(*TINY, "--data", str(tmp_path)) as bench:
        read_until(bench, "train: ")
        bench.kill()
        bench.communicate(timeout=60)
    assert eventually(lambda: not marked.alive())
    [state] = states(marked, tmp_path).values()
    assert state == "failed: client lost"


def test_two_benches_do_not_measure_each_other(marked, tmp_path):
    with marked.start(*TINY, "--data", str(tmp_path)) as first:
        read_until(first, "probe: ")
        second = marked.run(*TINY, "--data", str(tmp_path))
        assert second.returncode == 1
        assert "another run" in second.stderr
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
        assert first.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--preset", "cpu-huge"], 2, "cpu-small"),
        (["--hardware", "h100"], 2, "h100-sxm"),
        (["--price-per-device-hour", "-1"], 2, "--price-per-device-hour"),
        (["--price-book", "missing.toml", "--price-row", "x"], 2, "missing.toml"),
        (["--price-row", "h100-sxm/nobody"], 2, "neocloud"),
        (["--price-per-device-hour", "1", "--price-row", "h100-sxm/neocloud"], 2, "not both"),
        (["--cluster", "<script>"], 2, "--cluster"),
        (["--threads", "100000"], 2, "--threads"),
        (["--data", "/proc/nowhere"], 1, "/proc/nowhere"),
        (["--report", "/proc/report.html"], 1, "/proc/report.html"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(marked, tmp_path, arguments, code, says):
    data = [] if "--data" in arguments else ["--data", str(tmp_path / "data")]
    result = marked.run(*TINY, *data, *arguments)
    assert result.returncode == code
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    assert not (tmp_path / "data" / "tokenstone.db").exists()


def test_a_damaged_database_is_one_clear_error(marked, tmp_path):
    (tmp_path / "tokenstone.db").write_bytes(b"this is no database" * 1000)
    result = marked.run(*TINY, "--data", str(tmp_path))
    assert result.returncode == 1
    assert "tokenstone.db" in result.stderr.strip().splitlines()[-1]
    assert (tmp_path / "tokenstone.db").read_bytes().startswith(b"this is no database")


def test_a_port_in_use_is_one_clear_error(marked, tmp_path):
    with marked.start("serve", "--port", "0", "--data", str(tmp_path / "a"), "--json") as first:
        port = json.loads(first.stdout.readline())["url"].rpartition(":")[2]
        second = marked.run("serve", "--port", port, "--data", str(tmp_path / "b"))
        assert second.returncode == 1
        assert port in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1
        agent = marked.run("agent", "--listen", f"127.0.0.1:{port}", "--api", "none")
        assert agent.returncode == 1
        assert port in agent.stderr.strip().splitlines()[-1]
        first.terminate()
        first.wait(20)
