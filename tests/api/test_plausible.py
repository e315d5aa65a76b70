"""Which windows the service takes for possible."""

import pytest

from api.plausible import check_batch
from api.settings import Settings
from tokenstone.errors import InvalidValue
from tokenstone.wire import WindowBatch

NOW = 1_800_000_000.0


def batch(metric, value):
    return WindowBatch(
        node="n", epoch="e", sequence=0, series=[{"metric": metric, "device": "host"}], series_index=[0],
        start_unix_seconds=[NOW - 20], duration_seconds=[10], count=[1],
        mean=[value], minimum=[value], maximum=[value], delta=[None],
    )  # fmt: skip


@pytest.mark.parametrize("seconds", [-3600.0, -0.002, 0.0, 0.002])
def test_a_clock_may_be_ahead_or_behind(seconds):
    check_batch(batch("tokenstone_clock_offset_seconds", seconds), Settings(), now=NOW)


def test_other_gauges_are_never_negative():
    with pytest.raises(InvalidValue):
        check_batch(batch("host_load_average", -0.1), Settings(), now=NOW)
