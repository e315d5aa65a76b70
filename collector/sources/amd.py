"""AMD accelerators, through AMD's management library and its own Python binding (`amdsmi`).

Its calls and units are those of the binding's reference (rocm.docs.amd.com, "AMD SMI Python API"): power in watts,
its limit in microwatts, clocks in megahertz, energy as a count times a resolution in microjoules, and what went over
the links between devices (xGMI) in units of 1,024 bytes.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from typing import Any

from collector.sources.accelerator import MEBIBYTE, Found, make_parts
from collector.sources.base import Parts, Source, SourceUnavailable
from tokenstone.sample import Absence

RETRY_SECONDS = 30.0

Value = tuple[str, float | None, dict[str, str]]

# What the binding puts in place of a value that the device does not have.
_ABSENT = "N/A"


def _number(value: Any) -> float | None:
    return None if isinstance(value, str) or value in {0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF} else float(value)


def _scaled(value: Any, factor: float) -> float | None:
    known = _number(value)
    return None if known is None else known * factor


def _activity(smi: Any, handle: Any) -> Iterable[Value]:
    activity = smi.amdsmi_get_gpu_activity(handle)
    yield "accel_busy_ratio", _scaled(activity["gfx_activity"], 0.01), {}
    yield "accel_memory_bandwidth_ratio", _scaled(activity["umc_activity"], 0.01), {}


def _power(smi: Any, handle: Any) -> Iterable[Value]:
    power = smi.amdsmi_get_power_info(handle)
    # MI300 tells the present power, older ones an average.
    known = (_number(power[name]) for name in ("current_socket_power", "average_socket_power"))
    yield "accel_power_watts", next((watts for watts in known if watts is not None), None), {}


def _power_limit(smi: Any, handle: Any) -> Iterable[Value]:
    yield "accel_power_limit_watts", _scaled(smi.amdsmi_get_power_cap_info(handle)["power_cap"], 1e-6), {}


def _energy(smi: Any, handle: Any) -> Iterable[Value]:
    count = smi.amdsmi_get_energy_count(handle)
    microjoules = _scaled(count["energy_accumulator"], count["counter_resolution"])
    yield "accel_energy_joules_total", None if microjoules is None else microjoules * 1e-6, {}


def _memory(smi: Any, handle: Any) -> Iterable[Value]:
    usage = smi.amdsmi_get_gpu_vram_usage(handle)
    yield "accel_memory_used_bytes", _scaled(usage["vram_used"], MEBIBYTE), {}
    yield "accel_memory_total_bytes", _scaled(usage["vram_total"], MEBIBYTE), {}


def _temperature(smi: Any, handle: Any) -> Iterable[Value]:
    kind, now = smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT
    yield "accel_temperature_celsius", _number(smi.amdsmi_get_temp_metric(handle, kind, now)), {}


def _clock(domain: str, kind: str) -> Callable[[Any, Any], Iterable[Value]]:
    def read(smi: Any, handle: Any) -> Iterable[Value]:
        clock = smi.amdsmi_get_clock_info(handle, getattr(smi.AmdSmiClkType, kind))
        yield "accel_clock_hertz", _scaled(clock["clk"], 1e6), {"domain": domain}

    return read


def _errors(smi: Any, handle: Any) -> Iterable[Value]:
    count = smi.amdsmi_get_gpu_total_ecc_count(handle)
    yield "accel_errors_total", _number(count["correctable_count"]), {"type": "ecc_corrected"}
    yield "accel_errors_total", _number(count["uncorrectable_count"]), {"type": "ecc_uncorrected"}


def _links(smi: Any, handle: Any) -> Iterable[Value]:
    kind = smi.AmdSmiLinkType.AMDSMI_LINK_TYPE_XGMI
    links = [link for link in smi.amdsmi_get_link_metrics(handle)["links"] if link["link_type"] == kind]
    for name, direction in (("read", "rx"), ("write", "tx")):
        known = [kibibytes for link in links if (kibibytes := _number(link[name])) is not None]
        yield _LINK, sum(known) * 1024 if known else None, {"link": "xgmi", "direction": direction}


_LINK = "accel_link_bytes_total"
_QUERIES: tuple[tuple[str, tuple[str, ...], Callable[[Any, Any], Iterable[Value]]], ...] = (
    ("activity", ("accel_busy_ratio", "accel_memory_bandwidth_ratio"), _activity),
    ("power", ("accel_power_watts",), _power),
    ("power limit", ("accel_power_limit_watts",), _power_limit),
    ("energy", ("accel_energy_joules_total",), _energy),
    ("memory", ("accel_memory_used_bytes", "accel_memory_total_bytes"), _memory),
    ("temperature", ("accel_temperature_celsius",), _temperature),
    ("compute clock", ("accel_clock_hertz",), _clock("compute", "GFX")),
    ("memory clock", ("accel_clock_hertz",), _clock("memory", "MEM")),
    ("memory errors", ("accel_errors_total",), _errors),
    ("links", (_LINK,), _links),
)


class AmdSource(Source):
    """All AMD devices of the node."""

    name = "amd"
    metrics = tuple(dict.fromkeys(metric for _, metrics, _ in _QUERIES for metric in metrics))
    measures = True
    deadline_seconds = 10.0

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._smi: Any = None
        self._handles: list[tuple[int, Any, str, str]] = []
        self._lost: dict[int, str] = {}
        self._reason, self._retry_at = "", 0.0

    def read(self) -> Parts:
        """Read all devices; SourceUnavailable where there is no library, driver or device."""
        if self._lost and self._monotonic() >= self._retry_at:
            self.close()
        if self._smi is None:
            self._open()
        smi = self._smi
        found: list[Found] = []
        for index, handle, uuid, model in self._handles:
            device = Found(uuid, "AMD", model, index)
            for what, metrics, ask in _QUERIES:
                try:
                    for metric, value, by in ask(smi, handle):
                        device.put(metric, value, 1.0, **by)
                except (smi.AmdSmiException, KeyError) as error:
                    device.why |= {metric: f"{what}: {_explain(error)}" for metric in metrics}
            found.append(device)
        if found and not any(device.values for device in found):
            reason = next(iter(found[0].why.values()))
            self.close()
            raise SourceUnavailable(f"no device answers: {reason}")
        parts = make_parts(found, self.metrics, "amdsmi")
        lost = [Absence(metric, reason) for reason in self._lost.values() for metric in self.metrics]
        return replace(parts, absences=(*parts.absences, *lost))

    def _open(self) -> None:
        if self._monotonic() < self._retry_at:
            raise SourceUnavailable(self._reason)
        try:
            smi = _binding()
            smi.amdsmi_init()
            self._smi, self._handles, self._lost = smi, [], {}
            for index, handle in enumerate(smi.amdsmi_get_processor_handles()):
                try:
                    self._handles.append((index, handle, *_describe(smi, handle)))
                except smi.AmdSmiException as error:
                    self._lost[index] = f"device {index}: {_explain(error)}"
        except SourceUnavailable as error:
            self._reason = str(error)
        except Exception as error:  # the binding raises whatever its loader raises, bare Exception included
            self.close()
            self._reason = f"amdsmi: {_explain(error)}"
        self._retry_at = self._monotonic() + RETRY_SECONDS
        if self._smi is None:
            raise SourceUnavailable(self._reason)

    def close(self) -> None:
        """Let go of the driver."""
        if self._smi is not None:
            with suppress(Exception):
                self._smi.amdsmi_shut_down()
        self._smi, self._handles, self._lost = None, [], {}


def _binding() -> Any:
    try:
        # Without the library the binding prints to stdout, and fails with a KeyError.
        with redirect_stdout(io.StringIO()):
            return importlib.import_module("amdsmi")
    except ModuleNotFoundError:
        raise SourceUnavailable("AMD's binding is not installed: pip install 'tokenstone[amd]'") from None
    except (KeyError, OSError, AttributeError):
        raise SourceUnavailable(
            "AMD's management library (libamd_smi.so) is not installed, or not of the binding's version"
        ) from None


def _describe(smi: Any, handle: Any) -> tuple[str, str]:
    name = smi.amdsmi_get_gpu_asic_info(handle).get("market_name", _ABSENT)
    return smi.amdsmi_get_gpu_device_uuid(handle), "AMD" if name == _ABSENT else name


def _explain(error: Exception) -> str:
    info = getattr(error, "get_error_info", None)
    text = info(detailed=False) if info else str(error)
    return " ".join(str(text).split()) or type(error).__name__
