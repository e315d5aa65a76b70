"""Writes docs/metrics.md, docs/hardware.md, docs/configuration.md and docs/openapi.json from the code. `make docs` runs it.

A test compares the committed pages with what this gives, so that they cannot drift.
"""

from __future__ import annotations

import importlib
import inspect
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

from pydantic_core import PydanticUndefined

from api.main import create_app
from api.settings import Settings
from cli.catalogue import SCALES
from collector.config import AgentSettings, load_settings
from collector.registry import build_sources
from tokenstone import hardware
from tokenstone.client import API_KEY, API_KEY_FILE
from tokenstone.metric import REGISTRY, Resource

HERE = Path(__file__).parent


def metrics_page() -> str:
    """The registry as Markdown."""
    lines = [
        "# Metrics",
        "",
        "Generated from `tokenstone/metric.py` by `make docs`; do not edit. The agent serves these names on `/metrics`,",
        "with the labels `node` and `device` beside those listed. A metric that a node cannot give is not served;",
        '`tokenstone_metric_absent{source="...",metric="...",reason="..."}` says why. Absent is never zero.',
    ]
    for resource in Resource:
        metrics = [metric for metric in REGISTRY.values() if metric.resource is resource]
        if not metrics:
            continue
        lines += ["", f"## {resource.value.replace('_', ' ').capitalize()}", ""]
        lines += ["| name | kind | unit | labels | meaning |", "| --- | --- | --- | --- | --- |"]
        for m in metrics:
            lines.append(f"| `{m.name}` | {m.kind} | {m.unit} | {', '.join(m.labels) or '-'} | {m.help} |")
    return "\n".join(lines) + "\n"


def hardware_page() -> str:
    """The catalogue and what is tested on what, as Markdown."""
    lines = [
        "# Hardware",
        "",
        "Generated from `tokenstone/hardware/catalogue.toml` by `make docs`; do not edit.",
        "",
        "Peaks are dense. Bandwidth is per direction. GB = 1e9. The figures are a collection of published ones, made in",
        "November 2026; the data sheets that it names were not read again. *Unverified* figures could not be confirmed.",
        "A device is recognised by the exact name its driver gives; any other gets no catalogue peak, and",
        "`tokenstone probe` measures its limit instead.",
        "",
        "## What has been tried on what",
        "",
        "*Fixture-tested* is what was read by the real code from files, outputs of tools or stand-ins for libraries that were",
        "written by hand, as far as their form was known: no such device was at hand, and a real one may answer in another form.",
        "What then cannot be read is absent with the reason. [Sources](sources.md) lists what each gives.",
        "",
        "| what | state |",
        "| --- | --- |",
        *(f"| {what} | {state} |" for what, state in sorted({(s.reads, s.tried) for s in SOURCES_TRIED.values()})),
        "| reference workload on a CPU | run |",
        "| reference workload on an accelerator | written against `torch.accelerator`; not run, no device was at hand |",
        "",
        "## Catalogue",
    ]
    for accelerator in hardware.catalogue().values():
        lines += ["", f"### {accelerator.title}", "", f"`{accelerator.name}`, {accelerator.vendor}. "]
        names = ", ".join(f"`{alias}`" for alias in accelerator.aliases)
        lines[-1] += (
            f"Driver's names: {names}." if names else "No driver's name is known, so it has to be named by hand."
        )
        lines += ["", "| figure | value | verified | source | date | note |", "| --- | --- | --- | --- | --- | --- |"]
        for f in accelerator.figures:
            scale, unit, title = SCALES[f.quantity]
            title += f" {f.dtype}, {'dense' if f.dense else 'sparse'}" if f.dtype else ""
            value = f"{f.value / scale:,.6g} {unit} per {f.scope}"
            lines.append(f"| {title} | {value} | {'yes' if f.verified else 'no'} | {f.source} | {f.date} | {f.note} |")
        for figure, reason in accelerator.absent.items():
            lines.append(f"| {figure.replace('_', ' ')} | absent | - | - | - | {reason} |")
    return "\n".join(lines) + "\n"


class Tried(NamedTuple):
    """What a source reads, and how it was tested."""

    reads: str
    tried: str


