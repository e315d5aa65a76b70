"""`tokenstone run -- COMMAND`: the command as it would be without us, and a run beside it."""

import json
import signal
import subprocess
import sys

import pytest
from e2e_support import read_until

from tokenstone.client import Client

pytestmark = pytest.mark.slow


def tokenstone_run(folder, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "cli", "run", "--data", str(folder / "data"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=text, check=False)


def test_stdio_and_exit_code_are_the_commands_and_the_bill_is_in_a_file(tmp_path):
    program = "import sys; print(sys.stdin.read(), end=''); print('tokens: 1,000'); print('tokens: 2,500'); sys.exit(3)"
    done = tokenstone_run(
        tmp_path, "--price-per-device-hour", "2", "--tokens-from", r"tokens: ([\d,]+)", "--", sys.executable, "-c",
        program, text="what came in\n",
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stdout == "what came in\ntokens: 1,000\ntokens: 2,500\n"
    assert "ended with 3" in done.stderr
    document = json.loads((tmp_path / "data/run.json").read_text())
    assert document["tokens"] == 2500
    assert document["devices"] == 1
    assert document["allocated_seconds"] == pytest.approx(sum(document["ledger_seconds"].values()))
    assert document["usd"] == pytest.approx(document["allocated_seconds"] * 2 / 3600)
    assert document["usd_per_million_tokens"] == pytest.approx(document["usd"] / 2500 * 1e6)
    assert document["score"] is None
    assert "unknown_work" in document["validity"]
    assert 0 < document["ledger_seconds"]["compute"] < document["allocated_seconds"]
    assert document["peak_memory_bytes"] > 1e6
    assert "a job of its own" in (tmp_path / "data/report.html").read_text()


MARKED = """
import time
from tokenstone.record import Job
with Job("inside") as job:
    for _ in range(3):
        with job.step(tokens=7):
            time.sleep(0.01)
"""


def test_marks_inside_join_the_run_whose_service_is_the_users(tmp_path, service):
    result = tmp_path / "result.json"
    done = tokenstone_run(
        tmp_path, "--api", service, "--quiet", "--name", "outside", "--result", str(result), "--", sys.executable, "-c",
        MARKED,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    document = json.loads(result.read_text())
    assert document["marked"]
    assert document["tokens"] == 21
    assert document["ledger_seconds"]["compute"] >= 0.03
    assert document["ledger_seconds"]["startup"] > 0
    with Client(service) as client:
        run = client.run(document["run_id"])
        facts = client.facts(document["run_id"])
        assert run.state == "complete"
        assert facts.tokens == 21
        assert [run.run_id for run in client.runs()] == [document["run_id"]]  # one run, not two
        assert any(window.metric == "host_cpu_seconds_total" for window in client.windows(node=run.devices[0].node))


AGENT = """
import gzip, socket, sys, time
from tokenstone.client import Client
from tokenstone.wire import Device, Series, WindowBatch

def push(url, cluster, sequence, windows):
    card = Device(id="GPU-7", kind="accelerator", vendor="NVIDIA", model="NVIDIA H100 80GB HBM3")
    names = ["accel_busy_ratio", "accel_energy_joules_total"] if windows else []
    ratio = [0.25, None][: len(names)]
    batch = WindowBatch(
        cluster=cluster, node=socket.gethostname() or "localhost", epoch="e", sequence=sequence, devices=[card],
        series=[Series(metric=name, device="GPU-7") for name in names], series_index=list(range(len(names))),
        start_unix_seconds=[time.time() - 1] * len(names), duration_seconds=[1.0] * len(names), count=[1] * len(names),
        mean=ratio, minimum=ratio, maximum=ratio, delta=[None, 350.0][: len(names)],
    )
    with Client(url) as client:
        client.push_windows(gzip.compress(batch.model_dump_json().encode()))
"""


def test_accelerators_are_those_that_the_nodes_agent_reports(tmp_path, service):
    names: dict = {}
    exec(AGENT, names)  # noqa: S102  what the program does too
    names["push"](service, "gpus", 0, windows=False)
    program = f"{AGENT}\ntime.sleep(1.1)\npush({service!r}, 'gpus', 1, windows=True)"
    done = tokenstone_run(
        tmp_path, "--api", service, "--cluster", "gpus", "--price-per-device-hour", "2", "--tokens", "1e6",
        "--flops-per-token", "1e7", "--", sys.executable, "-c", program,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "data/run.json").read_text())
    assert document["device_ids"] == ["GPU-7"]
    assert document["joules"] == 350.0
    assert document["ledger_seconds"]["idle"] == pytest.approx(0.75 * document["wall_seconds"])
    assert document["ledger_seconds"]["ideal"] == pytest.approx(1e13 / 989.4e12)
    assert document["score"] == pytest.approx(100 * document["ledger_seconds"]["ideal"] / document["wall_seconds"])
    assert document["validity"] == ["valid"]


def test_a_signal_reaches_the_command_also_while_the_service_is_away(tmp_path):
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); "
        "print('ready', file=sys.stderr, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-P", "-m", "cli", "run", "--data", str(tmp_path / "data"), "--api", "http://127.0.0.1:9",
               "--", sys.executable, "-c", program]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        seen = read_until(process, "ready")
        assert "does not answer" in seen
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 7, rest
    assert json.loads((tmp_path / "data/run.json").read_text())["exit_code"] == 7


def test_a_command_that_dies_by_a_signal_or_cannot_be_run(tmp_path):
    text = tmp_path / "text"
    text.write_text("not a program")
    for command, code, says in (
        (["no-such-program"], 127, "command not found"),
        ([str(tmp_path / "nowhere")], 127, "command not found"),
        ([str(text)], 126, "not executable"),
    ):
        done = tokenstone_run(tmp_path, "--", *command)
        assert done.returncode == code
        assert says in done.stderr
        assert not (tmp_path / "data").exists()  # nothing was begun
