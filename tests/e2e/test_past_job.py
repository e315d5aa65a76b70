"""A past job scored from a real Prometheus, whose blocks hold what dcgm-exporter and node_exporter write."""

import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from e2e_support import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus"),
    pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool"),
]

START = int(time.time()) // 7200 * 7200 - 86_400 + 600
SECONDS, EVERY = 1800, 30
H100 = 'gpu="{0}",UUID="GPU-{1}",modelName="NVIDIA H100 80GB HBM3",Hostname="n1",instance="10.0.0.1:9400",job="dcgm"'
A, B = (H100.format(index, id) + ',hpc_job="train-7"' for index, id in enumerate("ab"))
POD = 'gpu="0",UUID="GPU-c",modelName="ACME One",Hostname="n2",instance="10.0.0.2:9400",job="dcgm",pod="trainer-x-0"'
NIGHTLY = 'gpu="1",UUID="GPU-d",modelName="ACME One",Hostname="n2",instance="10.0.0.2:9400",exported_job="nightly"'
NODE = 'instance="10.0.0.1:9100",job="node"'
PASSWORD_HASH = "$2b$04$abcdefghijklmnopqrstuuobFaEJANklW4I6zZpcLRbXjrME4Qa2m"


def steady(value: float):
    return lambda _: value


def counter(per_second: float):
    return lambda seconds: 1e6 + per_second * seconds


SERIES = {
    "DCGM_FI_DEV_GPU_UTIL": {
        A: steady(80), B: lambda t: 100 if t // EVERY % 2 else 0, POD: steady(30), NIGHTLY: steady(10),
        A + ',GPU_I_ID="7",GPU_I_PROFILE="1g.10gb"': steady(3),
    },
    "DCGM_FI_DEV_POWER_USAGE": {A: steady(500), B: steady(300), POD: steady(100)},
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": {A: steady(700), B: steady(700)},
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": {A: counter(500e3), B: counter(300e3)},
    "DCGM_FI_DEV_FB_USED": {A: steady(40_000), B: steady(20_000)},
    "DCGM_FI_DEV_FB_FREE": {A: steady(40_000), B: steady(60_000)},
    "DCGM_FI_DEV_FB_RESERVED": {A: steady(0), B: steady(0)},
    "DCGM_FI_PROF_DRAM_ACTIVE": {A: steady(0.4), B: steady(140737488355328)},
    "node_uname_info": {NODE + ',nodename="n1.lab.example"': steady(1)},
    "node_cpu_seconds_total": {
        f'{NODE},cpu="{cpu}",mode="{mode}"': counter(rate)
        for cpu in range(4) for mode, rate in (("idle", 0.25), ("user", 0.75))
    },
    "node_memory_MemTotal_bytes": {NODE: steady(1e12)},
    "node_memory_MemAvailable_bytes": {NODE: steady(7.5e11)},
    "node_network_receive_bytes_total": {NODE + ',device="eth0"': counter(2.5e8)},
    "node_network_transmit_bytes_total": {NODE + ',device="eth0"': counter(1e8)},
    "node_network_speed_bytes": {NODE + ',device="eth0"': steady(1.25e9)},
}  # fmt: skip


def openmetrics() -> str:
    lines = [
        f"{name}{{{labels}}} {value(t)!r} {START + t}"
        for name, series in SERIES.items()
        for labels, value in series.items()
        for t in range(-300, SECONDS + 301, EVERY)
    ]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "history.om").write_text(openmetrics())
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    (folder / "web.yml").write_text(f"basic_auth_users: {{reader: '{PASSWORD_HASH}'}}\n")
    blocks = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(folder / "history.om"), str(folder / "tsdb")]
    subprocess.run(blocks, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address={address}", f"--web.config.file={folder}/web.yml",
    ]  # fmt: skip
    url = f"http://{address}"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:

        def ready() -> bool:
            try:
                return httpx.get(f"{url}/-/ready", auth=("reader", "test-password")).is_success
            except httpx.TransportError:
                return False

        assert eventually(ready)
        yield url
        process.terminate()


@pytest.fixture
def score(prometheus, tokenstone, monkeypatch):
    monkeypatch.setenv("TOKENSTONE_PROMETHEUS_USER", "reader")
    monkeypatch.setenv("TOKENSTONE_PROMETHEUS_PASSWORD", "test-password")

    def call(*arguments: str, url: str = prometheus):
        return tokenstone("score", "--prometheus", url, "--from", str(START), "--to", str(START + SECONDS), *arguments)

    return call


@pytest.fixture
def document(score):
    def call(*arguments: str) -> dict:
        code, out, error = score(*arguments, "--json")
        assert code == 0, error
        return json.loads(out)

    return call


