"""Windows keep what was sampled: nothing of a counter is lost at a boundary, and absent is not zero."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstone.sample import Reading
from tokenstone.window import WindowBuilder

ENERGY, POWER = "accel_energy_joules_total", "accel_power_watts"


def close(builder):
    return builder.close(unix_seconds=0.0, duration_seconds=1.0)


@given(st.lists(st.tuples(st.floats(0, 1e9), st.booleans()), min_size=1))
def test_counter_deltas_add_up_whatever_the_boundaries(steps):
    builder, value, first, total = WindowBuilder(0.0), 0.0, None, 0.0
    for step, boundary in steps:
        value += step
        first = value if first is None else first
        builder.add([Reading(ENERGY, value, "gpu0")])
        if boundary:
            total += sum(window.delta or 0.0 for window in close(builder))
    total += sum(window.delta or 0.0 for window in close(builder))
    assert total == pytest.approx(value - first, rel=1e-9, abs=1e-6)


def test_the_first_reading_of_a_counter_has_no_delta():
    builder = WindowBuilder(0.0)
    builder.add([Reading(ENERGY, 5e9, "gpu0")])
    [window] = close(builder)
    assert window.delta is None
    assert window.count == 1


def test_a_reset_counter_counts_from_zero():
    builder = WindowBuilder(0.0)
    builder.add([Reading(ENERGY, 100.0, "gpu0"), Reading(ENERGY, 130.0, "gpu0"), Reading(ENERGY, 7.0, "gpu0")])
    assert close(builder)[0].delta == 37.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_gauges_keep_count_mean_and_extremes(values):
    builder = WindowBuilder(0.0)
    builder.add(Reading(POWER, value, "gpu0") for value in values)
    [window] = close(builder)
    assert window.count == len(values)
    assert (window.minimum, window.maximum) == (min(values), max(values))
    assert window.minimum <= window.mean <= window.maximum
    assert window.mean == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_a_silent_series_has_no_window():
    builder = WindowBuilder(0.0)
    builder.add([Reading(POWER, 1.0, "gpu0"), Reading(ENERGY, 1.0, "gpu0")])
    assert len(close(builder)) == 2
    assert close(builder) == []


def test_not_a_number_is_not_a_reading():
    builder = WindowBuilder(0.0)
    builder.add([Reading(POWER, float("nan"), "gpu0")])
    assert close(builder) == []


def test_series_differ_by_device_and_labels():
    builder = WindowBuilder(0.0)
    builder.add([Reading(POWER, 1.0, "gpu0"), Reading(POWER, 3.0, "gpu1")])
    assert {window.series.device: window.mean for window in close(builder)} == {"gpu0": 1.0, "gpu1": 3.0}
