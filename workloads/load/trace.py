"""Traces: one request a line, JSON. Lines that are none are counted and named, and the others are replayed.

    {"arrival_seconds": 0.25, "input_tokens": 512, "output_tokens": 128}

Mooncake's keys are understood too: `timestamp` (milliseconds), `input_length`, `output_length`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenstone.errors import InvalidFile

_MOST_TOKENS = 2**24


@dataclass(slots=True)
class Trace:
    """Requests in order of their instants, and the lines that could not be read."""

    sha256: str
    requests: list[tuple[float, int, int]] = field(default_factory=list)
    """(instant in seconds from the first, input tokens, output tokens)."""
    bad_lines: list[str] = field(default_factory=list)
    """"line 7: why"."""


def read_trace(path: Path) -> Trace:
    """Read a JSONL file. Raises InvalidFile where it cannot be read or no line of it is a request."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidFile(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    trace = Trace(hashlib.sha256(content).hexdigest())
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), 1):
        if line.strip():
            try:
                trace.requests.append(_request(line))
            except ValueError as error:
                trace.bad_lines.append(f"line {number}: {error}")
    if not trace.requests:
        example = '{"arrival_seconds": 0.25, "input_tokens": 512, "output_tokens": 128}'
        first = f"; {trace.bad_lines[0]}" if trace.bad_lines else ""
        raise InvalidFile(f"no line is a request{first}", where=str(path), hint=f"a line is like {example}")
    trace.requests.sort()
    begin = trace.requests[0][0]
    trace.requests = [(instant - begin, read, written) for instant, read, written in trace.requests]
    return trace


def _request(line: str) -> tuple[float, int, int]:
    try:
        fields: Any = json.loads(line)
    except ValueError:
        raise ValueError("not JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    if "arrival_seconds" in fields:
        instant = fields["arrival_seconds"]
    elif "timestamp" in fields:
        instant = fields["timestamp"]
        instant = instant / 1000 if isinstance(instant, int | float) else instant
    else:
        raise ValueError("no arrival_seconds")
    if isinstance(instant, bool) or not isinstance(instant, int | float) or not 0 <= instant < math.inf:
        raise ValueError("its instant is no number of seconds from 0")
    tokens = []
    for name, other in (("input_tokens", "input_length"), ("output_tokens", "output_length")):
        value = fields.get(name, fields.get(other))
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_TOKENS:
            raise ValueError(f"{name} is no whole number of tokens from 1")
        tokens.append(value)
    return float(instant), tokens[0], tokens[1]
