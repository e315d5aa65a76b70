"""docs/inference.md says what the code does: definitions, objectives, traffic, kinds of failure, the picture."""

import re
from pathlib import Path
from typing import get_args

import pytest

from tokenstone.latency import DEFINITIONS
from tokenstone.objectives import OBJECTIVES
from tokenstone.wire import RequestError
from workloads.load.distributions import DISTRIBUTIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/inference.md").read_text()


def rows(heading):
    """Cells of the first table under a heading."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_definitions_are_those_that_are_printed():
    assert dict(rows("Definitions")) == DEFINITIONS


def test_objectives_have_their_limits():
    def seconds(text):
        number, unit = text.split()
        return float(number) * {"s": 1, "ms": 1e-3}[unit]

    found = {name.strip("`"): (seconds(ttft), seconds(tpot)) for name, ttft, tpot in rows("Objectives")}
    assert found == {n: (o.ttft_seconds, pytest.approx(o.tpot_seconds)) for n, o in OBJECTIVES.items()}


def test_every_kind_of_failure_is_explained():
    assert {name.strip("`") for name, _ in rows("What can go wrong")} == set(get_args(RequestError))


def test_named_traffic_has_its_medians():
    told = {name.removeprefix("`--traffic ").strip("`"): text for name, text in rows("Traffic") if "--traffic " in name}
    assert told.keys() == DISTRIBUTIONS.keys()
    for name, text in told.items():
        numbers = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)}
        lengths = DISTRIBUTIONS[name].lengths
        assert {lengths.input_tokens, lengths.output_tokens} <= numbers


def test_options_that_are_named_exist():
    files = ("infer.py", "serve_model.py", "options.py", "output.py")
    options = "".join((ROOT / "cli" / name).read_text() for name in files)
    for option in set(re.findall(r"`(--[a-z-]+)", PAGE)):
        assert f'"{option}"' in options, option


def test_the_picture_is_one_of_a_sweep():
    picture = (ROOT / "docs/images/frontier.svg").read_text()
    assert picture.startswith("<svg")
    assert "Frontier of cpu-small" in picture
