"""The sampling loop on a clock that the test moves."""

from itertools import accumulate, cycle, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.clock import Clock
from collector.exporter import Exposition
from collector.lanes import Lanes
from collector.loop import SamplingLoop
from collector.sources import base
from collector.sources.base import Parts
from tokenstone.sample import Reading


class Source(base.Source):
    """Gives what `values` yields, as a counter and a gauge; an exception among them is raised."""

    def __init__(
        self, values, name="fake", metrics=("disk_reads_completed_total", "host_load_average"), work=lambda: None
    ):
        self.values, self.name, self.metrics, self.work = iter(values), name, metrics, work

    def read(self):
        self.work()
        value = next(self.values)
        if isinstance(value, Exception):
            raise value
        return Parts(
            (
                Reading("disk_reads_completed_total", value, labels=(("disk", self.name),)),
                Reading("host_load_average", value),
            )
        )


class MovedTime:
    """As the fixture `fake_time`, which hypothesis may not share between examples."""

    seconds = 0.0

    def advance(self, seconds):
        self.seconds += seconds

    def clock(self):
        return Clock(lambda: self.seconds, lambda: self.seconds, lambda: 0.0)


class StopAfter:
    """Stops at the given number of waits; each wait moves the clock, and may wake a little late."""

    def __init__(self, time, waits, late=lambda: 0.0):
        self.time, self.left, self.late, self.waited = time, waits, late, []

    def wait(self, timeout):
        self.waited.append(timeout)
        self.time.advance(timeout + self.late())
        self.left -= 1
        return self.left < 0


def run(time, sources, waits, *, window_seconds=lambda: 10.0, sample_seconds=1.0, late=lambda: 0.0, exposition=None):
    closed = []
    clock = time.clock()
    lanes = Lanes(sources, clock, patience_seconds=60)
    loop = SamplingLoop(
        lanes,
        exposition or Exposition("n", clock, stale_seconds=10),
        sample_seconds=sample_seconds,
        window_seconds=window_seconds,
        sink=lambda windows, samples: closed.append((windows, samples)),
        clock=clock,
    )
    stop = StopAfter(time, waits, late)
    loop.run(stop)
    lanes.close()
    return closed, stop


def windows_of(closed, metric):
    return [window for windows, _ in closed for window in windows if window.series.metric == metric]


def test_windows_have_mean_minimum_maximum_and_the_counters_increase(fake_time):
    closed, _ = run(fake_time, [Source(range(100))], 24)
    gauges, counters = windows_of(closed, "host_load_average"), windows_of(closed, "disk_reads_completed_total")
    assert [window.count for window in gauges] == [11, 10, 5]  # the first has the reading at its very start too
    assert [(window.minimum, window.mean, window.maximum) for window in gauges[:2]] == [(0, 5, 10), (11, 15.5, 20)]
    assert [window.delta for window in counters] == [10, 10, 5]
    assert [window.duration_seconds for window in gauges] == pytest.approx([10, 10, 5])
    starts = [window.start_unix_seconds for window in gauges]
    assert [later - earlier for earlier, later in pairwise(starts)] == pytest.approx([10, 10])


def test_late_wake_ups_neither_drift_nor_move_the_windows(fake_time):
    began = fake_time.seconds
    closed, stop = run(fake_time, [Source(range(100))], 30, late=lambda: 0.004)
    assert fake_time.seconds - began == pytest.approx(31.0, abs=0.01)
    assert stop.waited[5] == pytest.approx(0.996)
    assert [window.delta for window in windows_of(closed, "disk_reads_completed_total")] == [10, 10, 10, 1]


def test_a_slow_tick_skips_the_ones_it_missed(fake_time):
    work = iter([0, 0, 2.5] + [0] * 10)
    times = []

    def slow():
        times.append(fake_time.seconds - 1000)
        fake_time.advance(next(work))

    run(fake_time, [Source(range(20), work=slow)], 4)
    assert times == pytest.approx([0, 1, 2, 5, 6, 7])


def test_the_service_may_shorten_windows_at_any_time(fake_time):
    asked = iter([10.0] * 4 + [1.0] * 3 + [10.0] * 30)
    closed, _ = run(fake_time, [Source(range(100))], 18, window_seconds=lambda: next(asked))
    assert [round(window.duration_seconds) for window in windows_of(closed, "host_load_average")] == [5, 1, 1, 10, 2]
    assert sum(window.delta for window in windows_of(closed, "disk_reads_completed_total")) == 19


def test_a_counter_that_was_reset_counts_on_from_zero(fake_time):
    closed, _ = run(fake_time, [Source([100, 110, 4, 6])], 2)
    assert [window.delta for window in windows_of(closed, "disk_reads_completed_total")] == [10 + 4 + 2]


