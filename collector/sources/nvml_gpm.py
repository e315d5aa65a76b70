"""GPU performance monitoring: hardware counters of Hopper and newer, without a daemon and without privileges.

The driver compares two samples that we hold, so a figure is the mean since the reading before.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any, NamedTuple

import pynvml

from collector.sources.nvml_driver import NvmlDriver, SwitchedOff
from collector.sources.nvml_errors import NO_NUMBER, Fault, classify, explain, is_lost
from collector.sources.nvml_values import BlankValue, Value, real
from tokenstone.sample import labels

# The driver refreshes its samples every 100 ms; two closer together may be the same one.
_SHORTEST_INTERVAL_SECONDS = 0.15
_MEBIBYTE = 1024.0**2

# nvmlGpmMetric_t: id, return code, value, names. Read as a whole, as in `nvml_fields`.
_ANSWER = struct.Struct("=4xid24x")
_FIRST = pynvml.c_nvmlGpmMetricsGet_t.metrics.offset


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


class GpmReader:
    """Performance monitoring of one device, or of one instance of it (MIG): `instance` is its GPU instance id."""

    def __init__(self, driver: NvmlDriver, handle: Any, *, instance: int | None = None) -> None:
        self._driver, self._handle, self._instance = driver, handle, instance
        self._before: Any = None
        self._now: Any = None
        self._before_seconds = 0.0
        self._has_sample = False
        self._off: dict[_GpmMetric, str] = {}
        self._request: Any = None
        self._asked: list[_GpmMetric] = []
        reason = self._why_not()
        if reason is not None:
            self._off = dict.fromkeys(_METRICS, reason)
            return
        self._request = pynvml.c_nvmlGpmMetricsGet_t()
        self._request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        self._before, self._now = driver.call("nvmlGpmSampleAlloc"), driver.call("nvmlGpmSampleAlloc")

    def _why_not(self) -> str | None:
        try:
            if self._driver.call("nvmlGpmQueryDeviceSupport", self._handle).isSupportedDevice:
                return None
        except (pynvml.NVMLError, SwitchedOff) as error:
            if is_lost(error):
                raise
            return f"performance monitoring: {explain(error)}"
        return "performance monitoring: this device has none (Hopper and newer do)"

    def read(self, monotonic_seconds: float) -> tuple[list[Value], list[tuple[str, str]]]:
        """Return values since the reading before, and a reason for each metric that is missing.

        The first reading has nothing before it and returns neither. Raises NVMLError where the whole call fails and
        the device or the driver is lost.
        """
        if self._now is None:
            return [], self._reasons(self._off)
        if self._has_sample and monotonic_seconds - self._before_seconds < _SHORTEST_INTERVAL_SECONDS:
            return [], self._reasons(self._off)
        try:
            self._sample()
        except (pynvml.NVMLError, SwitchedOff) as error:
            if is_lost(error):
                raise
            self._has_sample = False
            return [], [(metric, f"performance monitoring: {explain(error)}") for metric in METRICS]
        try:
            return self._compare() if self._has_sample else ([], [])
        finally:
            self._before, self._now = self._now, self._before
            self._before_seconds, self._has_sample = monotonic_seconds, True

    def _sample(self) -> None:
        if self._instance is None:
            self._driver.call("nvmlGpmSampleGet", self._handle, self._now)
        else:
            self._driver.call("nvmlGpmMigSampleGet", self._handle, self._instance, self._now)

    def _compare(self) -> tuple[list[Value], list[tuple[str, str]]]:
        wanted = [entry for entry in _METRICS if entry not in self._off]
        request = self._request
        request.sample1, request.sample2 = self._before, self._now
        if wanted != self._asked:
            request.numMetrics = len(wanted)
            for slot, entry in enumerate(wanted):
                request.metrics[slot].metricId = entry.id
            self._asked = wanted
        if wanted:
            try:
                self._driver.call("nvmlGpmMetricsGet", request)
            except (pynvml.NVMLError, SwitchedOff) as error:
                if is_lost(error):
                    raise
                return [], [(metric, f"performance monitoring: {explain(error)}") for metric in METRICS]
        values: list[Value] = []
        missing: dict[_GpmMetric, str] = {}
        answers = _ANSWER.iter_unpack(memoryview(request).cast("B")[_FIRST : _FIRST + len(wanted) * _ANSWER.size])
        for entry, (code, raw) in zip(wanted, answers, strict=True):
            if code:
                missing[entry] = _why(entry, explain(code))
                if classify(code) is Fault.UNSUPPORTED:
                    self._off[entry] = missing[entry]
                continue
            try:
                number = real(raw, entry.factor, is_ratio=entry.metric.endswith("_ratio"))
            except BlankValue:
                missing[entry] = _why(entry, NO_NUMBER)
            else:
                values.append((entry.metric, number, entry.labels))
        return values, self._reasons(self._off | missing)

    @staticmethod
    def _reasons(missing: dict[_GpmMetric, str]) -> list[tuple[str, str]]:
        return list(dict.fromkeys((entry.metric, reason) for entry, reason in missing.items()))

    def close(self) -> None:
        """Give the samples back to the driver."""
        for sample in (self._before, self._now):
            if sample is not None:
                with suppress(pynvml.NVMLError, SwitchedOff):
                    self._driver.call("nvmlGpmSampleFree", sample)
        self._before = self._now = None


def _why(entry: _GpmMetric, reason: str) -> str:
    which = " ".join(value for _, value in reversed(entry.labels))
    return f"performance monitoring{f' of {which}' if which else ''}: {reason}"
