"""docs/your-own-job.md says what the code does: these options, this Python, these errors."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from cli.main import app
from tokenstone.errors import InvalidValue
from tokenstone.record import Job

PAGE = (Path(__file__).parents[2] / "docs/your-own-job.md").read_text()
COMMANDS = get_command(app).commands


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def shell_commands() -> list[list[str]]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("tokenstone ")]


@pytest.mark.parametrize("words", shell_commands(), ids=lambda words: " ".join(words)[:60])
def test_commands_have_the_options_that_are_shown(words):
    command = COMMANDS[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    ours = words[: words.index("--")] if "--" in words else words
    for word in ours[2:]:
        assert not word.startswith("--") or word in known, word
    if ">" in ours:
        assert "--json" in ours


def test_the_loop_that_is_shown_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTONE_SPOOL", str(tmp_path))
    monkeypatch.setattr(Job, "close", lambda *_: None)  # there is no such service
    trained = []

    class Batch:
        def numel(self) -> int:
            return 7

    [loop] = [block for block in blocks("python") if "import Job" in block]
    names = {"loader": [Batch()] * 3, "train": trained.append, "save": lambda: None}
    exec(loop.replace('api="http://service:8470", ', ""), names)  # noqa: S102  our own page
    assert len(trained) == 3
    assert names["job"]._part(False).tokens == 21


def test_callbacks_are_where_the_page_says():
    root = Path(__file__).parents[2]
    for module in re.findall(r"from (tokenstone\.integrations\.\w+) import TokenstoneCallback", PAGE):
        assert "class TokenstoneCallback" in (root / f"{module.replace('.', '/')}.py").read_text()


def test_misuse_is_told_in_these_words(tmp_path, monkeypatch):
    monkeypatch.delenv("TOKENSTONE_RUN_ID", raising=False)
    job = Job("test", spool=tmp_path)
    said = []
    for misuse in (
        lambda: (job.begin("step"), job.begin("step")),
        lambda: (job.end(), job.activity("input_stall").__enter__()),
        lambda: job.step(tokens=-1),
        lambda: Job("test", rank=0, world_size=2),
    ):
        with pytest.raises(InvalidValue) as error:
            misuse()
        said.append(error.value.what)
    table = PAGE.split("| misuse | what it says |")[1].split("\n\n")[0]
    assert re.findall(r"\| `(.+?)` \|", table) == said
