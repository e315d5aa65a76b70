"""How commands speak: one JSON document on stdout, or tables; everything else on stderr."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]


def print_json(document: Any) -> None:
    """Write one JSON document to stdout. Non-finite numbers are refused: they are not JSON."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False))


def stdout() -> Console:
    """A console for what was asked for."""
    from rich.console import Console  # noqa: PLC0415  keeps --help instant

    return Console(highlight=False)


def stderr() -> Console:
    """A console for progress and remarks."""
    from rich.console import Console  # noqa: PLC0415  keeps --help instant

    return Console(stderr=True, highlight=False)


def print_pairs(pairs: dict[str, str]) -> None:
    """Print names and values in two columns."""
    width = max(len(name) for name in pairs)
    for name, value in pairs.items():
        typer.echo(f"{name:<{width}}  {value}")
