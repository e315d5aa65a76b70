"""Logging: lines of key=value on stderr. stdout belongs to whoever runs the agent.

The standard library's, because the agent's memory counts: structlog would hold as much as all sources together.
"""

from __future__ import annotations

import logging
import time
from typing import Any

_LOGGER = logging.getLogger("tokenstone.agent")


class Log:
    """Writes an event and what belongs to it: `log.warning("source is down", source="nvml")`."""

    def info(self, event: str, **fields: Any) -> None:
        """Something that is as it should be."""
        _LOGGER.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        """Something that somebody may have to look at."""
        _LOGGER.warning(event, extra={"fields": fields})

    def exception(self, event: str, **fields: Any) -> None:
        """Something that should not happen, with the stack of the exception in hand."""
        _LOGGER.exception(event, extra={"fields": fields})


class _Logfmt(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {"timestamp": f"{moment}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        fields |= {"event": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return " ".join(f"{name}={_quoted(str(value))}" for name, value in fields.items())


def _quoted(text: str) -> str:
    if text and not any(character in text for character in ' "=\n\t'):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def configure_logging() -> None:
    """Log from INFO on to stderr, once."""
    if _LOGGER.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Logfmt())
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
