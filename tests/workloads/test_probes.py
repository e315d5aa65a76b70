"""Probes measure something plausible, quickly."""

from __future__ import annotations

import pytest

from tokenstone.errors import UnknownName
from workloads.device import Device
from workloads.probes.run import probe
from workloads.probes.timing import Rate, measure


@pytest.mark.slow
def test_a_probe_is_plausible(device: Device) -> None:
    measured = probe("fp32", device, seconds=0.3)
    assert 1e9 < measured.gemm_flops_per_second < 1e15
    assert 1e8 < measured.memory_bytes_per_second < 1e13
    assert 0 <= measured.gemm_spread_ratio < 1
    assert measured.repetitions >= 5
    assert measured.dtype == "fp32"


def test_unknown_dtypes_are_refused(device: Device) -> None:
    with pytest.raises(UnknownName, match="fp7"):
        probe("fp7", device)


def test_a_rate_knows_its_spread() -> None:
    assert Rate(best=10.0, median=8.0, repetitions=3).spread_ratio == pytest.approx(0.2)


def test_every_repetition_is_done(device: Device) -> None:
    calls: list[None] = []
    rate = measure(lambda: calls.append(None), 5.0, device, seconds=0.0, least=7)
    assert rate.repetitions == 7
    assert len(calls) == 8  # and one to warm up
    assert rate.best >= rate.median > 0
