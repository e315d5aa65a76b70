"""The prose says what the code does: examples are run, generated pages compared, names looked up."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tokenstone
from cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)


def console_examples():
    for page in PAGES:
        for block in CONSOLE.findall(page.read_text()):
            for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = example.partition("\n")
                if command.startswith(("tokenstone calc", "tokenstone hardware", "tokenstone project")):
                    yield pytest.param(command, output, id=f"{page.name}: {command[:60]}")


@pytest.mark.parametrize(("command", "output"), list(console_examples()))
def test_console_examples_print_what_the_docs_show(command, output):
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines()] == [line.split() for line in output.splitlines()]


def test_the_worked_example_is_true():
    failures, tried = doctest.testfile(str(ROOT / "docs/methodology.md"), module_relative=False)
    assert tried > 10
    assert failures == 0


def test_generated_pages_are_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, page in generate.PAGES.items():
        assert (ROOT / "docs" / name).read_text() == page(), f"docs/{name} is old: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_prose_exist(page):
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    for name in re.findall(r"`tokenstone ([a-z][a-z-]*)", page.read_text()):
        assert name in known, f"{page.name} speaks of `tokenstone {name}`"


def test_make_targets_in_prose_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        for name in re.findall(r"`make ([a-z]+)", page.read_text()):
            assert name in targets, f"{page.name} speaks of `make {name}`"


def test_the_domain_passes_its_own_examples():
    tried = 0
    for module in pkgutil.walk_packages(tokenstone.__path__, "tokenstone."):
        if module.name.startswith("tokenstone.integrations."):
            continue  # each takes seconds to import the library it is a part of
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0, module.name
        tried += result.attempted
    assert tried > 10


def test_adr_titles_are_numbered_like_their_files():
    for path in (ROOT / "docs/adr").glob("*.md"):
        number = int(path.name.split("-")[0])
        assert path.read_text().startswith(f"# {number}. ")


def test_version_is_the_same_everywhere():
    assert f'version = "{tokenstone.__version__}"' in (ROOT / "pyproject.toml").read_text()
