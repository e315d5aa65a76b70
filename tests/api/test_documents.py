"""Reports and comparisons as files: golden documents, hostile names, and the service's answers."""

import copy
import csv
import importlib.util
import io
import json
import os
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from pypdf import PdfReader

from api import examples
from api.documents import write_document
from api.documents.text import plain
from tokenstone.cluster_report import build_cluster_report
from tokenstone.compare import compare_sides, make_side, run_figures
from tokenstone.compare.published import find_published
from tokenstone.compare.side import published_side
from tokenstone.cost import rental
from tokenstone.evaluate import evaluate
from tokenstone.report import build_report

DOMAIN, GOLDEN = Path(__file__).parents[1] / "domain", Path(__file__).parents[1] / "golden"
EVIL = "<img src=x onerror=alert(1)> | *b* [x](http://evil) `c` _i_\n# =1+1"


def _load(name):
    spec = importlib.util.spec_from_file_location(name, DOMAIN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


support, facts = _load("comparison_support"), _load("test_evaluate")


def evaluated(spec, told, price=2.0, **changes):
    run = facts.run_view(spec).model_copy(update=changes)
    return run, evaluate(run, told, windows=[], price=rental(price))


def a_report(**changes):
    both = [evaluated(facts.TRAINING, facts.training_facts(), **changes),
            evaluated(facts.SERVING, facts.serving_facts(), **changes)]  # fmt: skip
    return build_report(both, created_unix_seconds=1.7e9)


def a_comparison():
    """Dearer hours, less exposed communication; other hardware."""
    lines = {"ideal": 50.0, "exposed_communication": 12.0, "startup": 20.0}
    b = support.side("b", (1, 1.02, 0.99, 1.01), lines=lines, price=2.5, cluster="lab-b",
                     environment={"hardware": "mi300x"})  # fmt: skip
    return compare_sides(support.side("a"), b, created_unix_seconds=1.7e9, reproduce=["tokenstone compare a-0 b-0"])


def a_serving_comparison():
    """With curves."""
    told = facts.serving_facts()
    pairs = [evaluated(facts.SERVING, told, run_id=name, price=price) for name, price in (("x", 2.0), ("y", 3.0))]
    sides = [make_side([run_figures(*pair)]) for pair in pairs]
    seconds = {run.run_id: evaluation.output_bill.device_seconds for run, evaluation in pairs}
    return compare_sides(*sides, facts={run.run_id: told for run, _ in pairs}, output_seconds=seconds)


def a_cluster():
    runs = [evaluated(facts.TRAINING, facts.training_facts(tokens=2560 - i), run_id=f"r-{i}") for i in range(4)]
    runs.append(evaluated(facts.SERVING, facts.serving_facts()))
    return build_cluster_report("lab", runs, created_unix_seconds=1.7e9)


@pytest.mark.parametrize("form", ["markdown", "csv"])
@pytest.mark.parametrize(
    ("name", "make"), [("report", a_report), ("comparison", a_comparison), ("cluster", a_cluster),
                       ("comparison-serving", a_serving_comparison)],
)  # fmt: skip
def test_documents_are_the_golden_ones(name, make, form):
    text = write_document(make(), form).decode()
    path = GOLDEN / f"document-{name}.{'md' if form == 'markdown' else form}"
    if os.environ.get("TOKENSTONE_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "look at the difference, then `make golden`"


@pytest.mark.parametrize("make", [a_report, a_comparison, a_cluster, a_serving_comparison])
def test_csv_is_one_tidy_table_of_numbers(make):
    rows = list(csv.DictReader(io.StringIO(write_document(make(), "csv").decode())))
    assert list(rows[0]) == ["document", "subject", "section", "item", "unit", "value", "low", "high", "text"]
    for row in rows:
        for column in ("value", "low", "high"):
            assert row[column] == "" or isinstance(float(row[column]), float)
    keys = [(row["subject"], row["section"], row["item"]) for row in rows]
    assert len(set(keys)) == len(keys), "a figure stands there twice"


def test_the_csv_column_of_differences_adds_up_exactly():
    rows = list(csv.DictReader(io.StringIO(write_document(a_comparison(), "csv").decode())))
    for section in ("itemised", "itemised_time_effect", "itemised_price_effect"):
        found = {
            row["item"]: float(row["value"]) for row in rows if (row["section"], row["subject"]) == (section, "B-A")
        }
        total = found.pop("total")
        assert sum(found.values()) == total


@pytest.mark.slow
@pytest.mark.parametrize("make", [a_report, a_comparison])
def test_the_text_of_a_pdf_can_be_read(make):
    document = make()
    pdf = PdfReader(io.BytesIO(write_document(document, "pdf")))
    text = " ".join(" ".join(page.extract_text().split()) for page in pdf.pages)
    sentence = document.answer if hasattr(document, "answer") else document.verdict.sentence
    assert sentence in text
    assert "exposed communication" in text
    assert "How to do it again" in text


def test_names_full_of_markup_are_only_text():
    b = make_side(support.runs("b", (1, 1, 1), environment={"hardware": EVIL}), title=EVIL)
    comparison = compare_sides(support.side("a"), b, reproduce=[EVIL])
    html = MarkdownIt("commonmark").enable("table").render(write_document(comparison, "markdown").decode())
    assert "<img" not in html
    assert "<a href" not in html
    assert html.count("<h1>") == 1
    for row in csv.reader(io.StringIO(write_document(comparison, "csv").decode())):
        assert len(row) == 9
        assert not any(cell.startswith(("=", "@", "+")) for cell in row)
    assert "\n" not in plain(EVIL)
    assert write_document(comparison, "pdf").startswith(b"%PDF")


def test_a_published_side_is_labelled_with_source_and_date():
    comparison = compare_sides(published_side(find_published("deepseek-v3-training")), support.side("b"))
    text = write_document(comparison, "markdown").decode()
    assert "A is **published**, not measured here: DeepSeek-V3 Technical Report" in text
    assert "2024-12-27" in text
    assert "a published figure has no interval" in text


@pytest.fixture
def two_clusters(api, end_run):
    for name, tokens, cluster in (("a", 2000, "lab-a"), ("b", 2500, "lab-b")):
        for number in range(4):
            told = copy.deepcopy(examples.FACTS) | {"tokens": tokens + number}
            end_run(api, f"{name}-{number}", cluster=cluster, facts=told)
    return {"a": [f"a-{i}" for i in range(4)], "b": [f"b-{i}" for i in range(4)]}


MEDIA = {"markdown": "text/markdown; charset=utf-8", "csv": "text/csv; charset=utf-8", "pdf": "application/pdf"}


@pytest.mark.parametrize("form", MEDIA)
@pytest.mark.parametrize("what", ["", "/comparison", "/cluster"])
def test_the_service_writes_every_form(api, two_clusters, what, form):
    params = {"": {"run": "a-0"}, "/comparison": two_clusters, "/cluster": {"cluster": "lab-a"}}[what]
    answer = api.get(f"/v1/reports{what}/{form}", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == MEDIA[form]
    assert answer.content.startswith({"markdown": b"# ", "csv": b"document,", "pdf": b"%PDF"}[form])


def test_a_cluster_is_reported_by_its_workloads(api, two_clusters, start_run, problem):
    start_run(api, "a-open", cluster="lab-a")
    found = api.get("/v1/reports/cluster", params={"cluster": "lab-a"}).json()
    [workload] = found["workloads"]
    assert len(workload["runs"]) == 4
    assert workload["noise_floor"]["ratio"] > 1
    assert [out["run_id"] for out in found["left_out"]] == ["a-open"]
    assert "has no run with figures" in problem(api.get("/v1/reports/cluster", params={"cluster": "no"}), 404)["detail"]
    problem(api.get("/v1/reports/yaml", params={"run": "a-0"}), 422)


def test_an_unfinished_run_is_left_out_and_the_rest_compared(api, two_clusters, start_run):
    start_run(api, "b-open", cluster="lab-b")
    found = api.get("/v1/comparisons", params={"a": two_clusters["a"], "b": [*two_clusters["b"], "b-open"]}).json()
    assert [out["run_id"] for out in found["b"]["left_out"]] == ["b-open"]
    assert found["verdict"]["answer"] == "b_cheaper"
    sides = {"a": "published:deepseek-v3-training", "b": two_clusters["b"]}
    published = api.get("/v1/comparisons", params=sides).json()
    assert published["verdict"]["answer"] == "published"
    assert json.dumps(published)  # no infinity, no NaN
