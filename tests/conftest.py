"""The command line, called in this process."""

import sys

import pytest

from cli.main import main


@pytest.fixture
def tokenstone(capsys, monkeypatch):
    """Call the command line: (exit code, stdout, stderr)."""

    def call(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["tokenstone", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return call
