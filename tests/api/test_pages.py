"""The pages of the service: what they say, where they lead, that they are inert, usable and fit every screen."""

import itertools
import re
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from html_page import Page, check_form
from page_world import HOSTILE, fill, training_run

from api.main import create_app
from api.settings import load_settings
from tokenstone.wire import RunCreate

NOW = 1.7e9 + 1000
PAGES = [
    "/clusters", "/clusters/gpu/east", "/clusters/default", "/runs", "/runs?state=failed", "/runs?kind=inference",
    "/runs?cluster=nowhere", "/runs/train-a0", "/runs/serve-1", "/runs/unpriced", "/runs/unknown-peak",
    "/runs/does-not-balance", "/runs/hostile", "/runs/under-way", "/runs/failed", "/runs/only-created",
    "/compare", "/compare?spec_id=SPEC", "/compare?group_a=SPEC@gpu/east&group_b=SPEC@gpu-west",
    "/compare?group_a=SPEC@gpu/east&group_b=published:deepseek-v3-training", "/compare?a=serve-1&b=train-a1",
    "/compare?a=train-a1&b=train-b1", "/compare?a=unpriced&b=unknown-peak", "/compare?a=does-not-balance&b=unpriced",
    "/compare?a=failed&b=unpriced", "/compare?a=train-a1&b=train-a1", "/compare?group_a=nothing@nowhere",
    "/v1/reports/cluster/html?cluster=gpu/east", "/v1/reports/html?run=train-a0&run=train-a1",
    "/v1/reports/comparison/html?a=train-a1&a=train-a2&b=train-b1&b=train-b2",
    "/fleet?start=2023-11-14&end=2023-11-15", "/fleet?start=2020-01-01&end=2020-01-01", "/hardware",
    "/hardware/h100-sxm", "/prices", "/registry", "/runs/nope",
]  # fmt: skip
SPEC = RunCreate.model_validate(training_run("c") | {"run_id": "x"}).spec.spec_id
PAGES = [path.replace("SPEC", SPEC) for path in PAGES]
FILES = ("/v1/", "/runs/nope")
"""Pages without navigation, or without a place in it."""
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A service with something of everything; nothing that a test here does changes it."""
    settings = load_settings(data=tmp_path_factory.mktemp("world"), lease_check_seconds=3600, max_requests_per_second=0)
    with TestClient(create_app(settings, clock=lambda: NOW), raise_server_exceptions=False, headers=HTML) as client:
        fill(client, big=40)
        yield client


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    settings = load_settings(data=tmp_path_factory.mktemp("empty"), lease_check_seconds=3600)
    with TestClient(create_app(settings, clock=lambda: NOW), raise_server_exceptions=False, headers=HTML) as client:
        yield client


def page(client, path, status=200) -> Page:
    response = client.get(path)
    assert response.status_code == status, response.text[-600:]
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert {"default-src 'none'", "form-action 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
    return Page(response.text)


# --- every page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_inert_and_accessible(world, path):
    found = page(world, path, 404 if path == "/runs/nope" else 200)
    check_form(found)
    if path.startswith("/v1/"):
        assert found.targets() == [], "a file leads nowhere"
    else:
        assert found.targets()[0] == "#content", "the first thing that Tab reaches skips the navigation"
        assert next(a.get("aria-label") for tag, a in found.tags if tag == "nav") == "Pages"
    current = [a["href"] for tag, a in found.tags if tag == "a" and a.get("aria-current") == "page"]
    assert current == ([] if path.startswith(FILES) else ["/" + urlsplit(path).path.split("/")[1]])
    shown = re.sub(
        r"\d+ fields differ.*|Workload spec.*?Hash of the inputs|How the work differs.*?Where the",
        "",
        found.text.split("What the model wrote")[0],
    )
    assert not re.search(r"\b(None|nan|inf|True|False|\d+e[+-]\d+)\b", shown)


@pytest.mark.parametrize(
    "path", ["/clusters", "/runs", "/compare", "/fleet?start=2023-11-14&end=2023-11-15", "/prices", "/registry"]
)
def test_every_page_of_an_empty_service_says_so(empty, path):
    found = page(empty, path)
    check_form(found)
    assert re.search(r"\b(No|no|None|There is no)\b", found.text)


def test_every_link_leads_somewhere(world):
    """Walk over all links from the first page, fragments too; of what is alike, a few will do."""
    known: dict[str, Page] = {}
    files: set[str] = set()
    open_paths = ["/clusters", f"/compare?group_a={SPEC}@gpu/east&group_b={SPEC}@gpu-west"]
    while open_paths:
        path = open_paths.pop()
        if path in known or ("/runs/more-0" in path and "/runs/more-00" not in path):
            continue
        kind = "/".join(path.partition("?")[0].split("/")[:5])
        if path.startswith("/v1/") and (kind in files or kind.endswith("/pdf")):
            continue  # what makes PDF need not be installed
        files.add(kind)
        response = world.get(path)
        assert response.status_code == 200, path
        if not response.headers["content-type"].startswith("text/html"):
            continue
        known[path] = Page(response.text)
        for target in known[path].targets():
            there, _, fragment = target.partition("#")
            if fragment and there in {"", path}:
                assert fragment in {a.get("id") for _, a in known[path].tags}, f"{path} leads to {target}"
            if there:
                open_paths.append(there)
    assert {"/v1/reports/csv", "/v1/reports/comparison/csv", "/v1/reports/cluster/markdown", "/v1/comparisons"} <= files
    assert {"/runs/train-a0", "/clusters/gpu/east", "/hardware/h100-sxm", "/prices", "/registry", "/fleet"} <= set(
        known
    )


def test_names_full_of_markup_are_shown_as_they_are(world):
    for path in ("/runs", "/runs/hostile", "/runs/failed", "/clusters", "/clusters/gpu/east", "/runs/train-a0"):
        assert HOSTILE in page(world, path).text, path


def test_the_first_page_is_that_of_clusters(world):
    assert world.get("/").url.path == "/clusters"


# --- runs -----------------------------------------------------------------------------------------------------------


def listed(client, path) -> list[list[str]]:
    return page(client, path).table("Run")[1:]


def test_runs_are_filtered_and_sorted(world):
    assert {row[0] for row in listed(world, "/runs?state=failed")} == {"failed"}
    assert {row[0] for row in listed(world, "/runs?kind=inference")} == {"serve-1"}
    assert {row[1] for row in listed(world, "/runs?cluster=gpu-west")} == {"gpu-west"}
    best = [float(row[4]) for row in listed(world, "/runs?sort=score") if row[4] != "– absent"]
    assert best == sorted(best, reverse=True)
    dearest = [row[5] for row in listed(world, "/runs?sort=cost")]
    costs = [float(text.lstrip("$")) for text in dearest if text.startswith("$")]
    assert costs == sorted(costs)
    assert len(costs) == 11
    assert all(text == "– absent" for text in dearest[len(costs) :]), "absent figures come last"
    sorted_by = [a for tag, a in page(world, "/runs?sort=cost").tags if tag == "th" and "aria-sort" in a]
    assert [a["aria-sort"] for a in sorted_by] == ["ascending"]


@pytest.mark.parametrize("sort", ["newest", "score", "cost", "held"])
def test_the_parts_of_the_list_are_all_of_it_once(world, sort):
    names, path = [], f"/runs?sort={sort}"
    while path:
        found = page(world, path)
        names += [row[0] for row in found.table("Run")[1:]]
        path = next((a["href"] for tag, a in found.tags if tag == "a" and a.get("rel") == "next"), None)
    assert len(names) == len(set(names)) == 58


@pytest.mark.parametrize(
    ("run_id", "told"),
    [
        ("under-way", "The run is under way"),
        ("failed", "The run failed"),
        ("only-created", "has not begun"),
        ("unpriced", "No price was given"),
        ("unknown-peak", "the hardware's limit is not known"),
        ("does-not-balance", "the ledger does not balance"),
    ],
)
def test_a_run_without_figures_says_what_is_missing_and_what_is_known(world, run_id, told):
    found = page(world, f"/runs/{run_id}")
    assert told in found.text
    assert found.term("Spec id"), "what was to run can always be said"
    assert found.term("Devices")


def test_the_page_of_a_training_shows_all_that_it_told(world):
    found = page(world, "/runs/train-a0")
    bubble = {row[0].split()[0]: row[-1] for row in found.table("Bubble")[1:]}
    assert bubble["measured"] == "14.4%", "1 - the mean of busy over the schedule: 0.83 / 0.97"
    assert float(bubble["closed"].rstrip("%")) < 14
    rows = {row[0].split(" bandwidth")[0]: row[1:] for row in found.table("Collective")[1:]}
    assert rows["all-reduce"][0] == "20", "calls of one rank"
    assert rows["all-reduce"][-1] == "15 GB/s", "1.2e11 bytes in 8 s"
    assert rows["send and receive"][-1] == "–"
    assert found.term("Restarts") == ["1 after a process had died"]
    assert found.term("Steps done again") == ["2"]
    assert found.term("Recovery took")[0].startswith("80.0 device-seconds")
    assert found.term("Experts without a token")[0].startswith("2 ")
    assert [row[0] for row in found.table("Operand")[1:]] == ["activation", "gradient"]
    assert "Device-seconds over the time of the run" in found.text
    assert "in the steps: 358 TFLOP/s" in found.text, "MFU x peak"


def test_the_page_of_a_serving_shows_its_iterations_under_the_roofline(world):
    found = page(world, "/runs/serve-1")
    marks = [a for tag, a in found.tags if tag == "circle" and a["class"].startswith("mark")]
    assert len(marks) > 5
    assert "mostly decode" in found.text
    assert "mostly prefill" in found.text
    for mark in marks:
        if "cx" in mark and mark["cx"].endswith("%"):
            assert 0 < float(mark["cx"].rstrip("%")) < 100
            assert 0 < float(mark["cy"].rstrip("%")) < 100


def test_fragments_of_a_run_stay_where_links_expect_them(world):
    ids = {a.get("id") for _, a in page(world, "/runs/train-a0").tags}
    assert {"result", "ledger", "bill", "runs", "provenance", "run1-pipeline", "run1-recovery", "run1-roofline"} <= ids


# --- comparisons ----------------------------------------------------------------------------------------------------


def test_a_comparison_leads_with_the_verdict_and_itemises_the_difference(world):
    found = page(world, f"/compare?group_a={SPEC}@gpu/east&group_b={SPEC}@gpu-west")
    assert re.search(r"A token on gpu-west costs 15\.1% more than on gpu/east", found.text)
    assert "+15.1 %" in found.text
    rows = {row[0]: row[2:] for row in found.table("Spent on")[1:]}
    assert next(iter(rows)) == "kernel inefficiency", "the largest difference comes first"
    total = [float(text.strip("+$−")) for text in rows.pop("Total")]
    lines = [[float(text.strip("+$−")) for text in row] for row in rows.values()]
    for column in range(3):
        assert sum(row[column] for row in lines) == pytest.approx(total[column], abs=6e-5), "to what is printed"
    assert total[1] - total[0] == pytest.approx(total[2], abs=2e-5)
    assert found.term("Break-even price of B")[0].startswith("$1.74 per device-hour")
    assert [text.split()[0] for text in found.term("Noise floor of A")] == ["±2.1"]


def test_unlike_work_has_no_verdict_and_says_what_differs(world):
    found = page(world, "/compare?a=serve-1&b=train-a1")
    assert "No verdict: one side trained and the other served." in found.text
    assert "not like with like" in found.text
    assert ["kind", "inference", "training"] in found.table("Field")
    assert found.term("Break-even price of B")[0].startswith("absent")


def test_few_runs_are_too_few(world):
    found = page(world, "/compare?a=train-a1&b=train-b1")
    assert "too few to tell it from chance" in found.text
    assert "a difference (p" not in found.text


def test_a_published_result_is_labelled_as_published(world):
    found = page(world, f"/compare?group_a={SPEC}@gpu/east&group_b=published:deepseek-v3-training")
    assert "published, not measured" in found.text
    assert "arXiv 2412.19437" in found.text
    assert "$0.36" in found.text


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("a=train-a1&b=train-a1", "Both sides are the same runs"),
        ("group_a=nothing@nowhere", "Side A has no run with figures"),
        ("a=train-a1", "Side B has no run with figures"),
        ("a=nope&b=train-a1", "There is no run 'nope'"),
        ("a=failed&b=train-a1", "No run of this side has figures"),
        ("a=train-a1&b=published:nothing", "Unknown published result 'nothing'"),
    ],
)
def test_what_cannot_be_compared_is_said_above_the_form(world, query, told):
    found = page(world, f"/compare?{query}")
    assert told in found.text
    assert "Pick two sides" in found.text


# --- clusters and catalogues ----------------------------------------------------------------------------------------


def test_a_cluster_shows_cost_hours_and_nodes(world):
    found = page(world, "/clusters/gpu/east")
    assert [row[1] for row in found.table("Workload")[1:]] == ["train-a4", "serve-1"]
    assert [row[0] for row in found.table("Node")[1:]] == ["gpu-0", "gpu-1"]
    assert "2 × NVIDIA H100 80GB HBM3" in found.text
    assert "$2.00 per device-hour" in found.text
    assert re.search(r"busy \d+\.\d%, idle \d+\.\d%", found.text)
    assert "Idle time cost $" in found.text


def test_a_cluster_says_what_is_missing(world):
    found = page(world, "/clusters/default")
    assert "No agent has reported from it" in found.text
    assert "It has no price" in found.text
    assert "No run on it was scored with a price" in found.text


def test_hardware_marks_what_is_unverified_and_what_is_absent(world):
    rows = {row[0].split()[-1]: row[1:] for row in page(world, "/hardware").table("Accelerator")[1:]}
    assert rows["h100-sxm"][0] == "989 TFLOP/s bf16 1.98 PFLOP/s fp8"
    assert "unverified" in rows["h20"][2]
    assert "– absent" in rows["h20"]


def test_the_registry_has_an_anchor_for_every_metric(world):
    assert "accel_busy_ratio" in {a.get("id") for _, a in page(world, "/registry").tags}


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/runs/nope", 404, "There is no run 'nope'"),
        ("/clusters/nope", 404, "There is no cluster 'nope'"),
        ("/hardware/nope", 404, "Unknown hardware 'nope'"),
        ("/nope", 404, "There is nothing at this path"),
        ("/runs?sort=sideways", 422, "Unknown sort 'sideways'"),
        ("/runs?state=<script>", 422, "Unknown state '<script>'"),
        ("/runs?cursor=x", 422, "Not a cursor of this list"),
        ("/fleet?start=yesterday", 422, "'yesterday' is not a day"),
        ("/fleet?start=2023-11-02&end=2023-11-01", 422, "is before the first"),
        ("/v1/runs/nope", 404, "There is no run 'nope'"),
        ("/runs/%00", 422, "NUL"),
    ],
)
def test_a_browser_gets_errors_as_pages_and_a_program_as_problems(world, path, status, told):
    found = page(world, path, status)
    check_form(found)
    assert told in found.text
    assert "/runs" in found.targets()
    other = world.get(path, headers={"Accept": "application/json"})
    assert other.status_code == status
    assert other.headers["content-type"] == "application/problem+json"


# --- a real browser -------------------------------------------------------------------------------------------------

MEASURE = """() => {
  const parse = text => { const c = text.match(/[\\d.]+/g).map(Number); return c.length > 3 ? c : [...c, 1]; };
  const light = ([r, g, b]) => { const f = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const under = element => { for (let e = element; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255]; };
  const poor = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("svg, .unseen, option")) continue;
    const style = getComputedStyle(element), a = light(parse(style.color)), b = light(under(element));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) poor.push([ratio, node.data.trim().slice(0, 40)]);
  }
  const drawn = [...document.querySelectorAll("main svg:not(.unseen)")].map(svg => svg.clientHeight);
  return [document.documentElement.scrollWidth, poor, drawn];
}"""
"""How wide the page is, texts whose contrast is below WCAG's AA, and how high its charts are."""


