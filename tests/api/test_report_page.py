"""The report page: what it says, that it adds up, that it is inert, and that it fits a phone and a desktop."""

import math
import os
import re
from pathlib import Path

import pytest
from html_page import Page, check_form
from hypothesis import given, settings
from hypothesis import strategies as st

from api.pages import format as fmt
from api.pages.palette import CATEGORIES, PAPER_DARK, PAPER_LIGHT
from api.pages.render import report_html
from tokenstone.cost import Price, rental
from tokenstone.evaluate import Evaluation, evaluate
from tokenstone.model import CPU_SMALL
from tokenstone.report import Report, build_report
from tokenstone.run import InferenceSpec, Objective, TrainingSpec
from tokenstone.wire import (
    DevicePhases,
    InferenceFacts,
    Iterations,
    Phase,
    Probe,
    RequestTimes,
    RunDevice,
    RunView,
    TrainingFacts,
    WindowRow,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "report.html"
CSS = Path(__file__).parents[2] / "api" / "pages" / "report.css"
START = 1795000000.0
PROBE = Probe(
    device_id="host", device_name="x86-64, 2 threads", device_type="cpu", threads=2, dtype="fp32",
    gemm_flops_per_second=306e9, memory_bytes_per_second=24.6e9, repetitions=12, gemm_spread_ratio=0.03,
    memory_spread_ratio=0.05, conditions="2 threads",
)  # fmt: skip
PROVENANCE = {
    "torch": "2.13.0", "parameters": "5123456", "peak_memory_bytes": "812000000",
    "sample": "def __init__(self, name):\n    if self < name & True:",
}  # fmt: skip
OWNED = Price(
    usd_per_device_hour=1.9, basis="owned", source="a book", components={"accelerators": 1.5, "control_plane": 0.4}
)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>" + "x" * 300

Evaluated = tuple[RunView, Evaluation]


def training(price, *, run_id="train-1", probe=PROBE, provenance=PROVENANCE, allocated_seconds=22.0, tokens=102400):
    spec = TrainingSpec(
        preset="cpu-small", model=CPU_SMALL, dtype="fp32", sequence_length=256, batch_sequences=4, steps=100,
        warm_up_steps=5, learning_rate=1e-3, bias_update_rate=1e-2,
    )  # fmt: skip
    step = {"compute": 15.0, "input_stall": 0.4, "host_overhead": 0.6}
    phases = [
        Phase(kind="startup", start_seconds=0, duration_seconds=5.5, activity_seconds={"startup": 5.5}),
        Phase(kind="step", start_seconds=5.5, duration_seconds=16, activity_seconds=step, steps=100),
    ]
    facts = TrainingFacts(
        started_unix_seconds=START, allocated_seconds=allocated_seconds, tokens=tokens, loss_first=7.62, loss_last=4.31,
        devices=[DevicePhases(device="cpu:0", phases=phases)], max_violation=1.4, probe=probe, provenance=provenance,
    )  # fmt: skip
    view = run_view(run_id, spec, START, allocated_seconds)
    return view, evaluate(view, facts, windows=host_windows(), price=price)


def inference(price, *, run_id="infer-1", probe=PROBE, ttft_limit=0.5, cached=16):
    spec = InferenceSpec(
        preset="cpu-small", model=CPU_SMALL, dtype="fp32", requests=4, input_tokens=64, output_tokens=64, max_batch=2,
        objective=Objective(ttft_seconds=ttft_limit, tpot_seconds=0.1),
    )  # fmt: skip
    columns = {name: [] for name in list(Iterations.model_fields)[:11]}  # those that every engine tells
    requests = {name: [] for name in RequestTimes.model_fields}
    now = 3.0
    for pair in ([0, 1], [2, 3]):
        first = now + 0.1
        for k in range(64):
            duration = 0.0625 if k else 0.1
            prefill = 0.0 if k else 1.2e9
            row = (now, duration, duration * 0.75, 0.0, duration * 0.25, prefill or 22e6, 30e6, prefill, 0, pair,
                   [1, 1] if k else [64, 64])  # fmt: skip
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
            now += duration
        for _ in pair:
            for name, value in zip(requests, (3.0, first, now, 64, cached, 64, None), strict=True):
                requests[name].append(value)
    facts = InferenceFacts(
        started_unix_seconds=START + 40, allocated_seconds=now + 0.5, device_count=1, startup_seconds=3.0,
        iterations=Iterations(**columns), requests=RequestTimes(**requests), probe=probe,
        provenance={"torch": "2.13.0"},
    )  # fmt: skip
    view = run_view(run_id, spec, START + 40, now + 0.5)
    return view, evaluate(view, facts, windows=[], price=price)


def run_view(run_id, spec, start, seconds):
    return RunView(
        run_id=run_id, cluster="laptop", spec_id=spec.spec_id, spec=spec, state="complete", reason="",
        devices=[RunDevice(id="cpu:0", node="node-01", model="x86-64, 2 threads")],
        created_unix_seconds=start, started_unix_seconds=start, ended_unix_seconds=start + seconds,
    )  # fmt: skip


def host_windows():
    def window(metric, second, **values):
        absent = dict.fromkeys(("mean", "minimum", "maximum", "delta"))
        labels = {"mode": values.pop("mode")} if "mode" in values else {}
        return WindowRow(
            node="node-01", device="host", metric=metric, labels=labels, start_unix_seconds=START + second,
            duration_seconds=1, count=1, **(absent | values),
        )  # fmt: skip

    rows = []
    for second in range(20):
        busy = 1.5 + 0.02 * second
        rows += [
            window("host_cpu_seconds_total", second, mode="user", delta=busy),
            window("host_cpu_seconds_total", second, mode="idle", delta=2 - busy),
            window("host_cpu_logical_processors", second, mean=2.0),
        ]
    return rows


def report(*evaluated: Evaluated) -> Report:
    return build_report(evaluated, created_unix_seconds=START + 60)


def both(price) -> Report:
    return report(training(price), inference(price))


@pytest.fixture(scope="module")
def priced() -> Page:
    return Page(report_html(both(rental(2.5))))


# --- the whole page -------------------------------------------------------------------------------------------------


def test_the_page_is_the_golden_one():
    page = report_html(both(rental(2.5)))
    if os.environ.get("TOKENSTONE_UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(page, encoding="utf-8")
    assert page == GOLDEN.read_text(encoding="utf-8"), "run with TOKENSTONE_UPDATE_GOLDEN=1 if the change is meant"


def test_the_page_leads_with_score_cost_and_bottleneck():
    data = both(rental(2.5))
    text = Page(report_html(data)).text
    assert f"{data.score:.1f} of 100" in text
    assert f"{data.score:.1f} cents bought work at the hardware’s limit" in text
    assert f"{fmt.money(data.bill.usd_per_million_tokens)} per million tokens" in text
    assert text.index(data.bottleneck_sentence) < text.index("The bill")


# --- form -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("price", [None, rental(2.5), OWNED], ids=["unpriced", "rented", "owned"])
@pytest.mark.parametrize("probe", [None, PROBE], ids=["no_limit", "limit"])
def test_the_page_fetches_nothing_and_runs_nothing(price, probe):
    html = report_html(report(training(price, probe=probe), inference(price)))
    page = Page(html)
    check_form(page)
    assert not {"form", "nav", "input", "button"} & {tag for tag, _ in page.tags}, "a file has nobody to ask"
    assert all(target.startswith("#") for target in page.targets())
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_hostile_names_are_inert():
    view, evaluation = training(None, provenance={HOSTILE: HOSTILE, "sample": HOSTILE})
    spec = view.spec.model_copy(
        update={"preset": HOSTILE, "data": HOSTILE, "model": view.spec.model.model_copy(update={"name": HOSTILE})}
    )
    device = RunDevice.model_construct(id=HOSTILE, node=HOSTILE, model=HOSTILE, hardware=None)
    changes = {"run_id": HOSTILE, "cluster": HOSTILE, "spec": spec, "devices": [device], "reason": HOSTILE}
    panel = [evaluation.panel[0].model_copy(update={"capacity": HOSTILE, "resource": HOSTILE})]
    evaluation = evaluation.model_copy(
        update={"roofline": evaluation.roofline | {"source": HOSTILE}, "conventions": [HOSTILE], "panel": panel}
    )
    hostile = report((view.model_copy(update=changes), evaluation))
    hostile = hostile.model_copy(update={"title": HOSTILE, "price_note": HOSTILE, "bottleneck_sentence": HOSTILE})
    html = report_html(hostile)
    page = Page(html)
    assert "<script" not in html
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count("<script>alert(1)</script>") >= 15, "a reader still sees the name as it is"


# --- the bill and the ledger ----------------------------------------------------------------------------------------


def amount(cell: str) -> tuple[float, float]:
    """The least and the most that a printed figure can stand for."""
    if cell == "–":
        return 0.0, 0.0
    digits = cell.lstrip("<").replace("$", "").replace(",", "")
    value = float(digits)
    step = 10.0 ** -len(digits.partition(".")[2]) if "." in digits else 1.0
    if cell.startswith("<"):
        return 0.0, value / 2
    return (value, value) if value == 0 else (value - step / 2, value + step / 2)


@settings(max_examples=25, deadline=None)
@given(st.one_of(st.none(), st.floats(1e-4, 1e4)))
def test_the_printed_lines_add_up_to_the_printed_total(dollars):
    data = both(None if dollars is None else rental(dollars))
    rows = Page(report_html(data)).table("$ per" if dollars is not None else "device-seconds per")
    lines = rows[1 : [row[0] for row in rows].index("Total")]
    total = next(row for row in rows if row[0] == "Total")
    assert len(lines) >= 5
    for column in range(1, len(total)):
        cells = [amount(row[column]) for row in lines]
        low, high = amount(total[column])
        assert math.fsum(cell[0] for cell in cells) <= high * (1 + 1e-9)
        assert math.fsum(cell[1] for cell in cells) >= low * (1 - 1e-9)
    kinds = [bill.usd_per_million_tokens or bill.device_seconds_per_million_tokens for bill in [*data.bills, data.bill]]
    for cell, value in zip(total[1:], kinds, strict=True):
        low, high = amount(cell)
        assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


def test_the_bill_shows_usage_goodput_and_uncached_input(priced):
    rows = {row[0]: row[1:] for row in priced.table("$ per")}
    assert [title.split()[0] for title in rows["$ per million tokens"]] == ["Training", "Input", "Output", "All"]
    usage, total = (rows[name] for name in ("Without idle time (usage basis)", "Total"))
    assert amount(usage[0])[1] < amount(total[0])[0], "the training run was idle for half a second"
    goodput = rows["By output within the objective (goodput)"]
    twice = 2 * amount(total[2])[0], 2 * amount(total[2])[1]
    assert amount(goodput[2]) == pytest.approx(twice, rel=1e-3), "half of the tokens met the objective and bear it all"
    assert goodput[0] == goodput[1] == goodput[3] == ""
    assert amount(rows["By uncached input only"][1])[0] > amount(total[1])[1]


def test_no_good_token_is_said_in_words():
    rows = {row[0]: row for row in Page(report_html(report(inference(rental(2.5), ttft_limit=1e-6)))).table("$ per")}
    assert "none met it" in rows["By output within the objective (goodput)"]


def test_the_ledger_lists_what_took_time_and_names_what_did_not(priced):
    rows = priced.table("Spent on")[1:]
    shares = [float(row[1].strip("<%")) for row in rows[:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    listed = " ".join(row[0] for row in rows)
    assert "kernel inefficiency" in listed
    assert "pipeline bubbles" not in listed
    assert re.search(r"No time went to [^.]*pipeline bubbles", priced.text)
    drawn = [a["class"] for tag, a in priced.tags if tag == "g"]
    assert drawn.count("h-ideal") == 3, "both runs, and the two together"
    assert "h-idle" in drawn


def test_two_runs_of_a_kind_are_told_apart():
    page = Page(report_html(report(training(None, run_id="one"), training(None, run_id="two"))))
    head = page.table("device-seconds per")[0]
    assert head[1].startswith("Training one")
    assert head[2].startswith("Training two")


# --- absent is never zero -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("price", [None, rental(0.1), OWNED], ids=["unpriced", "rented", "owned"])
def test_nothing_on_the_page_is_python_speaking(price):
    facts = {"tokens": 0, "probe": None}
    for data in (both(price), report(training(price, **facts)), report(training(price), inference(price, probe=None))):
        assert not re.search(
            r"\b(None|nan|inf|True|False|\d+e[+-]\d+)\b", Page(report_html(data)).text.split("What the")[0]
        )


def test_without_a_limit_there_is_no_score_and_the_page_says_why():
    page = Page(report_html(report(training(None, probe=None))))
    assert "no score Because the hardware's limit is not known" in page.text
    for name in ("Score", "MFU"):
        assert all(v.startswith("absent the hardware's limit is not known") for v in page.term(name))
    assert page.term("Hardware’s limit")[0].startswith("absent the hardware's limit is not known")
    compute = next(row for row in page.table("Resource") if row[0] == "accelerator compute")
    assert compute[1] == "absent: the peak is not known"
    assert "unknown_peak" in page.text


def test_figures_that_were_not_measured_say_why(priced):
    assert all(v == "absent no energy counter on every device of the run" for v in priced.term("Energy"))
    assert all(v.startswith("absent needs an owned price") for v in priced.term("Dollar-weighted utilization"))
    network = next(row for row in priced.table("Resource") if row[0] == "network")
    assert network[1].startswith("absent: ")


def test_an_owned_price_gives_dollar_weighted_utilization_and_its_parts():
    page = Page(report_html(report(training(OWNED))))
    assert re.match(r"\d+\.\d% how busy", page.term("Dollar-weighted utilization")[0])
    assert page.term("accelerators") == ["$1.50 per device-hour"]


def test_a_ledger_that_does_not_balance_has_no_bill():
    page = Page(report_html(report(training(rental(2.0), allocated_seconds=18.0))))
    assert "no bill Because the ledger does not balance" in page.text
    assert not [table for table in page.tables if table[0][0].startswith("$ per")]
    rest = next(row for row in page.table("Spent on") if row[0].startswith("not accounted for"))
    assert rest[-1].startswith("-")


def test_without_a_price_the_page_tells_how_to_give_one():
    page = Page(report_html(both(None)))
    assert "--price-per-device-hour" in page.text.split("Where to look first")[0]
    assert "device-seconds per million tokens" in page.text
    assert "$" not in page.text


# --- one run --------------------------------------------------------------------------------------------------------


def test_the_printed_factors_multiply_to_the_printed_score():
    html = report_html(report(training(None)))
    values = [float(v) for v in re.findall(r'<span class="value">([\d.]+)</span>', html)]
    *factors, product = values
    assert len(factors) == 6
    assert math.prod(factors) == pytest.approx(product, abs=0.003)


def test_latencies_have_units_percentiles_and_counts(priced):
    ttft, tpot, *_ = priced.table("Latency")[1:]
    assert ttft[0] == "TTFT, s time to first token; objective ≤ 0.5 s"
    assert tpot[0].startswith("TPOT, ms")
    assert tpot[1:] == ["62.5", "62.5", "62.5", "62.5", "4"]


def test_provenance_names_limit_conventions_versions_and_shows_the_sample(priced):
    limit = priced.term("Hardware’s limit")[0]
    assert "306 GFLOP/s, fp32" in limit
    assert "24.6 GB/s" in limit
    assert "probe: measured on this device" in limit
    assert "peak memory: 812 MB" in priced.term("Measured with")[0]
    assert "parameters: 5,123,456" in priced.term("Measured with")[0]
    assert "2026-11-18 11:07:40 UTC" in priced.text
    assert "if self < name & True:" in priced.text
    assert re.fullmatch("[0-9a-f]{64}", priced.term("Hash of the inputs")[0])


# --- figures in words -----------------------------------------------------------------------------------------------


@given(st.floats(0, 1e12), st.integers(0, 8))
def test_what_is_above_zero_never_reads_as_zero(value, places):
    text = fmt.fixed(value, places)
    if value > 1e-9 * 10.0**-places:
        assert re.search("[1-9]", text)
        low, high = amount(text)
        assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (fmt.percent(0.9999), ">99.9%"),
        (fmt.percent(1), "100%"),
        (fmt.percent(0.0001), "<0.1%"),
        (fmt.si(989e12, "FLOP/s"), "989 TFLOP/s"),
        (fmt.duration(252), "4 min 12 s"),
        (fmt.duration(3 * 3600 + 20 * 60), "3 h 20 min"),
        (fmt.fixed(1234567.891, 2, "$"), "$1,234,567.89"),
        (fmt.utc(0), "1970-01-01 00:00:00 UTC"),
    ],
)
def test_figures_carry_separators_digits_and_units(text, expected):
    assert text == expected


# --- a real browser -------------------------------------------------------------------------------------------------


def measured(page) -> dict:
    """What came out of a page in the browser."""
    return page.evaluate(
        """() => {
          const style = (what, key) => getComputedStyle(document.querySelector(what))[key];
          const box = document.querySelector("figure.ledger .fill").getBoundingClientRect();
          return {scroll_width: document.documentElement.scrollWidth, box: [box.width, box.height],
                  height: document.querySelector("main").offsetHeight, letters: document.body.innerText.length,
                  fill: style("figure.ledger .fill", "fill"), paper: style("main", "backgroundColor"),
                  ink: style("body", "color")};
        }"""
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["usual", "long_names", "six_runs"])
def test_a_browser_shows_it_without_scrolling_sideways(kind, browser):
    long = "r" * 200
    data = {
        "usual": lambda: both(rental(2.5)),
        "long_names": lambda: report(training(rental(2.5), run_id=long, provenance={long: long, "sample": long})),
        "six_runs": lambda: report(*(training(rental(2.5), run_id=f"{i}-{long}") for i in range(6))),
    }[kind]()
    html = report_html(data)
    for width in (390, 1280):
        with browser.new_context(color_scheme="light", viewport={"width": width, "height": 900}) as context:
            page = context.new_page()
            page.set_content(html)
            shown = measured(page)
        assert shown["scroll_width"] == width
        assert shown["height"] > 1000
        assert shown["letters"] > 2000
        assert min(shown["box"]) > 10
        assert shown["fill"] == css_rgb(CATEGORIES["ideal"].hue.light)
        assert shown["paper"] == css_rgb(PAPER_LIGHT)


@pytest.mark.slow
def test_a_browser_in_dark_mode_shows_it_on_dark_paper_and_prints_it_on_white(browser):
    with browser.new_context(color_scheme="dark", viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_content(report_html(both(None)))
        shown = measured(page)
        assert shown["paper"] == css_rgb(PAPER_DARK)
        assert shown["fill"] == css_rgb(CATEGORIES["ideal"].hue.dark)
        assert shown["ink"] != css_rgb("#17191c")
        page.emulate_media(media="print")
        printed = measured(page)
        assert printed["paper"] == css_rgb(PAPER_LIGHT)
        assert printed["ink"] == css_rgb("#17191c")


def css_rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"
