"""Running a vendor's tool: real programs that are missing, fail, hang or leave a child behind."""

import os
import time
from pathlib import Path

import pytest

from collector.sources.base import SourceUnavailable
from collector.sources.tool import live_commands


@pytest.fixture
def program(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(text, name="example-smi"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return write


def test_what_it_prints_comes_back_and_arguments_meet_no_shell(program):
    program('printf "%s|" "$@"; echo "$LC_ALL"')
    assert live_commands()("example-smi", ["a b", "$(id)", "*"]) == "a b|$(id)|*|C\n"


def test_a_missing_tool_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(SourceUnavailable, match="no-such-smi: there is no such program on PATH"):
        live_commands()("no-such-smi", [])
    with pytest.raises(SourceUnavailable, match=f"no such program at {tmp_path}/gone"):
        live_commands({"example-smi": tmp_path / "gone"})("example-smi", [])


def test_a_configured_path_comes_before_the_path_variable(program):
    program("echo from PATH")
    other = program("echo configured", name="other")
    assert live_commands({"example-smi": other})("example-smi", []) == "configured\n"


def test_a_failure_is_told_with_the_tools_last_words(program):
    program("echo starting; echo 'no device file' >&2; exit 9")
    with pytest.raises(SourceUnavailable, match="it failed with 9 and said: no device file"):
        live_commands()("example-smi", [])


def test_a_tool_that_hangs_is_killed_with_its_children(program, tmp_path, eventually):
    child = tmp_path / "child"
    program(f"sleep 600 & echo $! > {child}; wait")
    start = time.monotonic()
    with pytest.raises(SourceUnavailable, match=r"no answer within 0\.3 s"):
        live_commands(deadline_seconds=0.3)("example-smi", [])
    assert time.monotonic() - start < 10

    def is_gone():
        try:
            return "\nState:\tZ" in Path(f"/proc/{int(child.read_text())}/status").read_text()
        except OSError:
            return True

    eventually(is_gone)


def test_what_is_no_program_cannot_be_started(program):
    program("").write_bytes(b"\x7fELF not really")
    with pytest.raises(SourceUnavailable, match="cannot be started"):
        live_commands()("example-smi", [])
