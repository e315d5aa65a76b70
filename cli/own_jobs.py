"""The commands about anyone's own job: bracket it, score a past one, ask what if, deliver what has waited."""

from __future__ import annotations

import typer

from cli import deliver, run, score, what_if


def add_to(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command("run", context_settings={"allow_interspersed_args": False})(run.command)
    app.command("score")(score.command)
    app.command("what-if")(what_if.command)
    app.command("deliver")(deliver.command)
