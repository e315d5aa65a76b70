"""Which devices a past job had, by the labels that sites use for jobs, pods and nodes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from collector.history.prometheus import Labels, Prometheus
from tokenstone.errors import NotFound

_PROBES = '__name__=~"DCGM_FI_DEV_(GPU_UTIL|POWER_USAGE|FB_USED|TOTAL_ENERGY_CONSUMPTION)"'
_NODE_PROBES = ["node_uname_info", "node_memory_MemTotal_bytes"]

# Where the name of a job may stand: dcgm-exporter's mapping of HPC jobs, a name that its own scrape job has pushed
# aside, the pod of Kubernetes (with what its controller appends), and last the scrape job itself.
_EXACT, _POD = "exact", "pod"
_VARIANTS = (
    ("hpc_job", _EXACT), ("exported_job", _EXACT), ("job_id", _EXACT), ("pod", _POD), ("exported_pod", _POD),
    ("namespace", _EXACT), ("exported_namespace", _EXACT), ("job", _EXACT),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PastDevice:
    """An accelerator as dcgm-exporter named it."""

    id: str
    node: str
    model: str
    index: str


@dataclass(frozen=True, slots=True)
class PastJob:
    """What was found: the matchers that select the job's series, its devices, and its nodes' host exporters."""

    matchers: str
    devices: list[PastDevice]
    instances: dict[str, str]
    """node_exporter's instance -> name of the node."""


def quoted(text: str) -> str:
    """A string of PromQL."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def find_job(prometheus: Prometheus, job: str | None, selector: str, start: float, end: float) -> PastJob:
    """Find the job's devices; raises NotFound that says where we looked."""
    tried = []
    for matchers in _matchers(job, selector):
        tried.append(matchers or "all of them")
        found = prometheus.series([f"{{{_joined(_PROBES, matchers)}}}"], start, end)
        devices = devices_in(found)
        if devices:
            return PastJob(matchers, devices, _instances(prometheus, devices, start, end))
    where = f"{prometheus.url}, from {start:.0f} to {end:.0f}"
    raise NotFound(
        f"no series of dcgm-exporter for {'; '.join(tried)}", where=where,
        hint="check the times, or say by --selector which labels the job's series have",
    )  # fmt: skip


def _joined(*matchers: str) -> str:
    return ", ".join(one for one in matchers if one)


def _matchers(job: str | None, selector: str) -> list[str]:
    if job is None:
        return [selector]
    pod = quoted(f"{re.escape(job)}(-.+)?".replace("\\-", "-"))
    return [
        _joined(f"{label}={quoted(job)}" if kind == _EXACT else f"{label}=~{pod}", selector)
        for label, kind in _VARIANTS
    ]


def devices_in(series: Sequence[Labels]) -> list[PastDevice]:
    """One entry a device; instances of one (MIG) are no devices, and a series without UUID names none."""
    found = {
        by["UUID"]: PastDevice(by["UUID"], node_of(by), by.get("modelName", ""), by.get("gpu", ""))
        for by in series
        if by.get("UUID") and not by.get("GPU_I_ID")
    }
    return sorted(found.values(), key=lambda device: (device.node, device.index.rjust(4), device.id))


def node_of(by: Labels) -> str:
    """The node of a series: what the exporter says of its host, else where it was scraped."""
    for label in ("Hostname", "hostname", "node", "exported_instance", "instance"):
        if by.get(label):
            return host_of(by[label])
    return "unknown"


def host_of(address: str) -> str:
    """The host of HOST:PORT, [v6]:PORT or HOST.

    >>> host_of("n1:9100"), host_of("[fe80::1]:9100"), host_of("n1.lab"), host_of("fe80::1")
    ('n1', 'fe80::1', 'n1.lab', 'fe80::1')
    """
    if address.startswith("["):
        return address[1:].partition("]")[0]
    host, _, port = address.rpartition(":")
    return host if host and port.isdigit() and ":" not in host else address


def _instances(prometheus: Prometheus, devices: list[PastDevice], start: float, end: float) -> dict[str, str]:
    """The node_exporters of the devices' nodes: joined by node name, long or short, or by the host scraped."""
    wanted = {name: device.node for device in devices for name in (device.node, device.node.partition(".")[0])}
    found: dict[str, str] = {}
    for by in prometheus.series(_NODE_PROBES, start, end):
        names = (by.get("nodename"), by.get("node"), by.get("Hostname"), host_of(by.get("instance", "")))
        for name in filter(None, names):
            node = wanted.get(name) or wanted.get(name.partition(".")[0])
            if node is not None and by.get("instance"):
                found.setdefault(by["instance"], node)
                break
    return found
