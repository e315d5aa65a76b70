"""The service as a process, and its client."""

import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from api import examples
from api.main import serve
from api.settings import load_settings
from tokenstone.client import Client
from tokenstone.cost import PriceBook
from tokenstone.errors import InvalidValue, PortInUse, ServiceRefused, ServiceUnreachable
from tokenstone.run import RunState
from tokenstone.wire import PriceChoice, RunChange, RunCreate, TrainingFacts


def test_the_client_does_what_a_workload_needs(service, batch, packed):
    _, url = service()
    with Client(url) as client:
        client.wait_ready(10)
        assert client.push_windows(packed(batch())).status == "accepted"
        created = client.create_run(RunCreate.model_validate(examples.RUN))
        assert client.change_run(created.run_id, RunChange(state=RunState.RUNNING)).state == "running"
        assert client.put_facts("train-1", TrainingFacts.model_validate(examples.FACTS)).state == "complete"
        client.add_price_book(PriceBook.model_validate(examples.PRICE_BOOK | {"name": "mine"}))
        scored = client.score_run("train-1", PriceChoice(usd_per_device_hour=2.0))
        assert client.score("train-1") == scored
        assert client.report(["train-1"]).bill.usd_per_million_tokens == scored.bill.usd_per_million_tokens
        assert "<html" in client.report_html(["train-1"])
        assert [run.run_id for run in client.runs(state=RunState.COMPLETE)] == ["train-1"]
        assert client.run("train-1").state == "complete"
        assert [node.name for node in client.nodes()] == ["node-1"]
        assert [row.metric for row in client.windows(device="GPU-0")] == ["accel_busy_ratio"]


def test_the_client_reads_every_page(service, big_batch, packed):
    _, url = service()
    with Client(url) as client:
        client.push_windows(packed(big_batch(1201)))
        assert len({row.start_unix_seconds for row in client.windows()}) == 1201


def test_the_client_repeats_what_the_service_says(service, batch, packed):
    _, url = service()
    with Client(url) as client:
        with pytest.raises(ServiceRefused, match="there is no run 'nobody'") as caught:
            client.run("nobody")
        assert caught.value.status == 404
        series = [{"metric": "nonsense", "device": "d"}] * 2
        with pytest.raises(ServiceRefused, match=r"body\.series\.0\.metric: unknown metric 'nonsense'") as caught:
            client.push_windows(packed(batch(series=series)))
        assert caught.value.status == 422


@pytest.fixture
def stranger():
    """A web server that is not Tokenstone; it counts the status codes that it is told to answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "train-1" in self.path else 404)
            self.end_headers()
            self.wfile.write(b"<h1>Welcome</h1>")

        def log_message(self, *_args) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_client_tells_a_stranger(stranger):
    with Client(stranger) as client:
        for run_id in ("train-1", "nobody"):
            with pytest.raises(ServiceUnreachable, match="not Tokenstone"):
                client.run(run_id)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://[", "ftp://127.0.0.1"])
def test_the_client_tells_when_nobody_answers(url):
    with pytest.raises(ServiceUnreachable) as caught, Client(url, timeout=2) as client:
        client.wait_ready(0)
    assert url in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_in_order(service, batch, packed, number):
    process, url = service()
    with Client(url) as client:
        client.push_windows(packed(batch()))
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.ended_in_order()
        with pytest.raises(ServiceUnreachable):
            client.run("train-1")
    _, url = service()
    with Client(url) as client:
        assert client.push_windows(packed(batch())).status == "duplicate"


def test_many_clients_at_once(service, big_batch, packed):
    _, url = service()
    answers = []

    def push(node: int) -> None:
        with Client(url) as client:
            answers.extend(
                client.push_windows(packed(big_batch(20, node=f"n{node}", sequence=s, start=1.7e9 + 20 * s)))
                for s in range(10)
            )

    threads = [threading.Thread(target=push, args=(node,)) for node in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == ["accepted"] * 80
    with Client(url) as client:
        assert sum(1 for _ in client.windows()) == 8 * 10 * 20


def test_a_port_in_use_is_told_before_anything_is_written(data):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUse) as caught:
            serve(load_settings(port=port, data=data))
    assert str(port) in str(caught.value)
    assert not data.exists()


@pytest.mark.parametrize("host", ["256.256.256.256", "no such host", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_told(data, host):
    with pytest.raises(InvalidValue, match="cannot listen there"):
        serve(load_settings(host=host, port=0, data=data))


def test_an_endless_body_is_cut_off(service, problem):
    _, url = service()

    def endless():
        while True:
            yield b" " * 1_000_000

    problem(httpx.post(f"{url}/v1/windows", content=endless(), headers={"Content-Type": "application/json"}), 413)
