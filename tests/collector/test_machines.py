"""The real `tokenstone agent` over fixture machines, and a real Prometheus that scrapes them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent.parent / "golden"
MACHINES = ("h100-node", "mi300x-node", "ascend-910-node", "cpu-node")
# What depends on the moment, and what an agent that pushes nowhere does not have.
VOLATILE = (
    "tokenstone_source_duration_seconds",
    "tokenstone_source_last_success_timestamp_seconds",
    "tokenstone_agent_",
    "tokenstone_driver_call",
    "tokenstone_push_",
    "tokenstone_spool_",
    "tokenstone_clock_offset",
    'tokenstone_metric_absent{device="host",metric="tokenstone_',
)

pytestmark = pytest.mark.slow


def steady(text):
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return [line for line in lines if not line.startswith(VOLATILE)]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.read().decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def wait_for(condition, seconds=40):
    """Return what `condition` returns once it is true; the last that it returned after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def agents(tmp_path_factory, nvml_library, rocm):
    """One agent for each machine, with the stand-ins where it would find its maker's library."""
    folder = tmp_path_factory.mktemp("machines")
    nodes = Path(__file__).parent.parent / "fixtures/nodes"
    ports, processes = {}, []
    for machine in MACHINES:
        ports[machine] = free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENSTONE_")}
        environment |= {"ROCM_PATH": str(rocm), "AMDSMI_STUB_SCENARIO": str(nodes / machine / "amdsmi.scenario")}
        if machine == "h100-node":
            environment["LD_LIBRARY_PATH"] = str(nvml_library().parent)
            environment["NVML_STUB_SCENARIO"] = str(nodes / machine / "nvml.scenario")
        else:
            environment["TOKENSTONE_EXCLUDE_SOURCES"] = "nvml"
        command = [sys.executable, "-m", "cli", "agent", "--root", str(nodes / machine), "--node", machine]
        command += ["--listen", f"127.0.0.1:{ports[machine]}", "--sample-seconds", "0.3", "--spool", str(folder)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
    yield {machine: f"127.0.0.1:{port}" for machine, port in ports.items()}
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(10) for process in processes] == [0] * len(processes)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_real_agent_over_a_machine_serves_the_golden_metrics(agents, machine):
    golden = steady((GOLDEN / f"metrics-{machine}.txt").read_text())
    served = ""

    def is_golden():
        nonlocal served
        served = fetch(f"http://{agents[machine]}/metrics") or ""
        return steady(served) == golden

    wait_for(is_golden)
    assert steady(served) == golden
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH")
    done = subprocess.run([promtool, "check", "metrics"], input=served, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_real_prometheus_scrapes_every_machine(agents, tmp_path):
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not on PATH")
    (tmp_path / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                "scrape_configs": [
                    {"job_name": "tokenstone", "static_configs": [{"targets": list(agents.values())}]},
                ],
            }
        )
    )
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    command += [f"--web.listen-address={address}"]

    def query(text):
        answer = fetch(f"http://{address}/api/v1/query?query={urllib.parse.quote(text)}")
        return json.loads(answer)["data"]["result"] if answer else []

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            up = wait_for(lambda: [found for found in [query("up == 1")] if len(found) == len(MACHINES)], 40)
            assert up, "not every agent is up"
            # What a job's devices draw: the join that dashboards make.
            power = "accel_power_watts * on (node, device) group_left (job_id) tokenstone_job_device_info"
            [held] = query(f'count({power}{{job_id="4711"}})')
            assert held["value"][1] == "4"
            makers = {result["metric"]["vendor"] for result in query("accel_info")}
            assert {"NVIDIA", "AMD", "Huawei"} <= makers
        finally:
            process.terminate()
