"""Logging: structured lines on stderr. stdout belongs to whoever runs the service."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog


def _stderr_logger(*_: Any) -> structlog.PrintLogger:
    return structlog.PrintLogger(sys.stderr)


def configure_logging(form: Literal["logfmt", "json"] = "logfmt") -> None:
    """Log from INFO on to stderr, unless the program around us has configured structlog already.

    What a request binds (its id, the prefix of its key) stands in every line that it causes.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
            if form == "logfmt"
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_stderr_logger,
    )
