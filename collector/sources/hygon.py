"""Hygon DCU accelerators, by `hy-smi`.

It is a descendant of rocm-smi and answers in JSON, one object a card. The keys are those that Hygon's tool prints, as
recorded by users (SwanLab's pull request 1020 shows them); some versions write MiB where others write bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from collector.sources.accelerator import MEBIBYTE, Found, make_parts, number
from collector.sources.base import Parts, Source, SourceUnavailable
from collector.sources.tool import DEADLINE_SECONDS, EVERY_SECONDS, Commands

_TOOL = "hy-smi"
# One question a call: not all versions of the tool combine them in JSON.
_QUESTIONS = (
    ["--showuse"],
    ["--showmeminfo", "vram"],
    ["--showtemp"],
    ["--showpower"],
    ["--showproductname"],
    ["--showbus"],
)
_VRAM = re.compile(r"vram total (used )?memory \((b|mib)\)", re.IGNORECASE)


def merge(answers: list[str]) -> dict[str, dict[str, Any]]:
    """Merge answers of `--json` to keys and values by card; SourceUnavailable where one is no JSON of this form."""
    cards: dict[str, dict[str, Any]] = {}
    for answer in answers:
        try:
            # Warnings may stand before the object.
            parsed = json.loads(answer[max(answer.find("{"), 0) :])
        except json.JSONDecodeError:
            raise SourceUnavailable(f"{_TOOL}: its answer is not JSON") from None
        if not isinstance(parsed, dict):
            raise SourceUnavailable(f"{_TOOL}: its answer is not an object")
        for card, values in parsed.items():
            if re.fullmatch(r"card\d+", card) and isinstance(values, dict):
                cards.setdefault(card, {}).update(values)
    return cards


def to_found(cards: dict[str, dict[str, Any]]) -> list[Found]:
    """Return the devices that `merge` found."""
    found: list[Found] = []
    for card in sorted(cards, key=lambda name: int(name[4:])):
        values = {key: str(value) for key, value in cards[card].items()}
        device = Found(values.get("PCI Bus", card), "Hygon", values.get("Card Series", "DCU"), int(card[4:]))
        device.put("accel_busy_ratio", number(values.get("DCU use (%)", "")), 0.01)
        device.put("accel_power_watts", number(values.get("Average Graphics Package Power (W)", "")))
        sensors = [values.get(f"Temperature (Sensor {name}) (C)", "") for name in ("junction", "core", "edge")]
        device.put("accel_temperature_celsius", next((n for n in map(number, sensors) if n is not None), None))
        for key, value in values.items():
            vram = _VRAM.fullmatch(key)
            if vram:
                metric = "accel_memory_used_bytes" if vram[1] else "accel_memory_total_bytes"
                device.put(metric, number(value), 1 if vram[2].lower() == "b" else MEBIBYTE)
        found.append(device)
    return found


class HygonSource(Source):
    """All DCU cards of the node."""

    name = "hygon"
    metrics = (
        "accel_busy_ratio",
        "accel_memory_used_bytes",
        "accel_memory_total_bytes",
        "accel_power_watts",
        "accel_temperature_celsius",
    )
    measures = True
    every_seconds = EVERY_SECONDS
    deadline_seconds = 6 * DEADLINE_SECONDS

    def __init__(self, commands: Commands) -> None:
        self._run = commands

    def read(self) -> Parts:
        """Ask the tool; SourceUnavailable where it is missing or none of its answers can be used."""
        answers: list[str] = []
        refusals: list[str] = []
        for question in _QUESTIONS:
            try:
                answers.append(self._run(_TOOL, [*question, "--json"]))
            except SourceUnavailable as error:
                refusals.append(str(error))
                if not answers:  # it is missing or hangs: the other questions would fare no better
                    break
        if not answers:
            raise SourceUnavailable(refusals[0])
        return make_parts(to_found(merge(answers)), self.metrics, _TOOL)
