"""The colours of pages and reports: told apart by everybody, and read on their paper, light and dark."""

import itertools
import math
import re
from pathlib import Path

import pytest

from api.pages.palette import CATEGORIES, HUES, PAPER_DARK, PAPER_LIGHT, contrast, linear_rgb
from tokenstone.ledger import INFERENCE_CATEGORIES, TRAINING_CATEGORIES

CSS = Path(__file__).parents[2] / "api" / "pages" / "report.css"
DEFICIENCIES = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deuteranopia": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "tritanopia": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}
"""Linear RGB as it is seen, full severity: Machado, Oliveira and Fernandes 2009."""


def oklab(rgb):
    """Coordinates in which equal distances look equally different (Ottosson 2020), times 100."""
    into_cones = ((0.4122, 0.5363, 0.0514), (0.2119, 0.6807, 0.1074), (0.0883, 0.2817, 0.6300))
    into_lab = ((0.2105, 0.7936, -0.0041), (1.9780, -2.4286, 0.4506), (0.0259, 0.7828, -0.8087))
    cones = [sum(a * b for a, b in zip(row, rgb, strict=True)) ** (1 / 3) for row in into_cones]
    return [100 * sum(a * b for a, b in zip(row, cones, strict=True)) for row in into_lab]


def seen(colour, matrix):
    linear = linear_rgb(colour)
    return oklab([min(1.0, max(0.0, sum(a * b for a, b in zip(row, linear, strict=True)))) for row in matrix])


def schemes():
    """The style's colours by name and the paper they stand on, light and dark."""
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part))
        for part in CSS.read_text(encoding="utf-8").split("@media screen", 1)
    )
    return (light, PAPER_LIGHT), (dark, PAPER_DARK)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_any_two_hues_can_be_told_apart(scheme, deficiency):
    matrix = DEFICIENCIES[deficiency]
    for one, other in itertools.combinations(HUES, 2):
        apart = math.dist(seen(getattr(one, scheme), matrix), seen(getattr(other, scheme), matrix))
        assert apart > 9, (one.name, other.name)


def test_every_category_of_the_ledger_has_its_own_look():
    assert set(CATEGORIES) == {"compute", *TRAINING_CATEGORIES, *INFERENCE_CATEGORIES}
    assert len({(c.hue, c.texture) for c in CATEGORIES.values()}) == len(CATEGORIES)


def test_fills_stand_out_and_texts_can_be_read():
    for hue in HUES:
        assert contrast(hue.light, PAPER_LIGHT) >= 3
        assert contrast(hue.dark, PAPER_DARK) >= 3
        assert contrast(hue.text_on_light, hue.light) >= 4.5
        assert contrast(hue.text_on_dark, hue.dark) >= 4.5
    for colours, paper in schemes():
        for text in ("ink", "soft", "warn"):
            assert contrast(colours[text], paper) >= 4.5
            assert contrast(colours[text], colours["tint"]) >= 4.5


def test_links_buttons_and_controls_can_be_told_and_read():
    for colours, paper in schemes():
        for under in (paper, colours["tint"], colours["desk"]):
            assert contrast(colours["link"], under) >= 4.5
            assert contrast(colours["ink"], under) >= 4.5
            assert contrast(colours["soft"], under) >= 4.5
            assert contrast(colours["control"], under) >= 3
        assert contrast(colours["onlink"], colours["link"]) >= 4.5
        assert contrast(colours["measure"], colours["track"]) >= 3
