"""The thread behind a job: writes down what it has recorded and keeps the service informed, never in the loop's way.

A service that is away or slow costs the loop nothing: what is recorded waits on disk (tokenstone.record.outbox). A disk
that is full costs the record that a crash would need, and is said once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tokenstone.client import Client
from tokenstone.errors import ServiceRefused, ServiceUnreachable, TokenstoneError
from tokenstone.record.outbox import Outbox, try_to_deliver
from tokenstone.record.parts import LEASE_SECONDS, RankPart, hold, read_parts, release, run_of, write_part, write_synced
from tokenstone.run import RunState
from tokenstone.wire import RunChange, RunCreate

log = logging.getLogger("tokenstone.record")

SNAPSHOT_SECONDS = 5.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
TIMEOUT_SECONDS = 10.0
"""The longest that one answer of the service may take."""


class Sender:
    """Writes and sends one rank's record, which `part` gives at any time.

    `folder` is where the parts lie. `outbox`: None where somebody else collects them (`tokenstone run`).
    """

    def __init__(
        self, folder: Path, outbox: Outbox | None, part: Callable[[bool], RankPart], api: str | None, rank: int
    ) -> None:
        self._folder, self._outbox, self._part, self._api, self._rank = folder, outbox, part, api, rank
        self._stop = threading.Event()
        self._written = threading.Lock()
        self._created: RunCreate | None = None
        self._next_attempt, self._pause = 0.0, FIRST_PAUSE_SECONDS
        self._complained: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = hold(folder, rank)
        self._thread = threading.Thread(target=self._work, name="tokenstone-record", daemon=True)
        self._thread.start()

    def write(self, *, finished: bool = False, sync: bool = True) -> bool:
        """Write down everything so far; whether that worked."""
        with self._written:
            try:
                write_part(self._folder, self._part(finished), sync=sync)
            except Exception as error:  # whatever it is, the loop goes on
                self._complain(f"what is recorded cannot be written: {error}")
                return False
        return True

    def close(self, timeout: float) -> None:
        """Write the rest down and, if this is the last rank, deliver it: for `timeout` seconds at most.

        What is not delivered by then lies on disk, for the next job there or for `tokenstone deliver`.
        """
        deadline = time.monotonic() + timeout
        self._stop.set()
        self.write(finished=True)
        release(self._lock)
        if self._outbox is not None:
            last = threading.Thread(target=self._finish, args=(self._outbox, deadline), daemon=True)
            last.start()
            last.join(timeout)
        with suppress(RuntimeError):
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def _finish(self, outbox: Outbox, deadline: float) -> None:
        try:
            if not outbox.collect():
                return None  # other ranks go on; the last of them closes the run
        except OSError as error:
            return self._complain(f"the run cannot be put into the spool: {error}")
        if self._api is None:
            return log.info("no service is named; the run waits in %s", self._folder.parent.parent)
        pause = 0.2
        while (refusal := self._deliver(outbox)) is not None:
            if time.monotonic() + pause > deadline:
                return self._complain(f"the run waits on disk, `tokenstone deliver` sends it: {refusal}")
            time.sleep(pause)
            pause *= 2
        return None

    def _deliver(self, outbox: Outbox) -> TokenstoneError | None:
        assert self._api is not None  # noqa: S101  both callers have looked
        try:
            with Client(self._api, timeout=TIMEOUT_SECONDS) as client:
                return try_to_deliver(outbox, client)
        except TokenstoneError as error:  # no URL, or no readable key
            return error

    def _work(self) -> None:
        self.write(sync=False)
        if self._outbox is not None and self._rank == 0:
            self._leftovers(self._outbox)
        last = time.monotonic()
        while not self._stop.wait(min(FIRST_PAUSE_SECONDS, SNAPSHOT_SECONDS)):
            if time.monotonic() - last >= SNAPSHOT_SECONDS:
                self.write(sync=False)
                last = time.monotonic()
            if self._api is not None and self._outbox is not None and self._rank == 0:
                self._announce(self._api)

    def _leftovers(self, outbox: Outbox) -> None:
        """What earlier jobs have left here: killed ones, and those whose service was away."""
        try:
            outbox.collect()
        except OSError as error:
            return self._complain(f"the spool cannot be looked through: {error}")
        if self._api is not None and outbox.waiting():
            self._deliver(outbox)
        return None

    def _announce(self, api: str) -> None:
        """Create the run once all ranks are known, and keep it alive."""
        if time.monotonic() < self._next_attempt:
            return
        try:
            with Client(api, timeout=TIMEOUT_SECONDS) as client:
                if self._created is None:
                    parts = read_parts(self._folder)
                    if not parts or len(parts) < parts[0].world_size:
                        return
                    wanted = run_of(parts)
                    write_synced(self._folder / "created.json", wanted.model_dump_json(), sync=False)
                    client.create_run(wanted)
                    self._created = wanted
                client.change_run(self._created.run_id, RunChange(state=RunState.RUNNING))
            self._next_attempt, self._pause = time.monotonic() + LEASE_SECONDS / 4, FIRST_PAUSE_SECONDS
        except (ServiceUnreachable, ServiceRefused, TokenstoneError, OSError) as error:
            self._complain(f"the job is recorded here, but its service does not know of it: {error}")
            self._next_attempt, self._pause = (
                time.monotonic() + self._pause,
                min(2 * self._pause, LONGEST_PAUSE_SECONDS),
            )

    def _complain(self, what: str) -> None:
        """Say it once: a log that fills does not help either."""
        if what not in self._complained and len(self._complained) < 20:
            self._complained.add(what)
            log.warning("%s", what)
