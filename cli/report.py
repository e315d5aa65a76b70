"""`tokenstone report`: what runs or a cluster cost and why, as a picture in the terminal or as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.output import JsonFlag, print_json, stdout
from cli.write_document import Form, Output

if TYPE_CHECKING:
    from tokenstone.client import Client
    from tokenstone.report import Report


def command(
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN...|FILE]", help="Ids of runs of one cluster, or a result file.")
    ] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="The report on a whole cluster.")] = None,
    api: options.Api = "http://127.0.0.1:8470",
    form: Form = None,
    output: Output = None,
    json: JsonFlag = False,
) -> None:
    """Report on runs, a cluster or a result file: answer, bill, ledger, environment, how to do it again."""
    from cli.write_document import check_form, deliver  # noqa: PLC0415
    from tokenstone.client import Client  # noqa: PLC0415
    from tokenstone.errors import UsageError  # noqa: PLC0415

    check_form(form, output, json=json)
    if bool(what) == (cluster is not None):
        raise UsageError("give either runs (or a result file) or --cluster NAME")
    with Client(api) as client:
        if cluster is not None:
            found = client.cluster_report(cluster)
            if json:
                return print_json(found.model_dump(mode="json"))
            if form is not None or output is not None:
                return deliver(found, form, output, html=lambda: client.cluster_html(cluster))
            from cli.compare_view import print_cluster  # noqa: PLC0415

            return print_cluster(found, stdout())
        report = _report(what or [], client)
    if json:
        return print_json(report.model_dump(mode="json"))
    if form is not None or output is not None:
        return deliver(report, form, output)
    from cli.terminal import print_report  # noqa: PLC0415

    print_report(report, stdout())
    for section in report.sections:
        if section.reproduce.command:
            typer.echo(f"Again: {section.reproduce.command}")
    return None


def _report(what: list[str], client: Client) -> Report:
    """From a file, or from the service."""
    if len(what) == 1 and (what[0].endswith(".json") or Path(what[0]).is_file()):
        import time  # noqa: PLC0415

        from cli.result_files import runs_of_document  # noqa: PLC0415
        from cli.sides import read_json  # noqa: PLC0415
        from tokenstone.report import build_report  # noqa: PLC0415

        path = Path(what[0])
        return build_report(runs_of_document(read_json(path), path), created_unix_seconds=time.time())
    return client.report(list(dict.fromkeys(what)))
