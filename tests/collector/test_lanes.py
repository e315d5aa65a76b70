"""Sources that hang, are slow or hold a driver, read together."""

import threading

import pytest

from collector.lanes import Lanes
from collector.sources.base import Parts, Source
from tokenstone.sample import Reading


class Gate(Source):
    """Waits at a gate in each reading; `inside` tells how many are in it at once."""

    metrics = ("host_load_average",)
    most_at_once = at_once = 0
    guard = threading.Lock()

    def __init__(self, name, *, measures=False, every_seconds=0.0):
        self.name, self.measures, self.every_seconds = name, measures, every_seconds
        self.gate, self.entered, self.reads, self.closes = threading.Event(), threading.Event(), 0, 0
        self.gate.set()

    def read(self):
        with self.guard:
            Gate.at_once += self.measures
            Gate.most_at_once = max(Gate.most_at_once, Gate.at_once)
        self.entered.set()
        assert self.gate.wait(30)
        self.reads += 1
        with self.guard:
            Gate.at_once -= self.measures
        return Parts((Reading("host_load_average", self.reads),))

    def close(self):
        self.closes += 1

    def doing(self):
        return "nvmlDeviceGetPowerUsage does not return"


@pytest.fixture
def lanes(fake_time):
    made = []

    def make(*sources, patience_seconds=0.02):
        Gate.most_at_once = Gate.at_once = 0
        made.append((Lanes(sources, fake_time.clock(), patience_seconds=patience_seconds), sources))
        return made[-1][0]

    yield make
    for lanes, sources in made:
        for source in sources:
            source.gate.set()
        lanes.close()


def states(taken):
    return {sample.source: (sample.error is None, is_fresh) for sample, is_fresh in taken}


def test_a_hung_source_is_down_after_its_deadline_and_the_others_go_on(lanes, fake_time, eventually):
    hung, other, reader = Gate("hung", measures=True), Gate("other", measures=True), Gate("reader")
    hung.gate.clear()
    readers = lanes(hung, other, reader)
    before = threading.active_count()
    assert states(readers.read()) == {"reader": (True, True)}  # the other waits for its turn as long as it may
    fake_time.advance(6)
    taken = readers.read()
    [failure] = [sample for sample, _ in taken if sample.source == "hung"]
    assert failure.error == "it has not answered for more than 5 s: nvmlDeviceGetPowerUsage does not return"
    assert [absence.metric for absence in failure.absences] == ["host_load_average"]
    eventually(lambda: states(readers.read()).get("other") == (True, True))
    for _ in range(50):
        fake_time.advance(1)
        assert states(readers.read())["hung"] == (False, True)
    assert threading.active_count() <= before + 1  # however long it hangs
    assert hung.reads == 0
    hung.gate.set()
    eventually(lambda: states(readers.read())["hung"] == (True, True))


def test_a_slow_reader_does_not_hold_up_the_other_readers(lanes, eventually):
    slow, quick = Gate("slow"), Gate("quick")
    slow.gate.clear()
    readers = lanes(slow, quick)
    readers.read()
    eventually(lambda: states(readers.read()).get("quick") == (True, True))
    assert slow.reads == 0


def test_sources_that_measure_are_read_one_after_another(lanes):
    sources = [Gate(f"m{i}", measures=True) for i in range(5)]
    readers = lanes(*sources, patience_seconds=30)
    for _ in range(20):
        assert set(states(readers.read()).values()) == {(True, True)}
    assert Gate.most_at_once == 1


def test_a_source_that_is_not_due_keeps_its_sample(lanes, fake_time):
    source = Gate("filesystem", every_seconds=10)
    readers = lanes(source, patience_seconds=30)
    fresh = []
    for _ in range(21):
        fresh.append(states(readers.read())["filesystem"][1])
        fake_time.advance(1)
    assert [tick for tick, is_fresh in enumerate(fresh) if is_fresh] == [0, 10, 20]


def test_drivers_are_released_and_taken_again_on_request(lanes, fake_time):
    driver, files = Gate("nvml", measures=True, every_seconds=5), Gate("cpu")
    readers = lanes(driver, files, patience_seconds=30)
    readers.read()
    readers.released.set()
    fake_time.advance(1)
    for _ in range(3):
        assert states(readers.read()) == {"nvml": (False, True), "cpu": (True, True)} or driver.closes == 1
    assert (driver.closes, driver.reads) == (1, 1)
    [sample] = [sample for sample, _ in readers.read() if sample.source == "nvml"]
    assert sample.error == "released on request; SIGUSR2 takes it again"
    readers.released.clear()
    assert states(readers.read())["nvml"] == (True, True)