@contextmanager
def opened(browser, client):
    """A tab to which the service answers, and what its console said."""
    said: list[str] = []

    def answer(route) -> None:
        request = route.request
        response = client.request(request.method, request.url.removeprefix("http://tokenstone.test"), headers=HTML)
        route.fulfill(status=response.status_code, headers=dict(response.headers), body=response.content)

    with browser.new_context(viewport={"width": 1600, "height": 900}) as context:
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
        tab.route("**/*", answer)
        yield tab, said


@pytest.mark.slow
def test_a_browser_shows_every_page_in_light_and_dark_wide_and_narrow(browser, world):
    with opened(browser, world) as (tab, said):
        for path in PAGES:
            tab.goto(f"http://tokenstone.test{path}")
            assert tab.locator("h1").is_visible()
            for width, scheme in itertools.product((1600, 390), ("light", "dark")):
                tab.emulate_media(color_scheme=scheme)
                tab.set_viewport_size({"width": width, "height": 900})
                scroll_width, poor, heights = tab.evaluate(MEASURE)
                assert scroll_width == width, path
                assert poor == [], (path, scheme, "contrast")
                assert all(height > 4 for height in heights), path
        assert [text for text in said if "404" not in text] == []


@pytest.mark.slow
def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(browser, world):
    with opened(browser, world) as (tab, _said):
        tab.goto("http://tokenstone.test/runs")
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.className") == "skip"
        assert tab.evaluate("document.activeElement.getBoundingClientRect().top") >= 0, "it shows itself"
        seen = []
        for _ in range(14):
            tab.keyboard.press("Tab")
            name, outline = tab.evaluate(
                "[document.activeElement.id || document.activeElement.textContent.trim(),"
                " getComputedStyle(document.activeElement).outlineStyle]"
            )
            seen.append(name)
            assert outline != "none", name
        assert seen[:8] == ["Tokenstone", "Clusters", "Runs", "Compare", "Fleet", "Hardware", "Prices", "Metrics"]
        assert seen[8:13] == ["cluster", "kind", "state", "spec_id", "Show"]
        tab.focus("#state")
        tab.keyboard.type("failed")
        tab.focus("button.main")
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/runs?*state=failed*")
        assert tab.locator("tbody th").all_inner_texts() == ["failed"]
