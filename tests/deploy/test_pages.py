"""docs/deploy.md and docs/scale.md: commands that exist, files that are there, arithmetic that adds up."""

import json
import re
import shlex

import pytest
import yaml
from typer.main import get_command

from cli.main import app

PAGES = ["deploy.md", "scale.md"]
OPTION_OF_COMPOSE = {"TOKENSTONE_SECRETS", "TOKENSTONE_BIND", "TOKENSTONE_AGENT_LISTEN", "TOKENSTONE_VERSION",
                     "TOKENSTONE_RENDER_GROUP"}  # fmt: skip


def blocks(text: str) -> str:
    return "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")


@pytest.fixture(params=PAGES)
def page(request, root):
    return (root / "docs" / request.param).read_text()


def test_every_command_line_is_one_that_the_program_takes(page):
    found = re.findall(
        r"(?:^|[ /])tokenstone ((?:train|probe|job|key|db|doctor|serve|agent)\b[^|>#&)`\n]*)", blocks(page), re.M
    )
    for line in found:
        words = shlex.split(line.replace('"', ""))
        command = get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts}
        used = {word for word in (words[: words.index("--")] if "--" in words else words) if word.startswith("--")}
        assert used <= known, line
    assert found or "rows a second" in page


def test_files_and_folders_that_are_named_are_there(page, root):
    names = re.findall(r"(?<![\w./])((?:deploy|dashboards|bench|tests)/[\w./-]*\w)", page)
    assert names
    for name in names:
        assert (root / name).exists(), name


def test_settings_that_are_named_exist(page, setting_names):
    assert set(re.findall(r"TOKENSTONE_[A-Z_]+[A-Z]", page)) <= setting_names | OPTION_OF_COMPOSE


def test_all_variables_of_compose_are_explained(root):
    text = (root / "docs/deploy.md").read_text()
    for name in set(re.findall(r"\$\{(\w+)", (root / "docker-compose.yml").read_text())):
        assert f"`{name}`" in text, name


def test_values_of_the_chart_that_are_named_exist(root):
    values = yaml.safe_load((root / "deploy/helm/tokenstone/values.yaml").read_text())
    text = (root / "docs/deploy.md").read_text()
    named = set(re.findall(r"--set ([\w.]+)=", text)) | {"service.tlsSecret", "agent.caSecret", "dashboards.labels"}
    for name in named - {"monitoring.labels.release"}:
        place = values
        for key in name.split("."):
            assert key in place, name
            place = place[key]


def test_messages_that_the_page_explains_are_in_the_code(root):
    table = (root / "docs/deploy.md").read_text().partition("## When something is wrong")[2]
    code = (
        "\n".join(
            path.read_text()
            for folder in ("api", "collector", "tokenstone", "cli", "deploy/compose")
            for path in (root / folder).rglob("*.py")
        )
        + (root / "docker-compose.yml").read_text()
    )
    others = {"bind source path does not exist: .../secrets/...", "port is already allocated", "No data",
              "password authentication failed", 'secret "tokenstone-keys" not found', "up"}  # fmt: skip
    for row in re.findall(r"^\| ([^|]*) \|", table, re.M):
        for message in re.findall(r"`([^`]+)`", row):
            if message not in others:
                assert message.removesuffix(" 10001") in code, message


# --- the arithmetic of docs/scale.md


@pytest.fixture
def scale(root):
    return (root / "docs/scale.md").read_text()


def number(text: str) -> float:
    return float(re.search(r"[\d,.]+", text)[0].replace(",", ""))


def quantity(text: str, what: str) -> list[float]:
    row = re.search(rf"^\| {what}[^|]*\| ([^|]*)\|", text, re.M)[1]
    return [float(word.replace(",", "")) for word in re.findall(r"\d[\d,.]*", row)]


def test_the_table_of_fleets_follows_from_the_formulas(scale):
    [series], [windows] = quantity(scale, "series of a node with eight"), quantity(scale, "windows that it sends")
    sqlite, postgresql = quantity(scale, "a window in SQLite")
    sample = quantity(scale, "a sample in Prometheus")[-1]
    rows = re.findall(r"^\| ([\d,]+) \(([\d,]+)\) \|(.*)\|$", scale, re.M)
    assert len(rows) == 4
    for nodes, gpus, rest in rows:
        n = number(nodes)
        shown = [number(cell) for cell in rest.split("|")]
        expected = [
            series * n, series * n / 10, series * n / 10 * 86_400 * 30 * sample / 1e9, windows * n / 10,
            windows * n / 10 * 86_400 * sqlite / 1e9, windows * n / 10 * 86_400 * postgresql / 1e9,
        ]  # fmt: skip
        assert number(gpus) == 8 * n
        assert shown == [pytest.approx(value, rel=0.08 if value < 1 else 0.02) for value in expected]


def test_what_a_setup_needs_follows_from_the_formulas(scale):
    day = 775 / 10 * 86_400
    assert number(re.search(r"14 days: ([\d,]+) GB", scale)[1]) == pytest.approx(day * 10 * 14 * 50 / 1e9, rel=0.02)
    three_days = re.search(r"DAYS=3`: ([\d,]+) GB at 100", scale)[1]
    assert number(three_days) == pytest.approx(day * 100 * 3 * 126 / 1e9, rel=0.02)
    minutes = re.search(r"3 days: ([\d,]+) GB at 1,000", scale)[1]
    assert number(minutes) == pytest.approx(day / 6 * 1000 * 3 * 126 / 1e9, rel=0.02)
    assert "54,100 / 77.5 = 698 nodes" in scale
    assert int(54_100 / 77.5) == 698
    assert int(54_100 / 775) == 69


def values_of(document, key: str) -> list:
    """Every value under this key, wherever it is in the document."""
    if isinstance(document, list):
        return [value for item in document for value in values_of(item, key)]
    if not isinstance(document, dict):
        return []
    own = [document[key]] if key in document else []
    return own + [value for item in document.values() for value in values_of(item, key)]


def test_a_node_is_as_large_as_the_bench_found_it(scale, root):
    measured = json.loads((root / "bench/results/agent.json").read_text())
    assert quantity(scale, "series of a node with eight")[0] == pytest.approx(
        max(values_of(measured, "series")), rel=0.1
    )
    windows = max(values_of(measured, "windows_a_batch"))
    assert quantity(scale, "windows that it sends")[0] == pytest.approx(windows, rel=0.1)
    golden = (root / "tests/golden/metrics-cpu-node.txt").read_text().splitlines()
    assert quantity(scale, "series of a node without")[0] == pytest.approx(
        sum(not line.startswith("#") for line in golden), rel=0.1
    )
