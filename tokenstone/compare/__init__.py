"""Which of two is worth the money: statistics by run, the difference itemised, and what cannot be said.

`compare_sides` makes a Comparison of two sides; how it looks is the business of terminal, page and document.
"""

from __future__ import annotations

from tokenstone.compare.comparison import Comparison, compare_sides
from tokenstone.compare.figures import MetricRatio
from tokenstone.compare.ratio import INSUFFICIENT, RatioEstimate, compare_runs, holm
from tokenstone.compare.side import LeftOut, RunFigures, Side, make_side, run_figures

__all__ = [
    "INSUFFICIENT",
    "Comparison",
    "LeftOut",
    "MetricRatio",
    "RatioEstimate",
    "RunFigures",
    "Side",
    "compare_runs",
    "compare_sides",
    "holm",
    "make_side",
    "run_figures",
]
