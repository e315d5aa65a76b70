"""Days as people write them."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated

from pydantic import BeforeValidator


def _written_out(value: object) -> object:
    """Refuse numbers, which would be taken for seconds since 1970."""
    if isinstance(value, date) or (isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value)):
        return value
    raise ValueError("give a day as YYYY-MM-DD")


Day = Annotated[date, BeforeValidator(_written_out)]
"""A day as YYYY-MM-DD."""
