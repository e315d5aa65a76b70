"""PDF: the Markdown document set for paper by WeasyPrint. No browser, no network, no script; its text can be found."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

from tokenstone.errors import MissingExtra

_STYLE = """
@page { size: A4 landscape; margin: 14mm; @bottom-right { content: counter(page) " / " counter(pages);
        font: 8pt sans-serif; color: #555 } }
html { font: 9.5pt/1.4 "DejaVu Sans", "Liberation Sans", sans-serif; color: #111 }
h1 { font-size: 17pt; margin: 0 0 4mm } h2 { font-size: 12.5pt; margin: 6mm 0 2mm; break-after: avoid }
h3 { font-size: 10.5pt; margin: 4mm 0 1mm; break-after: avoid }
p, li { overflow-wrap: anywhere } strong { font-size: 11.5pt } li strong, td strong { font-size: inherit }
table { border-collapse: collapse; width: 100%; margin: 1mm 0; break-inside: auto } tr { break-inside: avoid }
th { text-align: left; border-bottom: 1pt solid #444 } td { border-bottom: .4pt solid #bbb }
th, td { padding: 1mm 2mm 1mm 0; vertical-align: top; overflow-wrap: anywhere }
pre, code { font-family: "DejaVu Sans Mono", "Liberation Mono", monospace; font-size: 8.5pt }
pre { background: #f2f2f2; padding: 2mm; white-space: pre-wrap; overflow-wrap: anywhere }
"""


def make_pdf(markdown: str) -> bytes:
    """Return the PDF of a Markdown document. Raises MissingExtra without WeasyPrint or the Pango that it needs."""
    try:
        from markdown_it import MarkdownIt  # noqa: PLC0415
        from weasyprint import HTML  # noqa: PLC0415
    except (ModuleNotFoundError, OSError) as error:  # OSError: Pango itself, which pip cannot install
        raise MissingExtra("pdf", getattr(error, "name", None) or "Pango (libpango-1.0)") from error
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    body = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable("table").render(markdown)
    title = markdown.partition("\n")[0].lstrip("# ").replace("\\", "").replace("&", "&amp;").replace("<", "&lt;")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    pdf: bytes = HTML(string=f'<!doctype html><html lang="en">{head}{body}</html>', url_fetcher=_refuse).write_pdf()
    return pdf


def _refuse(url: str, *_: Any, **__: Any) -> NoReturn:
    """Whatever a name in a report says: nothing is fetched, neither from the network nor from the disk."""
    raise ValueError(f"nothing is fetched for a report: {url}")