def test_a_source_that_fails_is_down_and_the_others_go_on(fake_time, agent_log):
    bad = Source([1, RuntimeError("the cable is out"), 3, 4], name="bad")
    closed, _ = run(fake_time, [bad, Source(range(9), name="good")], 2)
    logs = agent_log()
    counters = {dict(w.series.labels)["disk"]: w for w in windows_of(closed, "disk_reads_completed_total")}
    assert (counters["bad"].count, counters["good"].count) == (3, 4)
    up = {dict(w.series.labels)["source"]: w for w in windows_of(closed, "tokenstone_source_up")}
    assert (up["bad"].mean, up["bad"].minimum, up["good"].mean) == (0.75, 0, 1)
    changes = [(entry["event"], entry["source"]) for entry in logs if "source" in entry]
    assert changes == [
        ("source is up", "bad"),
        ("source is up", "good"),
        ("source is down", "bad"),
        ("source is up", "bad"),
    ]
    [why] = [entry["why"] for entry in logs if entry["event"] == "source is down"]
    assert why == "RuntimeError: the cable is out"


def test_windows_that_cannot_be_kept_do_not_end_the_loop(fake_time, agent_log):
    def refuse(windows, samples):
        raise OSError("disk full")

    clock = fake_time.clock()
    lanes = Lanes([Source(range(99))], clock, patience_seconds=60)
    loop = SamplingLoop(
        lanes,
        Exposition("n", clock, stale_seconds=10),
        sample_seconds=1,
        window_seconds=lambda: 2.0,
        sink=refuse,
        clock=clock,
    )
    loop.run(StopAfter(fake_time, 6))
    lanes.close()
    assert [entry["event"] for entry in agent_log()].count("windows could not be kept") == 4


@given(
    steps=st.lists(st.integers(0, 10**12), min_size=2, max_size=60),
    lengths=st.lists(st.sampled_from([1.0, 2.0, 3.0, 10.0]), min_size=1, max_size=10),
    late=st.sampled_from([0.0, 0.01, 0.3, 1.7]),
)
def test_deltas_add_up_to_last_minus_first_whatever_the_windows(steps, lengths, late):
    totals = list(accumulate(steps))
    asked = cycle(lengths)
    closed, _ = run(
        MovedTime(), [Source(totals)], len(totals) - 2, window_seconds=lambda: next(asked), late=lambda: late
    )
    deltas = [window.delta for window in windows_of(closed, "disk_reads_completed_total") if window.delta is not None]
    assert sum(deltas) == totals[-1] - totals[0]


def test_a_suspended_machine_is_in_no_window(fake_time):
    def fall_asleep():
        if fake_time.seconds == 1004.0 and not fake_time.asleep:
            fake_time.asleep = 3600.0  # the monotonic clock stood still meanwhile, the wall clock did not
            fake_time.stepped = 3600.0

    closed, _ = run(fake_time, [Source(range(100), work=fall_asleep)], 14)
    gauges = windows_of(closed, "host_load_average")
    assert [window.duration_seconds for window in gauges] == pytest.approx([4, 10])
    assert gauges[1].start_unix_seconds - gauges[0].start_unix_seconds == pytest.approx(3605)
    deltas = [window.delta for window in windows_of(closed, "disk_reads_completed_total")]
    assert sum(deltas) == 15  # nothing of a counter is lost over it


@pytest.mark.parametrize("step", [-7200.0, 7200.0])
def test_a_wall_clock_that_is_stepped_changes_no_duration_and_no_delta(fake_time, step):
    def set_the_clock():
        if fake_time.seconds == 1013.0:
            fake_time.stepped = step

    closed, _ = run(fake_time, [Source(range(100), work=set_the_clock)], 29)
    windows = windows_of(closed, "disk_reads_completed_total")
    assert [(round(window.duration_seconds), window.delta) for window in windows] == [(10, 10), (10, 10), (10, 10)]


def test_held_readings_are_shown_and_counted_once(fake_time):
    class Tiers(base.Source):
        name, metrics = "tiers", ("host_load_average",)
        slow = Reading("host_load_average", 7.0)

        def read(self):
            if fake_time.seconds % 5 == 0:
                return Parts((self.slow,))
            return Parts((), held=(self.slow,))

    exposition = Exposition("n", fake_time.clock(), stale_seconds=10)
    closed, _ = run(fake_time, [Tiers()], 8, exposition=exposition)
    assert [window.count for window in windows_of(closed, "host_load_average")] == [2]
    assert b'host_load_average{device="host",node="n"} 7.0' in exposition.body()
