"""From the command line to the agent's process: same process id, a tenth of the code in memory.

Typer, pydantic and what they bring hold 40 MB, and are of no use once the settings are checked. So the command
replaces itself (`exec`) by `python -m collector` and hands it the checked settings through a pipe: an API key
stands neither in its arguments nor in a file.
"""

from __future__ import annotations

import os
import pickle
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn, cast

if TYPE_CHECKING:
    from collector.config import AgentSettings


def become_agent(settings: AgentSettings, *, lifeline: bool) -> NoReturn:
    """Replace this process by the agent's; with `lifeline` it ends when its standard input does."""
    from tokenstone.client import api_key_from_environment  # noqa: PLC0415  large, and the agent does without it

    values = {name: getattr(settings, name) for name in type(settings).model_fields if name != "api_key"}
    key = settings.api_key.get_secret_value() if settings.api_key else api_key_from_environment()
    reading, writing = os.pipe()
    os.write(writing, pickle.dumps((values, key, lifeline)))  # far less than a pipe holds
    os.close(writing)
    os.set_inheritable(reading, True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "collector", str(reading)])  # noqa: S606


def take() -> tuple[AgentSettings, str | None, bool]:
    """Return settings, API key and lifeline as `become_agent` handed them to this process."""
    with os.fdopen(int(sys.argv[1]), "rb") as pipe:
        values, key, lifeline = pickle.load(pipe)  # noqa: S301  # from ourselves
    return cast("AgentSettings", SimpleNamespace(**values)), key, lifeline
