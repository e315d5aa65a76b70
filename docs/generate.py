"""Writes docs/metrics.md, docs/hardware.md and docs/configuration.md from the code. `make docs` runs it.

A test compares the committed pages with what this gives, so that they cannot drift.
"""

from __future__ import annotations

from pathlib import Path

from pydantic_core import PydanticUndefined

from api.settings import Settings
from cli.catalogue import SCALES
from collector.config import AgentSettings
from tokenstone import hardware
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
        "| source | state |",
        "| --- | --- |",
        "| host processor, memory, pressure, disks, network | run on a Linux 6 host; *fixture-tested* on machines written by hand |",
        "| NVIDIA by NVML | *fixture-tested*: the real `pynvml` against a C stand-in library, no device was at hand |",
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
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    return "none" if value is None or value == () else f"`{value}`"


PAGES = {"metrics.md": metrics_page, "hardware.md": hardware_page, "configuration.md": configuration_page}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