_LIVE = "run on a Linux 6 host; *fixture-tested* on machines written by hand"
_FIXTURE = "*fixture-tested*"
_AFTER_REFERENCE = f"{_FIXTURE}: outputs written by hand after the maker's reference"
_AFTER_USERS = f"{_FIXTURE}: outputs written by hand after what users published"
SOURCES_TRIED = {
    "nvml": Tried("NVIDIA, by NVML", f"{_FIXTURE}: the real `pynvml` against a C stand-in library"),
    "amd": Tried("AMD, by AMD SMI", f"{_FIXTURE}: the real `amdsmi` against a C stand-in library"),
    "moorethreads": Tried("Moore Threads, by MTML", f"{_FIXTURE}: the real `pymtml` against a C stand-in library"),
    "intel": Tried("Intel accelerators, by files of the kernel", _FIXTURE),
    "intel_xpu": Tried("Intel accelerators, by `xpu-smi`", _AFTER_REFERENCE),
    "ascend": Tried("Huawei Ascend, by `npu-smi`", _AFTER_REFERENCE),
    "hccn": Tried("ports of Huawei Ascend devices, by `hccn_tool`", _AFTER_REFERENCE),
    "hygon": Tried("Hygon DCU, by `hy-smi`", _AFTER_USERS),
    "cambricon": Tried("Cambricon MLU, by `cnmon`", _AFTER_REFERENCE),
    "iluvatar": Tried("Iluvatar CoreX, by `ixsmi`", _AFTER_USERS),
    "metax": Tried("MetaX, by `mx-smi`", _AFTER_USERS),
    "kunlun": Tried("Kunlunxin, by `xpu-smi`", _AFTER_USERS),
    "dcgm_exporter": Tried("a site's dcgm-exporter", f"{_FIXTURE}: text written by hand"),
    "node_exporter": Tried("a site's node_exporter", "run against Debian's prometheus-node-exporter"),
    "cpu": Tried("host processors", _LIVE),
    "memory": Tried("host memory", _LIVE),
    "pressure": Tried("pressure stall information", _LIVE),
    "ethernet": Tried("network interfaces", _LIVE),
    "infiniband": Tried("InfiniBand and RoCE ports (mlx5, bnxt_re, irdma, ionic, efa)", _FIXTURE),
    "pause": Tried("pause frames, by `ethtool -S`", f"{_FIXTURE}: statistics of mlx5, bnxt_en and ice"),
    "numa": Tried("NUMA nodes", _LIVE),
    "resctrl": Tried("memory bandwidth, by resctrl", _FIXTURE),
    "nfs": Tried("NFS mounts", _FIXTURE),
    "lustre": Tried("Lustre mounts", _FIXTURE),
    "job_use": Tried("use of the host by job (control groups)", _FIXTURE),
    "attribution": Tried("jobs by device", f"{_FIXTURE}; Kubernetes' socket by a real gRPC server"),
    "disk": Tried("disks", _LIVE),
    "filesystem": Tried("file systems", _LIVE),
}


def sources_page() -> str:
    """What the agent can read, as Markdown."""
    lines = [
        "# Sources",
        "",
        "Generated from `collector/registry.py` by `make docs`; do not edit. A source is one thing of the node that the agent reads.",
        "Makers' sources are made where one of their devices is on the PCI bus, the exporters' where their address is set, all others",
        "always; `TOKENSTONE_SOURCES` and `TOKENSTONE_EXCLUDE_SOURCES` change that. What a source cannot give is absent, and",
        "`tokenstone_metric_absent` says why. Tools are looked for on `PATH`, or where `TOKENSTONE_TOOLS` names them, and are run",
        "without a shell and with a deadline.",
        "",
        "[Jobs](jobs.md) tells how devices are joined to jobs, [recordings](recordings.md) how a node is recorded and played back.",
    ]
    for name, tried in SOURCES_TRIED.items():
        settings = load_settings(node="n", sources=name, dcgm_exporter="http://n:9400", node_exporter="http://n:9100")
        source = build_sources(settings)[0]
        inner = getattr(source, "source", source)
        text = (inspect.getdoc(inspect.getmodule(type(inner))) or "").split("\n\n")[0].replace("\n", " ")
        if name.endswith("_exporter"):
            text = (importlib.import_module(f"collector.sources.{name}").__doc__ or "").split("\n\n")[0]
        every = f", every {inner.every_seconds:g} s" if inner.every_seconds else ""
        lines += [
            "",
            f"## {name}",
            "",
            text,
            "",
            f"Tried: {tried.tried}{every and '. Read' + every.removeprefix(',')}.",
            "",
        ]
        lines += [f"Gives {', '.join(f'`{metric}`' for metric in dict.fromkeys(source.metrics))}."]
    return "\n".join(lines) + "\n"


def configuration_page() -> str:
    """The settings of agent and service as Markdown."""
    lines = [
        "# Configuration",
        "",
        "Generated from the settings by `make docs`; do not edit. A flag comes before the environment, the environment before the",
        "file of the agent, the file before the default. `tokenstone bench --help` lists the variables of a bench.",
        "",
        "The agent's file is TOML: `--config FILE`, `TOKENSTONE_CONFIG`, or `/etc/tokenstone/agent.toml` where there is one. Its keys are",
        "the settings in small letters without the prefix, such as `sample_seconds = 2`; lists may be lists.",
    ]
    for title, settings in (
        ("The agent: `tokenstone agent`", AgentSettings),
        ("The service: `tokenstone serve`", Settings),
    ):
        lines += ["", f"## {title}", "", "| environment | default | meaning |", "| --- | --- | --- |"]
        for name, field in settings.model_fields.items():
            default = "see meaning" if field.default is PydanticUndefined else _default(field.default)
            lines.append(f"| `TOKENSTONE_{name.upper()}` | {default} | {' '.join((field.description or '').split())} |")
    lines += ["", "## Clients: the agent, workloads, the command line, `tokenstone.client`", ""]
    lines += ["| environment | default | meaning |", "| --- | --- | --- |"]
    lines += [
        f"| `{API_KEY}` | none | API key of the service. It is never taken from a command line. |",
        f"| `{API_KEY_FILE}` | none | File that holds the key, where the variable above is not set. |",
        "| `SSL_CERT_FILE` | the system's | Authorities whose certificates are trusted (PEM). |",
    ]
    return "\n".join(lines) + "\n"


def openapi_document() -> str:
    """The description of the API, as a service that asks for keys gives it."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data=Path(folder), database=None, authentication=True))
        document = app.openapi()
        app.state.store.close()
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _default(value: object) -> str:
    return "none" if value is None or value == () else f"`{value}`"


PAGES = {
    "metrics.md": metrics_page,
    "hardware.md": hardware_page,
    "sources.md": sources_page,
    "configuration.md": configuration_page,
    "openapi.json": openapi_document,
}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
