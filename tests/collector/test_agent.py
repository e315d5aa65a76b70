"""The agent as a whole: a thread of it, a real scrape and a client that takes its batches."""

import gzip
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector.agent import run_agent
from collector.config import load_settings
from collector.segment import unpack
from tokenstone.errors import Conflict, PortInUse, ServiceUnreachable
from tokenstone.wire import IngestAnswer, WindowBatch


class Client:
    """Takes batches, or is unreachable while `away`; asks for windows of one sample."""

    def __init__(self):
        self.away, self.batches = False, []

    def announce(self, metrics_address):
        self.address = metrics_address

    def push_windows(self, batch_json):
        if self.away:
            raise ServiceUnreachable("nobody answers")
        self.batches.append(WindowBatch.model_validate_json(gzip.decompress(batch_json)))
        return IngestAnswer(status="accepted", windows=0, window_seconds=0.2, server_unix_seconds=time.time() + 100)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def settings(tmp_path, node_folder):
    return load_settings(
        listen=f"127.0.0.1:{free_port()}",
        node="h100-node",
        cluster="lab",
        root=node_folder("h100-node"),
        exclude_sources="nvml",
        sample_seconds=0.2,
        window_seconds=0.4,
        spool_dir=tmp_path / "spool",
    )


class Running:
    def __init__(self, settings, client):
        self.stop_event, self.errors = threading.Event(), []
        self.thread = threading.Thread(target=self._run, args=(settings, client))
        self.thread.start()

    def _run(self, settings, client):
        try:
            run_agent(settings, client, self.stop_event)
        except Exception as error:
            self.errors.append(error)

    def stop(self):
        self.stop_event.set()
        self.thread.join(10)
        assert not self.thread.is_alive()
        if self.errors:
            raise self.errors[0]


@pytest.fixture
def start():
    started = []

    def make(settings, client=None):
        started.append(Running(settings, client))
        return started[-1]

    yield make
    for running in started:
        running.stop_event.set()
        running.thread.join(10)


def scrape(settings):
    try:
        with urllib.request.urlopen(f"http://{settings.listen}/metrics", timeout=5) as response:
            text = response.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return None
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


def test_a_running_agent_can_be_scraped_and_frees_its_port(settings, start, eventually):
    agent = start(settings)
    eventually(lambda: scrape(settings))
    families = scrape(settings)
    received = {sample.labels["interface"]: sample for sample in families["network_receive_bytes"]}
    assert received["ens1f0np0"].value == 91823344556677
    assert received["ens1f0np0"].labels["node"] == "h100-node"
    assert {sample.labels["source"] for sample in families["tokenstone_source_up"]} >= {"cpu", "ethernet", "agent"}
    agent.stop()
    assert scrape(settings) is None


def test_windows_reach_the_service_and_the_last_one_on_stopping(settings, start, eventually):
    client = Client()
    agent = start(settings, client)
    eventually(lambda: len(client.batches) >= 2)
    agent.stop()
    assert [batch.sequence for batch in client.batches] == list(range(len(client.batches)))
    assert {(batch.cluster, batch.node) for batch in client.batches} == {("lab", "h100-node")}
    assert len({batch.epoch for batch in client.batches}) == 1
    last = client.batches[-1]
    assert {device.model for device in last.devices} == {"Intel(R) Xeon(R) Platinum 8480C"}
    index = next(i for i, series in enumerate(last.series) if series.metric == "disk_read_bytes_total")
    assert last.delta[last.series_index.index(index)] == 0  # a fixture's counters stand still: a true zero
    assert any(absence.metric == "network_speed_bytes_per_second" for absence in last.absences)
    assert not list(settings.spool_dir.glob("*.batch"))


def test_an_agent_whose_service_is_away_loses_nothing_over_a_restart(settings, start, eventually):
    client = Client()
    client.away = True
    agent = start(settings, client)
    eventually(lambda: waiting_intervals(settings) >= 3)
    agent.stop()
    left = waiting_intervals(settings)
    client.away = False
    agent = start(settings, client)
    eventually(lambda: len({batch.epoch for batch in client.batches}) == 2)
    agent.stop()
    first = client.batches[0].epoch
    before = [start for batch in client.batches if batch.epoch == first for start in starts(batch)]
    assert len(before) == len(set(before)) == left
    assert [batch.epoch for batch in client.batches] == sorted(batch.epoch for batch in client.batches)


def starts(batch):
    return sorted(set(batch.start_unix_seconds))


def waiting_intervals(settings):
    return sum(len(list(unpack(path.read_bytes()))) - 1 for path in settings.spool_dir.glob("*.batch"))


def test_the_services_clock_is_compared_with_ours(settings, start, eventually):
    client = Client()
    agent = start(settings, client)
    eventually(lambda: "tokenstone_clock_offset_seconds" in (scrape(settings) or {}))
    [offset] = scrape(settings)["tokenstone_clock_offset_seconds"]
    assert offset.value == pytest.approx(100, abs=1)
    agent.stop()


def test_a_taken_port_or_spool_ends_the_start_with_one_clear_error(settings, start, eventually):
    with socket.create_server(tuple(settings.listen)), pytest.raises(PortInUse):
        run_agent(settings, None, threading.Event())
    start(settings, Client())
    eventually(lambda: scrape(settings))
    with pytest.raises(Conflict):
        run_agent(settings, Client(), threading.Event())
