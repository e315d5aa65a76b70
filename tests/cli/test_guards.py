"""Signals that come at the worst moment."""

import signal
import subprocess
from types import SimpleNamespace

import pytest

from cli import job_run
from cli.guards import interrupted_by_signals, signals_held


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_held_signal_works_at_the_end_of_the_block(number):
    reached = []

    def work():
        with signals_held():
            signal.raise_signal(number)
            reached.append("in the block")
        reached.append("after it")

    with interrupted_by_signals(), pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["in the block"]


def test_a_signal_while_the_launcher_is_being_started_ends_the_launcher(monkeypatch, tmp_path):
    """It comes when the process is there and nobody has been handed it yet."""
    started = []

    def start(*arguments, **options):
        started.append(subprocess.Popen(*arguments, **options))
        signal.raise_signal(signal.SIGTERM)
        return started[0]

    monkeypatch.setattr(job_run, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": start}))
    told = []
    client = SimpleNamespace(create_run=lambda _: None, change_run=lambda _, change: told.append(change))
    run = job_run.JobRun(client, SimpleNamespace(run_id="r"))
    with pytest.raises(KeyboardInterrupt):
        run.run(["sleep", "300"], tmp_path / "facts.json", None)
    assert started[0].returncode is not None, "the launcher is still there"
    assert (told[-1].state, told[-1].reason) == ("failed", "interrupted")
