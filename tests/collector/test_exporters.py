"""A site's own exporters: the real node_exporter, dcgm-exporter's text, and servers that answer badly or never."""

import http.server
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from collector.clock import Clock
from collector.config import load_settings
from collector.registry import build_sources
from collector.sources.base import SourceUnavailable, take
from collector.sources.cpu import CpuSource
from collector.sources.dcgm_exporter import METRICS, to_parts
from collector.sources.exporters import fetch, is_blank, parse
from collector.sources.memory import MemorySource
from tokenstone.errors import InvalidValue

DCGM = Path(__file__).parent.parent / "fixtures/dcgm-exporter.txt"


def series(parts, metric, **labels):
    return {
        r.device: r.value for r in parts.readings if r.metric == metric and labels.items() <= dict(r.labels).items()
    }


def why(parts, metric):
    return {absence.device: absence.reason for absence in parts.absences if absence.metric == metric}


@pytest.fixture
def serve():
    """Serve one answer over HTTP."""
    servers = []

    def start(body, status=200):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}/metrics"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_dcgm_fields_become_metrics_in_base_units(serve):
    settings = load_settings(node="n", dcgm_exporter=serve(DCGM.read_bytes()), sources="dcgm_exporter")
    taken = take(build_sources(settings)[0], Clock())
    assert taken.error is None
    assert series(taken, "accel_busy_ratio") == {"GPU-aaaa": pytest.approx(0.97)}
    assert series(taken, "accel_energy_joules_total") == {"GPU-aaaa": pytest.approx(918273645.546)}
    assert series(taken, "accel_clock_hertz", domain="compute") == {"GPU-aaaa": 1755e6, "GPU-bbbb": 345e6}
    assert series(taken, "accel_memory_total_bytes") == {"GPU-aaaa": (60000 + 21000 + 559) << 20}
    assert series(taken, "accel_link_bytes_per_second", link="nvlink", direction="tx") == {"GPU-aaaa": 2e11}
    assert [(device.index, device.model) for device in taken.devices] == [(n, "NVIDIA H100 80GB HBM3") for n in (0, 1)]
    # An instance's series is no device's, and the last XID is no count.
    assert series(taken, "accel_memory_bandwidth_ratio") == {"GPU-aaaa": 0.51}
    assert not any(reading.metric == "accel_xid_errors_total" for reading in taken.readings)


def test_blank_values_of_dcgm_are_absent():
    parts = to_parts(parse("dcgm", DCGM.read_text()))
    assert why(parts, "accel_busy_ratio") == {"GPU-bbbb": "dcgm-exporter: DCGM_FI_DEV_GPU_UTIL: blank"}
    assert "GPU-bbbb" in why(parts, "accel_sm_active_ratio")
    assert "GPU-bbbb" in why(parts, "accel_energy_joules_total")
    assert {absence.metric for absence in parts.absences} <= set(METRICS)


@pytest.mark.parametrize("value", [0.0, 1.0, 700.0, 81559.0, 9.2e17, 1.4e14, 2**31, 2e11])
def test_what_a_device_may_really_give_is_not_taken_for_blank(value):
    assert not is_blank(value)


def test_an_exporter_replaces_the_agents_own_sources():
    url = "http://127.0.0.1:9400/metrics"
    names = [source.name for source in build_sources(load_settings(node="n", dcgm_exporter=url, node_exporter=url))]
    assert {"dcgm_exporter", "node_exporter"} <= set(names)
    assert not {"nvml", "cpu", "memory", "disk", "ethernet"} & set(names)
    with pytest.raises(InvalidValue, match="needs the exporter's address"):
        build_sources(load_settings(node="n", sources="dcgm_exporter"))


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"<html>{}</html>", 200, "not Prometheus' text format"),
        (b"", 200, "gives no metrics"),
        (b"busy", 503, "503|Service Unavailable"),
        (b'DCGM_X{gpu="0" 1\n', 200, "not Prometheus' text format"),
        (b"\xff\xfe\x00", 200, "not Prometheus' text format"),
    ],
)
def test_a_bad_answer_is_one_clear_reason(serve, body, status, reason):
    url = serve(body, status)
    with pytest.raises(SourceUnavailable, match=reason):
        parse(url, fetch(url))


def test_an_exporter_that_is_away_or_hangs_has_a_deadline():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/metrics"
        start = time.monotonic()
        with pytest.raises(SourceUnavailable, match="timed out"):
            fetch(url, 0.2)
        assert time.monotonic() - start < 5
    with pytest.raises(SourceUnavailable, match="Connection refused"):
        fetch(url, 0.2)


@pytest.fixture(scope="module")
def real_node_exporter():
    program = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    if program is None:
        pytest.skip("prometheus-node-exporter is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with subprocess.Popen(
        [program, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        yield f"http://127.0.0.1:{port}/metrics"
        process.terminate()


@pytest.mark.slow
def test_the_real_node_exporter_agrees_with_our_own_readings(real_node_exporter, eventually):
    [source] = build_sources(load_settings(node="n", node_exporter=real_node_exporter, sources="node_exporter"))[:-1]

    def is_up():
        return take(source, Clock()).error is None

    eventually(is_up)
    before = CpuSource(Path("/")).read()
    theirs = take(source, Clock())
    after = CpuSource(Path("/")).read()

    def by(parts, metric):
        return {reading.labels: reading.value for reading in parts.readings if reading.metric == metric}

    ours = by(MemorySource(Path("/")).read(), "host_memory_total_bytes")
    assert by(theirs, "host_memory_total_bytes") == ours
    assert by(theirs, "host_cpu_logical_processors") == by(after, "host_cpu_logical_processors")
    for mode, seconds in by(theirs, "host_cpu_seconds_total").items():
        # The kernel rounds each processor's time to ticks; theirs are added up from processors, ours from the sum.
        assert (
            by(before, "host_cpu_seconds_total")[mode] - 3 <= seconds <= by(after, "host_cpu_seconds_total")[mode] + 3
        )
    assert theirs.error is None
