"""Handing the spool over to a real HTTP server that goes away, comes back and refuses."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from structlog.testing import capture_logs

from collector.push import Pusher
from collector.spool import Spool
from tokenstone.errors import ServiceRefused, ServiceUnreachable
from tokenstone.wire import IngestAnswer


class Service:
    """A small service that remembers what it took; `status` is what it answers, `lose_answers` how often not at all."""

    def __init__(self):
        self.status, self.lose_answers, self.window_seconds = 200, 0, 10.0
        self.taken, self.requests = [], 0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                service.requests += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                number = json.loads(gzip.decompress(body))["number"]
                status = 200 if service.status == 422 and number != 1 else service.status
                known = number in service.taken
                if status == 200 and not known:
                    service.taken.append(number)
                if status == 200 and service.lose_answers:
                    service.lose_answers -= 1
                    self.close_connection = True
                    return
                answer = IngestAnswer(
                    status="duplicate" if known else "accepted", windows=0, window_seconds=service.window_seconds
                )
                text = answer.model_dump_json().encode() if status == 200 else b"{}"
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/windows"

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class HttpClient:
    def __init__(self, url):
        self.url = url

    def push_windows(self, batch_json):
        try:
            response = httpx.post(self.url, content=batch_json, timeout=5)
        except httpx.HTTPError as error:
            raise ServiceUnreachable(str(error), where=self.url) from error
        if response.status_code != 200:
            raise ServiceRefused("no", status=response.status_code)
        return IngestAnswer.model_validate_json(response.content)


@pytest.fixture
def service():
    service = Service()
    yield service
    service.stop()


@pytest.fixture
def start(tmp_path, service):
    stops = []

    def make(**options):
        spool = Spool(tmp_path / "spool", 1_000_000)
        pusher = Pusher(spool, HttpClient(service.url), first_wait_seconds=0.01, **options)
        stops.extend([spool.close, pusher.stop])
        pusher.start()
        return spool, pusher

    yield make
    for stop in reversed(stops):
        stop()


def put(spool, *numbers):
    for number in numbers:
        spool.put("1-a", number, gzip.compress(json.dumps({"number": number}).encode()))


def test_a_service_that_was_away_gets_everything_in_order_exactly_once(service, start, eventually):
    service.status = 503
    spool, pusher = start()
    put(spool, 0, 1, 2)
    pusher.notify()
    eventually(lambda: service.requests >= 3)
    assert service.taken == []
    assert spool.waiting_batches == 3
    put(spool, 3, 4)
    service.status = 200
    eventually(lambda: spool.waiting_batches == 0)
    assert service.taken == [0, 1, 2, 3, 4]
    assert pusher.delivery().batches == {"accepted": 5, "duplicate": 0, "rejected": 0}


def test_a_lost_answer_is_asked_for_again_and_counts_nothing_twice(service, start, eventually):
    service.lose_answers = 2
    spool, pusher = start()
    put(spool, 0, 1)
    pusher.notify()
    eventually(lambda: spool.waiting_batches == 0)
    assert service.taken == [0, 1]
    assert pusher.delivery().batches["duplicate"] == 1


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502])
def test_a_refusal_that_may_pass_keeps_the_batch(service, start, eventually, status):
    service.status = status
    spool, pusher = start()
    put(spool, 0)
    pusher.notify()
    eventually(lambda: service.requests >= 2)
    service.status = 200
    eventually(lambda: service.taken == [0])


def test_a_final_refusal_sets_the_batch_aside_and_never_blocks_the_rest(service, start, eventually, tmp_path):
    service.status = 422  # for number 1 only
    with capture_logs() as logs:
        spool, pusher = start()
        put(spool, 0, 1, 2)
        pusher.notify()
        eventually(lambda: spool.waiting_batches == 0)
    assert service.taken == [0, 2]
    assert pusher.delivery().batches == {"accepted": 2, "duplicate": 0, "rejected": 1}
    assert [path.name for path in (tmp_path / "spool" / "rejected").iterdir()] == ["1-a.0000000001.json.gz"]
    assert [entry["batch"] for entry in logs if "set aside" in entry["event"]] == ["1-a.0000000001.json.gz"]


def test_what_a_stopped_agent_could_not_hand_over_is_pushed_by_the_next(service, start, eventually):
    service.status = 503
    spool, pusher = start()
    put(spool, 0, 1)
    pusher.notify()
    eventually(lambda: service.requests >= 1)
    pusher.stop()
    spool.close()
    service.status = 200
    spool, _ = start()
    eventually(lambda: spool.waiting_batches == 0)
    assert service.taken == [0, 1]


def test_stopping_hands_over_what_has_just_been_kept(service, start):
    spool, pusher = start()
    put(spool, 0, 1)  # and nobody notified the thread
    pusher.stop()
    assert service.taken == [0, 1]


def test_the_services_wish_for_shorter_windows_is_forgotten_when_it_falls_silent(service, start, eventually, fake_time):
    service.window_seconds = 1.0
    spool, pusher = start(monotonic=lambda: fake_time.seconds)
    assert pusher.asked_window_seconds() is None
    put(spool, 0)
    pusher.notify()
    eventually(lambda: pusher.asked_window_seconds() == 1.0)
    fake_time.advance(61)
    assert pusher.asked_window_seconds() is None
