"""GPU performance monitoring: hardware counters of Hopper and newer, without a daemon and without privileges.

The driver compares two samples that we hold, so a figure is the mean since the reading before.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, NamedTuple

import pynvml

from collector.sources.nvml_errors import Fault, classify, explain
from tokenstone.sample import labels

# The driver refreshes its samples every 100 ms; two closer together may be the same one.
_SHORTEST_INTERVAL_SECONDS = 0.15
_MEBIBYTE = 1024.0**2
# A share of more than the whole by this much is no rounding: it is one of the driver's blank values.
_LARGEST_RATIO = 1.1


class _GpmMetric(NamedTuple):
    id: int
    metric: str
    factor: float
    labels: tuple[tuple[str, str], ...] = ()


_LINK = "accel_link_bytes_per_second"
_METRICS = (
    _GpmMetric(pynvml.NVML_GPM_METRIC_SM_UTIL, "accel_sm_active_ratio", 0.01),
    _GpmMetric(pynvml.NVML_GPM_METRIC_SM_OCCUPANCY, "accel_sm_occupancy_ratio", 0.01),
    _GpmMetric(pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL, "accel_tensor_active_ratio", 0.01),
    _GpmMetric(pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL, "accel_memory_bandwidth_ratio", 0.01),
    _GpmMetric(pynvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC, _LINK, _MEBIBYTE, labels(link="pcie", direction="tx")),
    _GpmMetric(pynvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC, _LINK, _MEBIBYTE, labels(link="pcie", direction="rx")),
    _GpmMetric(pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, _LINK, _MEBIBYTE, labels(link="nvlink", direction="tx")),
    _GpmMetric(pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, _LINK, _MEBIBYTE, labels(link="nvlink", direction="rx")),
)  # fmt: skip

METRICS = tuple(dict.fromkeys(entry.metric for entry in _METRICS))
"""What a device with performance monitoring gives."""

Value = tuple[str, float, tuple[tuple[str, str], ...]]
"""Metric, value and labels."""


class GpmReader:
    """Performance monitoring of one device."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._before: Any = None
        self._now: Any = None
        self._before_seconds = 0.0
        self._off: dict[_GpmMetric, str] = {}
        reason = self._why_not()
        if reason is not None:
            self._off = dict.fromkeys(_METRICS, reason)
            return
        self._request = pynvml.c_nvmlGpmMetricsGet_t()
        self._request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        self._before, self._now = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
        self._has_sample = False

    def _why_not(self) -> str | None:
        try:
            if pynvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
                return None
        except pynvml.NVMLError as error:
            if classify(error.value) in {Fault.DEVICE_LOST, Fault.DRIVER_LOST}:
                raise
            return f"performance monitoring: {explain(error)}"
        return "performance monitoring: this device has none (Hopper and newer do)"

    def read(self, monotonic_seconds: float) -> tuple[list[Value], dict[str, str]]:
        """Return values since the reading before, and a reason for each metric that is missing.

        The first reading has nothing before it and returns neither. Raises NVMLError where the whole call fails.
        """
        if self._now is None:
            return [], self._reasons(self._off)
        if self._has_sample and monotonic_seconds - self._before_seconds < _SHORTEST_INTERVAL_SECONDS:
            return [], self._reasons(self._off)
        pynvml.nvmlGpmSampleGet(self._handle, self._now)
        try:
            return self._compare() if self._has_sample else ([], {})
        finally:
            self._before, self._now = self._now, self._before
            self._before_seconds, self._has_sample = monotonic_seconds, True

    def _compare(self) -> tuple[list[Value], dict[str, str]]:
        wanted = [entry for entry in _METRICS if entry not in self._off]
        self._request.sample1, self._request.sample2 = self._before, self._now
        self._request.numMetrics = len(wanted)
        for slot, entry in enumerate(wanted):
            self._request.metrics[slot].metricId = entry.id
        if wanted:
            pynvml.nvmlGpmMetricsGet(self._request)
        values: list[Value] = []
        missing: dict[_GpmMetric, str] = {}
        for slot, entry in enumerate(wanted):
            answer = self._request.metrics[slot]
            if answer.nvmlReturn != pynvml.NVML_SUCCESS:
                missing[entry] = _why(entry, explain(int(answer.nvmlReturn)))
                if classify(answer.nvmlReturn) is Fault.UNSUPPORTED:
                    self._off[entry] = missing[entry]
            elif not _plausible(entry, answer.value):
                missing[entry] = _why(entry, "the driver gave no number")
            else:
                values.append((entry.metric, answer.value * entry.factor, entry.labels))
        return values, self._reasons({**self._off, **missing})

    @staticmethod
    def _reasons(missing: dict[_GpmMetric, str]) -> dict[str, str]:
        reasons: dict[str, list[str]] = {}
        for entry, reason in missing.items():
            known = reasons.setdefault(entry.metric, [])
            if reason not in known:
                known.append(reason)
        return {metric: "; ".join(parts) for metric, parts in reasons.items()}

    def close(self) -> None:
        """Give the samples back to the driver."""
        for sample in (self._before, self._now):
            if sample is not None:
                with suppress(pynvml.NVMLError):
                    pynvml.nvmlGpmSampleFree(sample)
        self._before = self._now = None


def _why(entry: _GpmMetric, reason: str) -> str:
    which = " ".join(value for _, value in reversed(entry.labels))
    return f"performance monitoring{f' of {which}' if which else ''}: {reason}"


def _plausible(entry: _GpmMetric, value: float) -> bool:
    if not math.isfinite(value) or value < 0:
        return False
    return value * entry.factor <= (_LARGEST_RATIO if entry.metric.endswith("_ratio") else 1e15)
