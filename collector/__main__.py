"""The agent's own process: `tokenstone agent` checks the settings and then becomes this one (see `handover`).

It imports only what measuring needs, and tells Python's garbage collector to leave alone what stays for good.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from collector import handover
from collector.agent import run_agent
from collector.client import AgentClient
from tokenstone.errors import TokenstoneError

if TYPE_CHECKING:
    from collector.config import AgentSettings
    from collector.push import PushClient

# A tick makes a few thousand objects, none of them in a cycle.
_COLLECT_EVERY_OBJECTS = 50_000


def main() -> int:
    """Run the agent until SIGTERM or SIGINT. SIGUSR1 releases all drivers, SIGUSR2 takes them again."""
    settings, api_key, lifeline = handover.take()
    stop, released = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGUSR1, lambda *_: released.set())
    signal.signal(signal.SIGUSR2, lambda *_: released.clear())
    if lifeline:
        threading.Thread(target=_end_with_stdin, args=(stop,), daemon=True).start()
    # Each file of /sys that is read stays open, and a large node has hundreds of them.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY_OBJECTS, 20, 100)
    client = None if settings.api is None else AgentClient(settings.api, api_key)
    try:
        if settings.replay is None:
            run_agent(settings, client, stop, released)
        else:
            _replay(settings, client, stop, released)
    except TokenstoneError as error:
        print(f"tokenstone: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _replay(
    settings: AgentSettings, client: PushClient | None, stop: threading.Event, released: threading.Event
) -> None:
    from collector.replay import Replay  # noqa: PLC0415  # no node that is measured needs it

    assert settings.replay is not None  # noqa: S101
    with Replay(settings.replay, settings.replay_speed, stop) as replay:
        played = SimpleNamespace(**{**vars(settings), "root": replay.root})
        run_agent(cast("AgentSettings", played), client, replay.stop, released, replay.clock)


def _end_with_stdin(stop: threading.Event) -> None:
    """Stop when whoever started us is gone: its end of our standard input is closed then."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
