"""`tokenstone compare` and `report` on result files: what a user types, sees and gets."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
from pypdf import PdfReader
from typer.main import get_command
from typer.testing import CliRunner

from cli.documents import section_document, training_document
from cli.main import app
from tokenstone.cost import rental
from tokenstone.errors import TokenstoneError
from tokenstone.evaluate import evaluate
from tokenstone.report import build_report

DOMAIN, GOLDEN = Path(__file__).parents[1] / "domain", Path(__file__).parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("test_evaluate", DOMAIN / "test_evaluate.py")
facts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(facts)


def report_of(name, *, tokens=2560, price=2.0, spec=facts.TRAINING, **changes):
    run = facts.run_view(spec).model_copy(update={"run_id": name} | changes)
    told = facts.training_facts(tokens=tokens) if spec.kind == "training" else facts.serving_facts()
    evaluation = evaluate(run, told, windows=[], price=None if price is None else rental(price))
    return build_report([(run, evaluation)], created_unix_seconds=1.7e9)


@pytest.fixture
def result(tmp_path):
    """Write what `train --json` prints; return the path."""

    def write(name, **changes) -> str:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(training_document(report_of(name, **changes), Path("r.html"))))
        return str(path)

    return write


@pytest.fixture
def sides(result):
    """Four files a side, the second a tenth faster."""
    return [",".join(result(f"{name}-{i}", tokens=tokens + i, cluster=name) for i in range(4))
            for name, tokens in (("old", 2560), ("new", 2816))]  # fmt: skip


def invoke(*arguments, code=0):
    found = CliRunner().invoke(app, list(arguments))
    assert found.exit_code == code, (found.output, found.exception)
    return found


def test_files_are_compared_without_a_service(sides):
    found = json.loads(invoke("compare", *sides, "--json").stdout)
    assert found["verdict"]["answer"] == "b_cheaper"
    assert found["verdict"]["change_ratio"] == pytest.approx(1 / 1.1 - 1, rel=0.01)
    assert (found["cluster_a"], found["cluster_b"]) == ("old", "new")
    assert found["reproduce"] == [f"tokenstone compare {' '.join(sides)}"]
    assert {d["field"] for d in found["spec_differences"]} == set()


def test_the_terminal_shows_the_difference_as_bars(sides):
    text = invoke("compare", *sides).stdout
    assert "costs 9.1% less" in text.replace("\n", " ")
    assert "less│more" in text
    assert "kernel inefficiency" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_files_of_earlier_versions_hold_figures_alone(sides, tmp_path):
    path = Path(sides[0].split(",")[0])
    document = json.loads(path.read_text())
    for key in ("run", "evaluation", "kind"):
        del document[key]
    old = tmp_path / "earlier.json"
    old.write_text(json.dumps(document))
    now, then = (json.loads(invoke("compare", one, sides[1], "--json").stdout) for one in (str(path), str(old)))
    assert then["verdict"]["change_ratio"] == now["verdict"]["change_ratio"]
    with pytest.raises(TokenstoneError, match="not the runs that a report needs"):
        raise invoke("report", str(old), code=1).exception


def test_a_bench_holds_two_workloads_and_one_is_taken(tmp_path, result):
    training = report_of("t")
    serving = report_of("i", spec=facts.SERVING)
    bench = tmp_path / "bench.json"
    parts = {r.sections[0].kind: section_document(r.sections[0]) for r in (training, serving)}
    bench.write_text(json.dumps({**parts, "price": training.price.model_dump()}))
    found = json.loads(invoke("compare", str(bench), result("x"), "--json").stdout)
    assert [run["run_id"] for run in found["a"]["runs"]] == ["t"]
    served = json.loads(invoke("compare", str(bench), "published:deepseek-v3-serving", "--json").stdout)
    assert [run["run_id"] for run in served["a"]["runs"]] == ["i"]
    assert served["verdict"]["answer"] == "published"


@pytest.mark.slow
def test_every_form_comes_from_one_command(sides, tmp_path):
    for ending, start in {"json": b"{", "md": b"# ", "csv": b"document,", "html": b"<!", "pdf": b"%PDF"}.items():
        out = tmp_path / f"c.{ending}"
        invoke("compare", *sides, "-o", str(out))
        assert out.read_bytes().lstrip().lower().startswith(start.lower())
        one = tmp_path / f"r.{ending}"
        invoke("report", sides[0].split(",")[0], "-o", str(one))
        assert one.read_bytes().lstrip().lower().startswith(start.lower())
    assert "less than on" in " ".join(PdfReader(tmp_path / "c.pdf").pages[0].extract_text().split())
    page = (tmp_path / "c.html").read_text()
    assert "<script" not in page
    assert "exposed communication" in page.lower()


def test_a_report_is_read_from_what_report_prints(sides, tmp_path):
    printed = invoke("report", sides[0].split(",")[0], "--json").stdout
    again = tmp_path / "report.json"
    again.write_text(printed)
    text = invoke("report", str(again), "--format", "markdown").stdout
    assert text.startswith("# Training on old")
    assert "A million tokens costs $4.34" in text


def test_different_currencies_in_files_are_named(sides, tmp_path):
    path = tmp_path / "euro.json"
    document = json.loads(Path(sides[1].split(",")[0]).read_text())
    for key in ("run", "evaluation"):
        del document[key]
    document["price"]["currency"] = "EUR"
    path.write_text(json.dumps(document))
    found = json.loads(invoke("compare", sides[0], str(path), "--json").stdout)
    assert any("different currencies: USD and EUR" in text for text in found["missing"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "no.json", "published:deepseek-v3-step"], "no such file"),
        (["compare", "published:gpt-9", "published:deepseek-v3-step"], "unknown published result"),
        (["compare", ",", "published:deepseek-v3-step"], "no runs"),
        (["report"], "either runs"),
        (["report", "x", "--cluster", "y"], "either runs"),
        (["report", "x", "--json", "--format", "csv"], "--json prints on stdout"),
        (["report", "x", "-o", "r.docx"], "does not say its format"),
        (["report", "x", "--format", "pdf"], "a PDF needs a file"),
        (["compare", "a", "b", "--api", "http://127.0.0.1:9"], "does not answer"),
    ],
)
def test_what_makes_no_sense_gets_one_clear_error(arguments, said):
    found = CliRunner().invoke(app, arguments)
    assert isinstance(found.exception, TokenstoneError)
    assert said in str(found.exception)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"run_id": 1}', '{"sections": []}', '{"sections": [{}]}', "\x00", "[" * 99999]
)
def test_a_file_that_is_no_result_is_named(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    found = CliRunner().invoke(app, ["compare", str(path), "published:deepseek-v3-training"])
    assert isinstance(found.exception, TokenstoneError), found.exception
    assert "x" in str(found.exception)


def test_two_published_results_stand_side_by_side():
    found = json.loads(
        invoke("compare", "published:deepseek-v3-training", "published:deepseek-v3-step", "--json").stdout
    )
    assert found["verdict"]["answer"] == "published"


def test_the_commands_of_the_page_are_commands():
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    commands = re.findall(r"^\$ tokenstone (.*)$", page, flags=re.MULTILINE)
    assert len(commands) >= 5
    for line in commands:
        name, *arguments = shlex.split(line.partition(" > ")[0])
        get_command(app).commands[name].make_context(name, [*arguments])  # parses, and runs nothing
        if "published:" in line:
            assert "published" in invoke(name, *arguments).stdout
