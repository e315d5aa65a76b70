"""Reports and comparisons into files: one place that knows forms, endings and what each needs installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tokenstone.cluster_report import ClusterReport
    from tokenstone.compare import Comparison
    from tokenstone.report import Report

Name = Literal["json", "markdown", "csv", "html", "pdf"]
Form = Annotated[Name | None, typer.Option("--format", help="[default: by the ending of --output; else the terminal]")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there. [default: stdout; a PDF needs it]")
]
_ENDINGS: dict[str, Name] = {".json": "json", ".md": "markdown", ".csv": "csv", ".html": "html", ".pdf": "pdf"}


def check_form(form: Name | None, output: Path | None, *, json: bool) -> None:
    """Refuse what contradicts itself before anything is worked out. Raises UsageError."""
    from tokenstone.errors import UsageError  # noqa: PLC0415

    if json and (form is not None or output is not None):
        raise UsageError("--json prints on stdout", hint="use --format json -o FILE for a file")
    if form is None and output is not None and output.suffix.lower() not in _ENDINGS:
        raise UsageError(f"{output} does not say its format", hint=f"give --format, or one of {', '.join(_ENDINGS)}")
    if form == "pdf" and output is None:
        raise UsageError("a PDF needs a file", hint="give -o FILE.pdf")


def deliver(
    document: Report | ClusterReport | Comparison,
    form: Name | None,
    output: Path | None,
    *,
    html: Callable[[], str] | None = None,
) -> None:
    """Write a document whole or not at all. `html` makes the page where the domain alone cannot."""
    if form is None:
        assert output is not None  # noqa: S101  checked before
        form = _ENDINGS[output.suffix.lower()]
    content = _content(document, form, html)
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    from cli.files import write_bytes_whole  # noqa: PLC0415

    write_bytes_whole(output, content)
    typer.echo(f"Written: {output}", err=True)


def _content(document: Report | ClusterReport | Comparison, form: Name, html: Callable[[], str] | None) -> bytes:
    from cli.extras import needs  # noqa: PLC0415

    if form == "json":
        return (document.model_dump_json(indent=2) + "\n").encode()
    if form == "html":
        with needs("service"):
            return (html() if html is not None else _page(document)).encode()
    from api.documents import write_document  # noqa: PLC0415

    return write_document(document, form)


def _page(document: Report | ClusterReport | Comparison) -> str:
    from tokenstone.report import Report  # noqa: PLC0415

    if isinstance(document, Report):
        from api.pages.render import report_html  # noqa: PLC0415

        return report_html(document)
    from api.pages.compare import Picked, compare_html  # noqa: PLC0415
    from tokenstone.compare import Comparison  # noqa: PLC0415

    assert isinstance(document, Comparison)  # noqa: S101  a cluster's page comes from the service
    return compare_html(None, [], Picked(), comparison=document)
