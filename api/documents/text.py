"""Markdown that reads well raw, and in which names cannot act as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

_ACTIVE = re.compile(
    r"[\\`*<\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=#?\w+;)|(?<=https)(?=://)|(?<=http)(?=://)|@(?=\w)"
)


def plain(text: object) -> str:
    """Text that stays what it is: one line, nothing in it acts.

    >>> plain("a|b <img> *c* kernel_time")
    'a\\\\|b \\\\<img> \\\\*c\\\\* kernel_time'
    """
    return _ACTIVE.sub(lambda m: f"\\{m[0]}" if m[0] else "\\", " ".join(str(text).split()))


def code(text: str) -> str:
    """A command or an identifier, whatever backticks it holds."""
    line = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def block(lines: Sequence[str]) -> list[str]:
    """Commands as a block of their own."""
    return ["```console", *(f"$ {' '.join(line.split())}" for line in lines), "```"]


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int = 1, texts_from: int = 99
) -> list[str]:
    """A table that lines up in the raw text too; from column `numbers_from` to `texts_from` it is set to the right."""
    cells = [list(heads), *[list(row) for row in rows]]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(heads))]

    def line(row: Sequence[str]) -> str:
        padded = [
            c.rjust(w) if numbers_from <= i < texts_from else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + ":" if numbers_from <= i < texts_from else "-" * w for i, w in enumerate(widths)]
    return [line(cells[0]), f"| {' | '.join(rule)} |", *(line(row) for row in cells[1:])]


def bullets(items: Sequence[str]) -> list[str]:
    """A list."""
    return [f"- {plain(item)}" for item in items]


def page(parts: Sequence[Sequence[str]]) -> str:
    """Parts with an empty line between them; empty parts are left out."""
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def utc(unix_seconds: float) -> str:
    """An instant."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def figure(value: float | None, digits: int = 4) -> str:
    """A number with as many digits as mean something.

    >>> figure(1234567.0), figure(0.0123456), figure(12.5), figure(None)
    ('1,234,567', '0.01235', '12.5', 'absent')
    """
    if value is None:
        return "absent"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def signed(value: float, digits: int = 4) -> str:
    """A difference, with its sign."""
    text = figure(abs(value), digits)
    return text if value == 0 else f"{'+' if value > 0 else '-'}{text}"
