"""docs/api.md, command by command, against a real service."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/api.md"
ADDRESS = "http://127.0.0.1:8470"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
STEP = re.compile(r"^\$ (.*(?:\n> .*)*)\n?((?:(?!\$ ).*\n)*)", re.MULTILINE)


def steps() -> list[tuple[str, str]]:
    """(command, what it prints) of every console block."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found = (pair for block in blocks for pair in STEP.findall(block))
    return [(re.sub(r"^> ", "", command, flags=re.MULTILINE), output) for command, output in found]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_walk_through_the_api_works(tmp_path, marked):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    url, tried = "", 0
    for command, expected in steps():
        if command.startswith("tokenstone serve"):
            arguments = command.removesuffix("&").split()[1:]
            data = str(tmp_path / "tokenstone-data")
            service = marked.start(*arguments, "--json", "--port", "0", "--data", data)
            url = service.stdout.readline().split('"')[3]
            environment["TOKENSTONE_API"] = url
            continue
        result = subprocess.run(
            ["bash", "-c", command.replace(ADDRESS, url)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert result.returncode == 0, f"{command}\n{result.stderr}"
        # JSON comes without a line's end.
        got = result.stdout if result.stdout.endswith("\n") or not result.stdout else f"{result.stdout}\n"
        assert doctest.OutputChecker().check_output(_open_ended(expected), got, FLAGS), f"{command}\nprinted {got}"
        tried += 1
    assert tried > 20
    service.terminate()
    service.communicate(timeout=30)


def _open_ended(expected: str) -> str:
    """An ellipsis at the very end stands for the rest."""
    return re.sub(r"\.\.\.\n$", "...", expected)
