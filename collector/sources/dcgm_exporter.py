"""NVIDIA's dcgm-exporter: its fields as Tokenstone's metrics.

Fields and units are those of the exporter's default and profiling counters (etc/default-counters.csv) and DCGM's field
identifiers. DCGM_FI_DEV_XID_ERRORS is left out: it holds the last error for ever, and not how many there were.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.metrics_core import Metric as Family

from collector.sources.accelerator import MEBIBYTE, Found, make_parts
from collector.sources.base import Parts
from collector.sources.exporters import is_blank

FIELDS: dict[str, tuple[str, float, dict[str, str]]] = {
    "DCGM_FI_DEV_GPU_UTIL": ("accel_busy_ratio", 0.01, {}),
    "DCGM_FI_PROF_SM_ACTIVE": ("accel_sm_active_ratio", 1.0, {}),
    "DCGM_FI_PROF_SM_OCCUPANCY": ("accel_sm_occupancy_ratio", 1.0, {}),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("accel_tensor_active_ratio", 1.0, {}),
    "DCGM_FI_PROF_DRAM_ACTIVE": ("accel_memory_bandwidth_ratio", 1.0, {}),
    "DCGM_FI_DEV_FB_USED": ("accel_memory_used_bytes", MEBIBYTE, {}),
    "DCGM_FI_DEV_FB_TOTAL": ("accel_memory_total_bytes", MEBIBYTE, {}),
    "DCGM_FI_DEV_POWER_USAGE": ("accel_power_watts", 1.0, {}),
    "DCGM_FI_DEV_POWER_USAGE_INSTANT": ("accel_power_instant_watts", 1.0, {}),
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": ("accel_power_limit_watts", 1.0, {}),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("accel_energy_joules_total", 1e-3, {}),
    "DCGM_FI_DEV_GPU_TEMP": ("accel_temperature_celsius", 1.0, {}),
    "DCGM_FI_DEV_MEMORY_TEMP": ("accel_memory_temperature_celsius", 1.0, {}),
    "DCGM_FI_DEV_SM_CLOCK": ("accel_clock_hertz", 1e6, {"domain": "compute"}),
    "DCGM_FI_DEV_MEM_CLOCK": ("accel_clock_hertz", 1e6, {"domain": "memory"}),
    "DCGM_FI_PROF_PCIE_TX_BYTES": ("accel_link_bytes_per_second", 1.0, {"link": "pcie", "direction": "tx"}),
    "DCGM_FI_PROF_PCIE_RX_BYTES": ("accel_link_bytes_per_second", 1.0, {"link": "pcie", "direction": "rx"}),
    "DCGM_FI_PROF_NVLINK_TX_BYTES": ("accel_link_bytes_per_second", 1.0, {"link": "nvlink", "direction": "tx"}),
    "DCGM_FI_PROF_NVLINK_RX_BYTES": ("accel_link_bytes_per_second", 1.0, {"link": "nvlink", "direction": "rx"}),
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": ("accel_errors_total", 1.0, {"type": "ecc_corrected"}),
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": ("accel_errors_total", 1.0, {"type": "ecc_uncorrected"}),
    "DCGM_FI_DEV_POWER_VIOLATION": ("accel_throttled_seconds_total", 1e-9, {"reason": "software_power_cap"}),
    "DCGM_FI_DEV_THERMAL_VIOLATION": ("accel_throttled_seconds_total", 1e-9, {"reason": "software_thermal"}),
}
METRICS = tuple(dict.fromkeys(metric for metric, _, _ in FIELDS.values()))


def to_parts(families: Mapping[str, Family]) -> Parts:
    """Return what the exporter's families say of each device; instances (MIG) are left out: they are no devices."""
    found: dict[str, Found] = {}
    blank: dict[tuple[str, str], str] = {}
    for name, family in families.items():
        for sample in family.samples:
            by = sample.labels
            if not name.startswith("DCGM_") or sample.name != name or "UUID" not in by or by.get("GPU_I_ID"):
                continue
            index = int(by["gpu"]) if by.get("gpu", "").isdigit() else len(found)
            device = found.setdefault(by["UUID"], Found(by["UUID"], "NVIDIA", by.get("modelName", ""), index))
            # The parser adds _total to the names of counters, as the format wants; DCGM's have none.
            known = FIELDS.get(name.removesuffix("_total"))
            if known is None:
                continue
            metric, factor, more = known
            if is_blank(sample.value):
                blank[device.id, metric] = f"{name.removesuffix('_total')}: blank"
            else:
                device.put(metric, sample.value, factor, **more)
    for (id, metric), reason in blank.items():
        found[id].why[metric] = f"dcgm-exporter: {reason}"
    _add_total_memory(found, families)
    return make_parts(sorted(found.values(), key=lambda device: device.index), METRICS, "dcgm-exporter")


def _add_total_memory(found: dict[str, Found], families: Mapping[str, Family]) -> None:
    """The default counters have used, free and (newer) reserved memory, and no total: it is their sum."""
    total = ("accel_memory_total_bytes", ())
    sums: dict[str, list[float]] = {}
    for name in ("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_RESERVED"):
        family = families.get(name)
        for sample in family.samples if family else ():
            if sample.name == name and not sample.labels.get("GPU_I_ID"):
                sums.setdefault(sample.labels.get("UUID", ""), []).append(sample.value)
    for id, parts in sums.items():
        if id in found and total not in found[id].values and len(parts) == 3 and not any(map(is_blank, parts)):
            found[id].put(total[0], sum(parts), MEBIBYTE)
