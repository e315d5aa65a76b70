"""What each ledger category looks like and means to a reader. The one place for it.

A family of causes shares a hue; texture tells its members apart, so colour is never the only carrier. The hues were
chosen so that any two stay distinguishable with each of the three colour-vision deficiencies (Machado et al. 2009),
and each stands out from the paper, in light and in dark (tests/api/test_report_page.py holds them to it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenstone.score.bottleneck import TITLES

PAPER_LIGHT, PAPER_DARK = "#ffffff", "#16191d"
_INK_LIGHT, _INK_DARK = "#ffffff", "#111111"


@dataclass(frozen=True, slots=True)
class Hue:
    """A fill on light and on dark paper, and the text that can be read on it."""

    name: str
    light: str
    dark: str

    @property
    def text_on_light(self) -> str:
        """Text colour on the light fill."""
        return readable_on(self.light)

    @property
    def text_on_dark(self) -> str:
        """Text colour on the dark fill."""
        return readable_on(self.dark)


IDEAL = Hue("ideal", "#25a588", "#4ed598")
COMPUTE = Hue("compute", "#204154", "#c3d6f0")
KERNEL = Hue("kernel", "#bf3308", "#f5761f")
WAITING = Hue("waiting", "#3c6ddd", "#2f8ff5")
HOST = Hue("host", "#691da6", "#8a4cb8")
OUTSIDE = Hue("outside", "#ba8702", "#f2cd3c")
IDLE = Hue("idle", "#6c6c70", "#8b8d91")
MISSED = Hue("missed", "#77001a", "#c9244a")
HUES = (IDEAL, COMPUTE, KERNEL, WAITING, HOST, OUTSIDE, IDLE, MISSED)


@dataclass(frozen=True, slots=True)
class Category:
    """A ledger category: how it is drawn, what it is, and what usually makes it smaller."""

    name: str
    hue: Hue
    texture: Literal["", "stripes", "dots"]
    meaning: str
    helps: str = ""
    short: str = ""
    """Told in a bar where the title does not fit."""
    label: str = ""
    """What it is called where that is not in the ledger's words."""

    @property
    def title(self) -> str:
        """What it is called, as in every other part of Tokenstone."""
        return self.label or TITLES[self.name]


_ALL = (
    Category("ideal", IDEAL, "", "what the work takes at the hardware's full speed", short="at the limit"),
    Category(
        "compute", COMPUTE, "", "kernels ran; how much of it was ideal is not known",
        "let `tokenstone probe` measure the hardware's limit",
    ),
    Category(
        "kernel_inefficiency", KERNEL, "", "kernels ran, but slower than the hardware's limit",
        "larger batches, fewer and larger matrix products, fused kernels",
    ),
    Category(
        "recompute", KERNEL, "stripes", "activations computed twice on purpose, to save memory",
        "recomputing fewer layers, sharding more of the state",
    ),
    Category(
        "preemption", KERNEL, "dots", "requests put off for lack of memory and computed again",
        "more cache memory, fewer requests at once",
    ),
    Category(
        "exposed_communication", WAITING, "", "data moved between devices and nothing was computed meanwhile",
        "overlapping it with computation, fewer and larger messages, another parallel layout",
    ),
    Category(
        "load_imbalance", WAITING, "stripes", "devices waited in a collective for slower ones",
        "balanced experts and sequence lengths, replacing a slow device",
    ),
    Category(
        "pipeline_bubble", WAITING, "dots", "devices waited for another pipeline stage",
        "more micro-batches, evener stages, a schedule with smaller bubbles",
    ),
    Category(
        "host_overhead", HOST, "", "the host prepared work while the device had none",
        "fewer launches (graphs, compilation), preparing the next step during this one",
    ),
    Category(
        "input_stall", HOST, "stripes", "devices waited for the next batch of data",
        "prefetching, more loader workers, faster storage",
    ),
    Category(
        "startup", OUTSIDE, "", "initialisation, loading, compilation and warm-up",
        "longer runs, which share it among more tokens; cached compilation; faster loading",
    ),
    Category(
        "checkpoint", OUTSIDE, "stripes", "the run stood still while its state was saved",
        "saving in the background, saving less often, faster storage",
    ),
    Category(
        "recovery", OUTSIDE, "dots", "work that was lost, and restarts",
        "replacing nodes that fail, saving more often, restarting faster",
    ),
    Category("idle", IDLE, "", "held, and nothing ran", "giving devices back as soon as the run ends"),
    Category(
        "queue_idle", IDLE, "stripes", "ready to serve, and no request to serve",
        "more traffic for these devices, or fewer devices for this traffic",
    ),
    Category(
        "slo_miss", MISSED, "", "time spent on requests that missed their objective",
        "smaller batches, long prompts in pieces, more devices at the peak",
    ),
)  # fmt: skip
CATEGORIES: dict[str, Category] = {category.name: category for category in _ALL}
"""By name, in the order in which bars and bills show them: ideal first, related causes side by side."""

FLEET = (
    Category("busy", IDEAL, "", "a kernel was running", label="busy"),
    Category("idle", IDLE, "", "the device was there, and nothing ran", label="idle"),
    Category("unknown", IDLE, "stripes", "the agent was silent, or the driver does not tell", label="unknown"),
)
"""How the device-hours of a fleet divide."""


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two `#rrggbb` colours, 1 to 21 (WCAG 2.2, relative luminance)."""
    dim, bright = sorted((_luminance(one), _luminance(other)))
    return (bright + 0.05) / (dim + 0.05)


def linear_rgb(colour: str) -> tuple[float, float, float]:
    """Linear-light red, green and blue of `#rrggbb`, each 0 to 1."""
    red, green, blue = (_linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return red, green, blue


def readable_on(fill: str) -> str:
    """White or near-black, whichever reads better on `fill`."""
    return max((_INK_LIGHT, _INK_DARK), key=lambda ink: contrast(ink, fill))


def _luminance(colour: str) -> float:
    red, green, blue = linear_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
