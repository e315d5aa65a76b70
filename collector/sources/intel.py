"""Intel data-center accelerators, by what the kernel shows of them (drivers i915 and xe).

Energy and power limit are in the card's hwmon folder, clocks and throttling in its own: Linux'
Documentation/ABI/testing/sysfs-driver-intel-i915-hwmon, -intel-xe-hwmon and sysfs-driver-intel-xe-gt-... Load and
memory are not in files; `intel_xpu` asks the maker's tool for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from collector.sources.accelerator import Found, make_parts
from collector.sources.base import Parts, Source
from collector.sources.files import Files

_CARDS = "sys/class/drm"
_INTEL = "0x8086"
_RESCAN_SECONDS = 60.0
_DRIVERS = {"i915", "xe"}
_REASONS = {
    "reason_pl1": "software_power_cap",
    "reason_pl2": "software_power_cap",
    "reason_pl4": "software_power_cap",
    "reason_thermal": "hardware_thermal",
    "reason_prochot": "hardware_power_brake",
    "reason_ratl": "software_thermal",
}


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a card: the metric it is, its labels, and the factor to the metric's unit."""

    path: str
    metric: str
    by: dict[str, str]
    factor: float


class IntelSource(Source):
    """Energy, power limit, temperature, clock and throttling of each Intel card."""

    name = "intel"
    metrics = (
        "accel_energy_joules_total",
        "accel_power_limit_watts",
        "accel_temperature_celsius",
        "accel_clock_hertz",
        "accel_throttled_ratio",
    )

    def __init__(self, root: Path, monotonic: Callable[[], float]) -> None:
        self._root, self._monotonic = root, monotonic
        self._files = Files(root)
        self._cards: list[tuple[str, list[_File]]] = []
        self._scan_at = 0.0

    def read(self) -> Parts:
        """Read all cards; SourceUnavailable where there is none."""
        now = self._monotonic()
        if now >= self._scan_at:
            self._cards, self._scan_at = list(self._scan()), now + _RESCAN_SECONDS
        found: list[Found] = []
        for index, (bus, files) in enumerate(self._cards):
            card = Found(bus, "Intel", "", index)
            throttled: dict[str, float] = {}
            for file in files:
                try:
                    value = float(self._files.number(file.path))
                except (OSError, ValueError):
                    continue  # the card sleeps, or this file is not for this product
                if file.metric == "accel_throttled_ratio":
                    reason = file.by["reason"]
                    throttled[reason] = max(value, throttled.get(reason, 0.0))
                else:
                    card.put(file.metric, value, file.factor, **file.by)
            for reason, value in throttled.items():
                card.put("accel_throttled_ratio", float(value > 0), 1.0, reason=reason)
            found.append(card)
        # The kernel does not know the cards' names. The tool does, and two names for one device would join to neither.
        return replace(make_parts(found, self.metrics, "the kernel"), devices=())

    def _scan(self) -> Iterator[tuple[str, list[_File]]]:
        for card in sorted((self._root / _CARDS).glob("card[0-9]*")):
            if not card.name[4:].isdigit() or _text(card / "device/vendor") != _INTEL:
                continue
            event = dict(line.partition("=")[::2] for line in _text(card / "device/uevent").splitlines())
            # Graphics inside a processor has no hwmon folder and is nobody's accelerator.
            sensors = sorted((card / "device/hwmon").glob("hwmon*"))
            if event.get("DRIVER") in _DRIVERS and sensors:
                bus = event.get("PCI_SLOT_NAME", card.name)
                yield bus, list(self._files_of(card, sensors[0]))

    def _files_of(self, card: Path, sensors: Path) -> Iterator[_File]:
        def below(path: Path) -> str:
            return str(path.relative_to(self._root))

        by_file = {
            "energy1_input": ("accel_energy_joules_total", 1e-6),
            "power1_max": ("accel_power_limit_watts", 1e-6),
            "temp2_input": ("accel_temperature_celsius", 1e-3),
        }
        for name, (metric, factor) in by_file.items():
            if (sensors / name).exists():
                yield _File(below(sensors / name), metric, {}, factor)
        clocks = [*card.glob("gt/gt0/rps_act_freq_mhz"), *card.glob("device/tile0/gt0/freq0/act_freq")]
        for clock in clocks[:1]:
            yield _File(below(clock), "accel_clock_hertz", {"domain": "compute"}, 1e6)
        for pattern in ("gt/gt0/throttle_{}", "device/tile0/gt0/freq0/throttle/{}"):
            for name, reason in _REASONS.items():
                path = card / pattern.format(name)
                if path.exists():
                    yield _File(below(path), "accel_throttled_ratio", {"reason": reason}, 1.0)

    def close(self) -> None:
        """Close the files."""
        self._files.close()
        self._scan_at = 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