def test_an_hpc_job_has_panel_energy_and_cost(document):
    job = document("--job", "train-7", "--price-per-device-hour", "2", "--tokens", "1e9", "--flops-per-token", "4e8")
    assert job["selected_by"] == 'hpc_job="train-7"'
    assert (job["devices"], job["nodes"], job["hardware"]) == (2, ["n1"], ["h100-sxm"])
    assert job["device_hours"] == pytest.approx(1.0)
    assert job["coverage_ratio"] == pytest.approx(1.0)
    assert job["usd"] == pytest.approx(2.0)
    assert job["usd_per_million_tokens"] == pytest.approx(0.002)
    ledger = job["ledger_seconds"]
    assert ledger["idle"] == pytest.approx(SECONDS * (0.2 + 0.5), rel=0.01)
    assert ledger["ideal"] == pytest.approx(1e9 * 4e8 / 989.4e12)
    assert sum(ledger.values()) == pytest.approx(job["allocated_seconds"])
    assert job["score"] == pytest.approx(100 * ledger["ideal"] / 3600)
    assert job["joules"] == pytest.approx(800 * SECONDS, rel=0.01)
    assert job["joules_provenance"].startswith("measured")
    means = {row["resource"]: row["mean_ratio"] for row in job["panel"]}
    assert means["accelerator memory bandwidth"] == pytest.approx(0.4)  # of the one device that tells it
    assert means["accelerator memory"] == pytest.approx((0.5 + 0.25) / 2)
    assert means["power"] == pytest.approx((500 + 300) / 1400)
    assert means["host CPU"] == pytest.approx(0.75, rel=0.01)
    assert means["host memory"] == pytest.approx(0.25)
    assert means["network"] == pytest.approx(0.2, rel=0.01)
    assert means["scale-up links"] is None
    assert any("accel_memory_bandwidth_ratio of GPU-b" in note for note in job["notes"])
    assert any("communication" in what for what in job["cannot_be_known"])


def test_unknown_hardware_has_no_score_and_the_reason(document):
    job = document("--job", "trainer", "--tokens", "1e9", "--flops-per-token", "4e8")
    assert job["selected_by"] == 'pod=~"trainer(-.+)?"'
    assert job["hardware"] == ["unknown: ACME One"]
    assert job["score"] is None
    assert "unknown_peak" in job["validity"]
    assert job["joules"] == pytest.approx(100 * SECONDS)
    assert job["joules_provenance"].startswith("derived")
    assert any("node_exporter" in note for note in job["notes"])
    assert document("--job", "trainer", "--hardware", "h100-sxm", "--tokens", "1e9", "--flops-per-token", "4e8")[
        "score"
    ]


def test_a_job_whose_label_was_pushed_aside_and_one_without_power(document):
    job = document("--job", "nightly")
    assert job["selected_by"] == 'exported_job="nightly"'
    assert job["joules"] is None
    assert job["joules_provenance"].startswith("absent")
    assert document("--selector", 'Hostname="n2"')["devices"] == 2
    assert document()["devices"] == 4  # the instance of one (MIG) is none


def test_resolution_and_terminal(score, document):
    assert document("--job", "train-7", "--step", "300")["window_seconds"] == 300
    code, out, _ = score("--job", "train-7", "--price-per-device-hour", "2")
    assert code == 0
    assert "$2.00" in out
    assert "Cannot be known" in out
    assert "none: what a token takes is not known" in " ".join(out.split())


@contextmanager
def answering(status: int, body: bytes):
    """Something that is no Prometheus; keeps what it was sent."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def test_what_goes_wrong_is_told_in_a_line(score, monkeypatch, tmp_path):
    def fails(*arguments: str, code: int = 1, **where) -> str:
        got, out, error = score(*arguments, **where)
        assert (got, out) == (code, ""), error
        assert "test-password" not in error
        return error

    assert "no series of dcgm-exporter" in fails("--job", "nobody")
    assert "Prometheus refuses" in fails("--selector", "}")
    assert "does not answer" in fails(url="http://127.0.0.1:9")
    with answering(200, b"<html>Grafana</html>") as (url, _):
        assert "no Prometheus" in fails(url=url)
    error = json.dumps({"status": "error", "errorType": "timeout", "error": "query timed out"}).encode()
    with answering(503, error) as (url, _):
        assert "query timed out" in fails(url=url)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "in time" in fails("--timeout", "0.2", url=url)
    monkeypatch.setenv("TOKENSTONE_PROMETHEUS_PASSWORD", "wrong")
    assert "TOKENSTONE_PROMETHEUS_TOKEN" in fails()
    monkeypatch.setenv("TOKENSTONE_PROMETHEUS_TOKEN_FILE", str(tmp_path / "nowhere"))
    assert "TOKENSTONE_PROMETHEUS_TOKEN_FILE" in fails(code=2)
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("TOKENSTONE_PROMETHEUS_TOKEN_FILE", str(tmp_path / "token"))
    assert "a token and a name" in fails(code=2)
    monkeypatch.delenv("TOKENSTONE_PROMETHEUS_USER")
    monkeypatch.delenv("TOKENSTONE_PROMETHEUS_PASSWORD")
    with answering(403, b"") as (url, seen):
        assert "does not allow" in fails(url=url)
        assert seen == ["Bearer secret"]


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [("yesterday", "0", "--from"), ("2026-11-01T08:00:00Z", "2026-11-01T08:00:00+00:00", "--to"),
     ("1700000000000", "1700000060000", "milliseconds"), ("nan", "1", "--from")],
)  # fmt: skip
def test_times_that_are_none(tokenstone, start, end, says):
    code, _, error = tokenstone("score", "--prometheus", "http://127.0.0.1:9", "--from", start, "--to", end)
    assert code == 2
    assert says in error
