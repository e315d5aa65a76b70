"""A real Prometheus finds the agents through the service and scrapes the service and the agents, with a key."""

import json
import shutil
import socket
import subprocess

import httpx
import pytest
from e2e_support import eventually

CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: tokenstone
    authorization: {{credentials_file: {key}}}
    static_configs: [{{targets: ["{service}"]}}]
  - job_name: agents
    http_sd_configs:
      - url: http://{service}/v1/prometheus/targets
        refresh_interval: 1s
        authorization: {{type: Bearer, credentials_file: {key}}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus")
def test_prometheus_discovers_agents_and_scrapes_all(marked, tmp_path, monkeypatch):
    data = str(tmp_path / "data")
    service = marked.start("serve", "--json", "--authentication", "--port", "0", "--data", data)
    address = json.loads(service.stdout.readline())["url"].removeprefix("http://")
    key = tmp_path / "read.key"
    key.write_text(marked.run("key", "create", "--name", "p", "--scope", "read", "--data", data).stdout.strip())
    pushes = tmp_path / "ingest.key"
    pushes.write_text(marked.run("key", "create", "--name", "a", "--scope", "ingest", "--data", data).stdout)
    monkeypatch.setenv("TOKENSTONE_API_KEY_FILE", str(pushes))
    agent_port = free_port()
    agent = marked.start(
        "agent", "--api", f"http://{address}", "--listen", f":{agent_port}", "--node", "node-1", "--cluster", "lab",
        "--window-seconds", "1", "--spool", str(tmp_path / "spool"),
    )  # fmt: skip
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(service=address, key=key))
    url = f"http://127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
               f"--web.listen-address={url.removeprefix('http://')}"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as prometheus:
        try:

            def query(expression: str) -> dict[tuple, str]:
                try:
                    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}).raise_for_status()
                except httpx.HTTPError:  # not listening, or not ready yet
                    return {}
                result = answer.json()["data"]["result"]
                return {tuple(sorted(r["metric"].items())): r["value"][1] for r in result}

            assert eventually(lambda: list(query("up").values()) == ["1", "1"], 90), query("up")
            [(labels, _)] = query('up{job="agents"}').items()
            assert dict(labels) == {
                "__name__": "up", "job": "agents", "instance": f"127.0.0.1:{agent_port}",
                "cluster": "lab", "node": "node-1",
            }  # fmt: skip
            assert eventually(lambda: query('host_cpu_logical_processors{cluster="lab",node="node-1"}'))
            assert eventually(lambda: query("tokenstone_ingest_batches_total"))
        finally:
            prometheus.terminate()
    for process in (agent, service):
        process.terminate()
        process.communicate(timeout=30)
