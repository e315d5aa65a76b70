"""`tokenstone`: the commands, and the one place where an error becomes a line and an exit code.

Commands import what they need when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli import (
    ablate,
    agent,
    bench,
    calc,
    catalogue,
    compare,
    db,
    doctor,
    fleet,
    infer,
    job,
    key,
    own_jobs,
    probe,
    project,
    record,
    report,
    serve,
    serve_model,
    submit,
    trace,
    train,
)  # fmt: skip
from tokenstone import __version__
from tokenstone.errors import TokenstoneError

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""

app = typer.Typer(
    name="tokenstone",
    help="What does a token really cost on this cluster, and where did the rest of the money go?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("bench")(bench.command)
app.command("train")(train.command)
app.command("submit")(submit.command)
app.command("infer")(infer.command)
app.command("serve-model")(serve_model.command)
app.command("job")(job.command)
app.command("ablate")(ablate.command)
app.command("serve")(serve.command)
app.command("agent")(agent.command)
app.command("record")(record.command)
app.command("probe")(probe.command)
app.command("trace")(trace.command)
app.command("project")(project.command)
app.command("compare")(compare.command)
app.command("report")(report.command)
app.command("doctor")(doctor.command)
app.add_typer(key.app, name="key")
app.command("fleet")(fleet.command)
app.add_typer(calc.app, name="calc")
app.add_typer(db.app, name="db")
app.command("hardware")(catalogue.hardware_command)
app.command("metrics")(catalogue.metrics_command)
own_jobs.add_to(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tokenstone {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. Exit code 2 for usage, 1 for failure, 130 when interrupted."""
    try:
        code = app(standalone_mode=False)
    except TokenstoneError as error:
        code = _complain(str(error), error.exit_code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            code = error.exit_code
        else:
            hint = f" (see `{context.command_path} --help`)" if context is not None else ""
            code = _complain(f"{error.format_message()}{hint}", error.exit_code)
    if code == INTERRUPTED:
        _complain("interrupted", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str, code: int) -> int:
    line = " ".join(text.split())
    typer.echo(f"tokenstone: {line}", err=True)
    return code
