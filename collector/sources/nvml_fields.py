"""Field values: many figures of a device in one call of the driver."""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import pynvml

from collector.sources.counters import Unwrapped
from collector.sources.nvml_driver import NvmlDriver, SwitchedOff
from collector.sources.nvml_errors import NO_NUMBER, Fault, classify, explain, is_lost
from collector.sources.nvml_values import BlankValue, Value, real, whole
from tokenstone.sample import labels

_ALL_LINKS = 0xFFFFFFFF
_KIBIBYTE = 1024.0
# Faster than any device's links or lanes, one direction: how soon a register of bytes may be full.
_FASTEST_LINK = 4e12
_FASTEST_PCIE = 256e9

_BITS = {
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: 32,
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: 64,
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: 64,
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: 64,
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: 32,
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: 16,
}

# nvmlFieldValue_t: id, scope, timestamp, latency, type, return code, value. Read as a whole, because the binding's
# access to one member at a time costs more than the call.
_ANSWER = struct.Struct("=24xiiQ")

# What NVML_FI_DEV_GET_GPU_RECOVERY_ACTION says; the binding of an older release does not name them all.
_RECOVERY = ("none", "gpu_reset", "node_reboot", "drain_p2p", "drain_and_reset")


class Field(NamedTuple):
    """One field. `others` are fields that give the same on devices that do not have this one.

    `fastest` is the most units of the metric a second that a counter can grow by: it says whether a register that
    wraps can still be followed.
    """

    id: int
    what: str
    metric: str
    factor: float = 1.0
    labels: tuple[tuple[str, str], ...] = ()
    scope: int = 0
    fastest: float | None = None
    others: tuple[tuple[int, float], ...] = ()
    one_of: tuple[str, ...] = ()


def _link(link: str, direction: str) -> tuple[tuple[str, str], ...]:
    return labels(link=link, direction=direction)


def _throttle(id_: int, reason: str) -> Field:
    return Field(id_, f"time throttled ({reason})", "accel_throttled_seconds_total", 1e-9, labels(reason=reason))


def _errors(id_: int, what: str, type_: str) -> Field:
    return Field(id_, what, "accel_errors_total", 1.0, labels(type=type_))


_BYTES = "accel_link_bytes_total"
FAST = (
    Field(186, "power now", "accel_power_instant_watts", 1e-3),
    Field(185, "power", "accel_power_watts", 1e-3),
    Field(83, "energy", "accel_energy_joules_total", 1e-3, others=((191, 1e-3),)),
    Field(138, "NVLink bytes", _BYTES, _KIBIBYTE, _link("nvlink", "tx"), _ALL_LINKS, _FASTEST_LINK, ((202, 1.0),)),
    Field(139, "NVLink bytes", _BYTES, _KIBIBYTE, _link("nvlink", "rx"), _ALL_LINKS, _FASTEST_LINK, ((204, 1.0),)),
    Field(197, "PCIe bytes", _BYTES, 1.0, _link("pcie", "tx"), 0, _FASTEST_PCIE),
    Field(198, "PCIe bytes", _BYTES, 1.0, _link("pcie", "rx"), 0, _FASTEST_PCIE),
    _throttle(74, "software_power_cap"),
    _throttle(76, "sync_boost"),
    _throttle(269, "software_thermal"),
    _throttle(270, "hardware_thermal"),
    _throttle(271, "hardware_power_brake"),
)
"""Read at every tick."""

SLOW = (
    Field(82, "memory temperature", "accel_memory_temperature_celsius"),
    _errors(3, "ECC errors", "ecc_corrected"),
    _errors(4, "ECC errors", "ecc_uncorrected"),
    _errors(94, "PCIe replays", "pcie_replay"),
    Field(142, "remapped rows", "accel_remapped_rows_total", 1.0, labels(cause="corrected")),
    Field(143, "remapped rows", "accel_remapped_rows_total", 1.0, labels(cause="uncorrected")),
    Field(144, "pending remap", "accel_remap_pending_ratio"),
    Field(145, "failed remap", "accel_remap_failed_ratio"),
    Field(230, "recovery action", "accel_recovery_action_ratio", one_of=_RECOVERY),
)
"""Read now and then."""

