"""`/metrics`, `/-/healthy` and `/-/ready`: what a scrape sees, tick by tick."""

import socket
import urllib.error
import urllib.request

import pytest

from collector.exporter import CONTENT_TYPE, Exposition
from collector.listen import ListenAddress
from collector.server import MetricsServer
from tokenstone.errors import InvalidValue, PortInUse
from tokenstone.sample import Absence, Reading, Sample


def sample(source, *readings, error=None, absences=(), unix_seconds=1_800_000_000.0):
    return Sample(source, 0.0, unix_seconds, readings, tuple(absences), (), error, 0.25)


@pytest.fixture
def exposition(fake_time):
    return Exposition("node-1", fake_time.clock(), stale_seconds=10)


@pytest.fixture
def url(exposition):
    server = MetricsServer(ListenAddress("127.0.0.1", 0), exposition)
    yield f"http://{server.start()}"
    server.stop()


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode(), response.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), None


def lines(exposition):
    return [line for line in exposition.body().decode().splitlines() if not line.startswith("#")]


def test_a_failed_source_drops_its_series_says_why_and_breaks_nothing(exposition):
    power = Reading("accel_power_watts", 300.0, "GPU-1")
    load = Reading("host_load_average", 1.5)
    exposition.update([sample("nvml", power), sample("cpu", load)])
    assert 'accel_power_watts{device="GPU-1",node="node-1"} 300.0' in lines(exposition)
    gone = Absence("accel_power_watts", 'the driver said "no"\n')
    exposition.update(
        [sample("nvml", error="gone", absences=[gone]), sample("cpu", load, unix_seconds=1_800_000_001.0)]
    )
    shown = lines(exposition)
    assert not [line for line in shown if line.startswith("accel_power_watts")]
    assert 'host_load_average{device="host",node="node-1"} 1.5' in shown
    assert 'tokenstone_source_up{device="host",node="node-1",source="nvml"} 0.0' in shown
    assert 'tokenstone_source_up{device="host",node="node-1",source="cpu"} 1.0' in shown
    by = 'device="host",node="node-1",source="nvml"'
    assert f"tokenstone_source_last_success_timestamp_seconds{{{by}}} 1800000000.0" in shown
    assert (
        'tokenstone_metric_absent{device="host",metric="accel_power_watts",node="node-1",'
        r'reason="the driver said \"no\"\n",source="nvml"} 1.0'
    ) in shown


def test_a_source_that_never_answered_has_no_last_success(exposition):
    exposition.update([sample("nvml", error="gone")])
    assert not [line for line in lines(exposition) if "last_success" in line]


def test_numbers_that_are_none_are_not_shown(exposition):
    exposition.update([sample("cpu", Reading("host_load_average", float("nan")))])
    assert not [line for line in lines(exposition) if line.startswith("host_load_average")]


def test_one_series_is_shown_once_though_two_sources_give_it(exposition):
    reading = Reading("host_load_average", 1.0)
    exposition.update([sample("cpu", reading), sample("other", reading)])
    assert len([line for line in lines(exposition) if line.startswith("host_load_average")]) == 1


def test_scrapes_between_two_ticks_get_the_same_bytes(exposition):
    exposition.update([sample("cpu", Reading("host_load_average", 1.0))])
    assert exposition.body() is exposition.body()


def test_nothing_is_served_before_the_first_tick_nor_when_the_loop_hangs(exposition, url, fake_time):
    for path in ("/metrics", "/-/ready"):
        assert get(url + path)[:2] == (503, "starting: nothing has been sampled yet\n")
    assert get(url + "/-/healthy")[0] == 200  # a start is no reason to be restarted
    exposition.update([sample("cpu", Reading("host_load_average", 1.0))])
    for path in ("/-/healthy", "/-/ready"):
        assert get(url + path)[:2] == (200, "ok\n")
    status, text, kind = get(url + "/metrics?x=1")
    assert (status, kind) == (200, CONTENT_TYPE)
    assert "host_load_average" in text
    fake_time.advance(11)
    for path in ("/metrics", "/-/healthy", "/-/ready"):
        assert get(url + path)[:2] == (503, "the sampling loop has not ticked for more than 10 s\n")


def test_an_agent_that_never_ticks_is_unhealthy_after_a_while(exposition, url, fake_time):
    fake_time.advance(11)
    assert get(url + "/-/healthy")[0] == 503


def test_other_paths_are_not_found(url):
    assert get(url + "/")[:2] == (404, "try /metrics, /-/healthy, /-/ready\n")


def test_a_port_in_use_is_one_clear_error(exposition):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = ListenAddress("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(PortInUse, match=rf"{listen}: another program listens there"):
            MetricsServer(listen, exposition)


def test_an_impossible_address_is_one_clear_error(exposition):
    with pytest.raises(InvalidValue, match="cannot listen"):
        MetricsServer(ListenAddress("203.0.113.7", 9478), exposition)
