"""Handing the spool over to a real HTTP server that goes away, comes back and refuses."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from spool_support import interval, numbers_of

from collector.batch import Origin
from collector.client import AgentClient
from collector.push import Pusher
from collector.spool import Spool
from tokenstone.wire import IngestAnswer, WindowBatch


class Service:
    """A small service that remembers what it took; `status` is what it answers, `lose_answers` how often not at all."""

    def __init__(self):
        self.status, self.lose_answers, self.window_seconds, self.most_windows = 200, 0, 10.0, 10**9
        self.taken, self.known, self.requests, self.headers, self.body = [], set(), 0, {}, None
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                service.requests += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                batch = WindowBatch.model_validate_json(gzip.decompress(body))
                numbers, key = numbers_of(batch), (batch.epoch, batch.sequence)
                status = 200 if service.status == 422 and 1 not in numbers else service.status
                if len(batch.series_index) > service.most_windows:
                    status = 413
                is_known = key in service.known
                if status == 200 and not is_known:
                    service.known.add(key)
                    service.taken += numbers
                if status == 200 and service.lose_answers:
                    service.lose_answers -= 1
                    self.close_connection = True
                    return
                answer = IngestAnswer(
                    status="duplicate" if is_known else "accepted", windows=0, window_seconds=service.window_seconds
                )
                text = answer.model_dump_json().encode() if status == 200 else b'{"title": "no"}'
                if service.body is not None:
                    text = service.body
                self.send_response(status)
                for name, value in service.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def service():
    service = Service()
    yield service
    service.stop()


@pytest.fixture
def start(tmp_path, service):
    stops = []

    def make(epoch="1-a", **options):
        spool = Spool(tmp_path / "spool", 1_000_000, Origin("lab", "n1", epoch))
        client = AgentClient(service.url)
        pusher = Pusher(spool, client, **{"first_wait_seconds": 0.01} | options)
        stops.extend([spool.close, client.close, pusher.stop])
        pusher.start()
        return spool, pusher

    yield make
    for stop in reversed(stops):
        stop()


def put(spool, *numbers):
    for number in numbers:
        spool.put(interval(number), ())


def test_a_service_that_was_away_gets_everything_in_order_exactly_once(service, start, eventually):
    service.status = 503
    spool, pusher = start()
    put(spool, 0, 1, 2)
    pusher.notify()
    eventually(lambda: service.requests >= 3)
    assert service.taken == []
    put(spool, 3, 4)
    service.status = 200
    eventually(lambda: spool.waiting_batches == 0)
    assert service.taken == [0, 1, 2, 3, 4]
    assert pusher.delivery().batches["duplicate"] == 0


def test_an_hour_without_a_service_is_handed_over_in_a_few_batches(service, start, eventually):
    service.status = 503
    spool, pusher = start()
    put(spool, *range(360))
    pusher.notify()
    eventually(lambda: service.requests >= 2)
    waited, service.status = service.requests, 200
    eventually(lambda: spool.waiting_batches == 0)
    assert service.taken == list(range(360))
    assert service.requests - waited <= 10
    assert spool.dropped_batches == 0


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


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"status": "accepted"}', b'{"status": 1, "window_seconds": 1}']
)
def test_garbage_for_an_answer_keeps_the_batch(service, start, eventually, body):
    service.body = body
    spool, pusher = start()
    put(spool, 0)
    pusher.notify()
    eventually(lambda: service.requests >= 2)
    assert spool.waiting_batches == 1
    service.body = None
    eventually(lambda: spool.waiting_batches == 0)
    assert service.taken == [0]  # the first attempt had arrived


def test_a_final_refusal_sets_the_batch_aside_and_never_blocks_the_rest(
    service, start, eventually, tmp_path, agent_log
):
    service.status = 422  # for number 1 only
    spool, pusher = start()
    for number in (0, 1, 2):
        put(spool, number)
        spool.oldest() if number else None
        pusher.notify()
        eventually(lambda: spool.waiting_batches == 0)
    assert service.taken == [0, 2]
    assert pusher.delivery().batches == {"accepted": 2, "duplicate": 0, "rejected": 1}
    [kept] = (tmp_path / "spool" / "rejected").iterdir()
    assert [entry["batch"] for entry in agent_log() if "set aside" in entry["event"]] == [kept.name]


def test_a_batch_too_long_for_the_service_arrives_in_parts(service, start, eventually):
    service.most_windows, service.status = 6, 503
    spool, pusher = start()
    put(spool, *range(11))
    service.status = 200
    pusher.notify()
    eventually(lambda: spool.waiting_batches == 0)
    assert sorted(service.taken) == list(range(11))
    assert ("1-a", 0) in service.known  # the place of what was split is not missing
    assert pusher.delivery().batches["rejected"] == 0


def test_a_service_that_asks_for_time_gets_it(service, start, eventually, agent_log):
    service.status, service.headers = 429, {"Retry-After": "7"}
    spool, pusher = start()
    put(spool, 0)
    pusher.notify()
    eventually(lambda: any("wait_seconds" in entry for entry in agent_log()))
    [waits] = [entry["wait_seconds"] for entry in agent_log() if "wait_seconds" in entry]
    assert waits == 7.0


def test_what_a_stopped_agent_could_not_hand_over_is_pushed_by_the_next(service, start, eventually):
    service.status = 503
    spool, pusher = start()
    put(spool, 0, 1)
    pusher.notify()
    eventually(lambda: service.requests >= 1)
    pusher.stop()
    spool.close()
    service.status = 200
    spool, _ = start(epoch="2-a")
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