METRICS = tuple(dict.fromkeys(field.metric for field in (*FAST, *SLOW)))


class FieldReader:
    """Some fields of one device, in one call; those it turned out not to have are not asked for again."""

    def __init__(self, driver: NvmlDriver, handle: Any, fields: Iterable[Field]) -> None:
        self._driver, self._handle = driver, handle
        self._wanted = list(fields)
        self._off: list[tuple[Field, str]] = []
        self._wraps: dict[int, Unwrapped] = {}
        self._read_at: float | None = None
        self._array: Any = None

    def read(self, monotonic_seconds: float) -> tuple[list[Value], list[tuple[str, str]]]:
        """Return values, and why metrics are missing. Raises NVMLError only where device or driver is lost."""
        missing = [(field.metric, reason) for field, reason in self._off]
        if not self._wanted:
            return [], missing
        try:
            answers = self._ask()
        except (pynvml.NVMLError, SwitchedOff) as error:
            if is_lost(error):
                raise
            return [], missing + [(field.metric, f"{field.what}: {explain(error)}") for field in self._wanted]
        elapsed = None if self._read_at is None else monotonic_seconds - self._read_at
        self._read_at = monotonic_seconds
        values: list[Value] = []
        for place, (field, (kind, code, raw)) in enumerate(zip(list(self._wanted), answers, strict=True)):
            if code:
                reason = f"{field.what}: {explain(code)}"
                self._do_without(place, code, reason)
            else:
                try:
                    values += self._values(field, self._number(field, kind, raw, elapsed))
                    continue
                except BlankValue as error:
                    reason = f"{field.what}: {error if error.args else NO_NUMBER}"
            missing.append((field.metric, reason))
        if self._array is None:
            self._wanted = [field for field in self._wanted if field.id]
        return values, missing

    def lacks(self, metric: str) -> bool:
        """Say whether the device has turned out to have no field for it."""
        return any(field.metric == metric for field, _ in self._off)

    def _ask(self) -> list[tuple[int, int, int]]:
        """Return type, return code and bytes of every field's answer."""
        if self._array is None:
            self._array = (pynvml.c_nvmlFieldValue_t * len(self._wanted))()
            for slot, field in zip(self._array, self._wanted, strict=True):
                slot.fieldId, slot.scopeId = field.id, field.scope
        self._driver.raw("nvmlDeviceGetFieldValues", self._handle, ctypes.c_int(len(self._array)), self._array)
        return list(_ANSWER.iter_unpack(self._array))

    @staticmethod
    def _values(field: Field, number: float) -> list[Value]:
        if field.one_of:
            return [(field.metric, float(number == at), labels(action=name)) for at, name in enumerate(field.one_of)]
        return [(field.metric, number, field.labels)]

    def _do_without(self, place: int, code: int, reason: str) -> None:
        """Ask for the next field that gives the same from the next time on; the last one leaves a gap."""
        if is_lost(code):
            raise pynvml.NVMLError(code)
        if classify(code) is not Fault.UNSUPPORTED:
            return
        field, self._array = self._wanted[place], None
        if field.others:
            (id_, factor), *others = field.others
            self._wanted[place] = field._replace(id=id_, factor=factor, others=tuple(others))
        else:
            self._off.append((field, reason))
            self._wanted[place] = field._replace(id=0)

    def _number(self, field: Field, kind: int, raw: int, elapsed: float | None) -> float:
        """Return the number that the eight bytes `raw` of type `kind` hold."""
        bits = _BITS.get(kind)
        if bits == 64:
            return whole(raw, field.factor)
        if kind == pynvml.NVML_VALUE_TYPE_DOUBLE:
            return real(struct.unpack("=d", raw.to_bytes(8, sys.byteorder))[0], field.factor)
        if bits is None:
            raise BlankValue(f"the driver gave a value of unknown type {kind}")
        raw &= (1 << bits) - 1
        value = whole(raw, field.factor, bits=32)
        if field.fastest is None:
            return value
        if elapsed is not None and field.fastest * elapsed >= field.factor * 2.0**bits:
            raise BlankValue(f"a register of {bits} bits may be full more than once between two readings")
        return self._wraps.setdefault(field.id, Unwrapped(bits))(raw) * field.factor
