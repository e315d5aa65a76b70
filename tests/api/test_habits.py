"""What people expect of an HTTP service: ids, tags, limits, headers, answers that can be asked for twice."""

import json

import pytest
import zstandard

from api import examples

JSON = {"Content-Type": "application/json"}
LIFE = "/v1/runs/train-1"


def test_a_request_id_is_echoed_or_drawn(api):
    assert api.get("/healthz", headers={"X-Request-ID": "mine-7"}).headers["x-request-id"] == "mine-7"
    bad = ("", "a b", "x" * 200)
    drawn = {api.get("/healthz", headers={"X-Request-ID": name}).headers["x-request-id"] for name in bad}
    assert len(drawn) == 3
    assert all(len(name) == 32 for name in drawn)
    assert api.get("/nothing").headers["x-request-id"]


def test_a_fault_of_ours_can_be_found_by_its_id(api, problem, capsys):
    def fail() -> None:
        raise RuntimeError("the disc is on fire")

    api.app.add_api_route("/fail", fail)
    response = api.get("/fail", headers={"X-Request-ID": "call-9"})
    assert problem(response, 500)["request_id"] == "call-9"
    assert response.headers["x-request-id"] == "call-9"
    logged = "".join(capsys.readouterr())
    assert "call-9" in logged
    assert "the disc is on fire" in logged


@pytest.mark.parametrize("path", ["/healthz", "/v1/runs", "/openapi.json", "/nothing", "/v1/fleet/html", "/metrics"])
def test_every_answer_has_headers_of_safety(api, path):
    headers = api.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_no_page_loads_anything_from_elsewhere(api, problem):
    for path in ("/docs", "/redoc"):
        problem(api.get(path), 404)
    assert "http" not in api.get("/v1/fleet/html").text.replace("http-equiv", "")


@pytest.fixture
def immutable(api, end_run):
    end_run(api)
    api.post("/v1/price-books", json=examples.PRICE_BOOK)
    [score] = api.get(f"{LIFE}/scores").json()["items"]
    return [f"{LIFE}/facts", f"{LIFE}/scores/{score['number']}", "/v1/price-books/ours/2026-11"]


def test_what_never_changes_is_sent_once(api, immutable, problem):
    for path in immutable:
        first = api.get(path)
        assert first.status_code == 200, path
        tag = first.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = api.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert api.get(path, headers={"If-None-Match": '"other"'}).json() == first.json()
    problem(api.get(f"{LIFE}/scores/999"), 404)
    problem(api.get("/v1/price-books/ours/1999"), 404)
    problem(api.get("/v1/price-books/nobodys"), 404)


def test_scoring_with_an_idempotency_key_makes_one_score(api, end_run, problem, clock):
    end_run(api)
    headers = {"Idempotency-Key": "k-1"}
    first = api.post(f"{LIFE}/scores", json=examples.PRICE, headers=headers)
    again = api.post(f"{LIFE}/scores", json=examples.PRICE, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert len(api.get(f"{LIFE}/scores").json()["items"]) == 2
    other = problem(api.post(f"{LIFE}/scores", json={"usd_per_device_hour": 9.0}, headers=headers), 422)
    assert other["where"] == "header.Idempotency-Key"
    clock.now += 86_401
    api.post(f"{LIFE}/scores", json=examples.PRICE, headers=headers)
    assert len(api.get(f"{LIFE}/scores").json()["items"]) == 3


def test_a_key_of_a_request_belongs_to_who_sent_it(guarded, key, problem):
    one, two = key(guarded, "admin"), key(guarded, "admin")
    headers = {"Idempotency-Key": "k-1"}
    assert guarded.post("/v1/keys", json=examples.KEY, headers=one | headers).status_code == 201
    again = guarded.post("/v1/keys", json=examples.KEY, headers=one | headers)
    assert "told only once" in problem(again, 409)["detail"]
    assert guarded.post("/v1/keys", json=examples.KEY, headers=two | headers).status_code == 201


def test_a_client_that_asks_too_often_waits_and_others_do_not(open_api, problem):
    api = open_api(max_requests_per_second=2)
    answers = [api.get("/healthz") for _ in range(6)]
    assert [answer.status_code for answer in answers[:4]] == [200] * 4
    problem(answers[5], 429)
    assert int(answers[5].headers["retry-after"]) >= 1
    assert api.get("/healthz", headers={"Authorization": "Bearer another"}).status_code == 200


def test_requests_are_counted_without_a_series_for_every_word_of_a_client(api):
    api.get("/healthz")
    api.request("FROBNICATE", "/healthz")
    text = api.get("/metrics").text
    assert 'tokenstone_http_requests_total{method="GET",status="200"}' in text
    assert 'method="other",status="405"' in text
    assert "FROBNICATE" not in text


def zstd(document: dict) -> bytes:
    return zstandard.compress(json.dumps(document).encode())


def claims_much_memory() -> bytes:
    """A frame that asks its reader for 128 MiB."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return frame.compress(b"{}") + frame.flush()


def test_zstd_is_unpacked(api, batch):
    headers = JSON | {"Content-Encoding": "zstd"}
    assert api.post("/v1/windows", content=zstd(batch()), headers=headers).json()["windows"] == 2


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"no zstd at all", 400),
        (zstd({})[:-1], 400),
        (zstd({}) + b"more", 400),
        (zstandard.compress(b" " * 50_000_000), 413),
        (claims_much_memory(), 400),
    ],
)
def test_zstd_that_is_none_or_a_bomb_is_refused(open_api, problem, content, status):
    api = open_api(max_body_bytes=100_000)
    response = api.post("/v1/windows", content=content, headers=JSON | {"Content-Encoding": "zstd"})
    assert problem(response, status)["where"] == "body"


def test_agents_are_found_by_prometheus(api, batch, clock):
    api.post("/v1/windows", json=batch(), headers={"Tokenstone-Metrics-Address": ":9478"})
    api.post("/v1/windows", json=batch(node="node-2", cluster="b"), headers={"Tokenstone-Metrics-Address": "h2:1"})
    api.post("/v1/windows", json=batch(node="node-3"))
    assert api.get("/v1/prometheus/targets").json() == [
        {"targets": ["h2:1"], "labels": {"cluster": "b", "node": "node-2"}},
        {"targets": ["testclient:9478"], "labels": {"cluster": "default", "node": "node-1"}},
    ]
    api.post("/v1/windows", json=batch(sequence=1), headers={"Tokenstone-Metrics-Address": "[::1]:9"})
    [target] = api.get("/v1/prometheus/targets", params={"cluster": "default"}).json()
    assert target["targets"] == ["[::1]:9"]
    clock.now += 86_401
    assert api.get("/v1/prometheus/targets").json() == []


@pytest.mark.parametrize("address", ["nonsense", "host:port", "a b:1", "http://x:1", "x:123456", "x" * 400 + ":1"])
def test_an_address_that_is_none_is_refused(api, batch, problem, address):
    response = api.post("/v1/windows", json=batch(), headers={"Tokenstone-Metrics-Address": address})
    assert problem(response, 422)["where"] == "header.Tokenstone-Metrics-Address"
    assert api.get("/v1/nodes").json()["items"] == []
