"""Reports and comparisons as files: Markdown, CSV and PDF. HTML is the pages', JSON is the model itself.

`write_document` is what the service and the command line both call.
"""

from __future__ import annotations

from typing import Literal

from api.documents.comparison import comparison_markdown
from api.documents.reports import cluster_markdown, report_markdown
from api.documents.tidy import tidy_csv
from tokenstone.cluster_report import ClusterReport
from tokenstone.compare import Comparison
from tokenstone.report import Report

Document = Report | ClusterReport | Comparison
Form = Literal["markdown", "csv", "pdf"]
MEDIA_TYPES: dict[str, str] = {
    "markdown": "text/markdown; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "pdf": "application/pdf",
}


def write_document(document: Document, form: Form) -> bytes:
    """Return the document in that form. Pure but for the PDF, whose identifier is drawn from its content."""
    if form == "csv":
        return tidy_csv(document).encode()
    text = markdown(document)
    if form == "markdown":
        return text.encode()
    from api.documents.pdf import make_pdf  # noqa: PLC0415  half a second, for those who print

    return make_pdf(text)


def markdown(document: Document) -> str:
    """The document as Markdown."""
    if isinstance(document, Comparison):
        return comparison_markdown(document)
    return cluster_markdown(document) if isinstance(document, ClusterReport) else report_markdown(document)
