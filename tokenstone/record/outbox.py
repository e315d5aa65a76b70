"""Runs that are over and wait for the service: files on disk, bounded, delivered by whoever comes next.

    SPOOL/outbox/RUN.json      to be delivered
    SPOOL/refused/RUN.json     what the service would not take, beside the reason in RUN.txt

A run is acknowledged once its file is here: a kill at any instant loses nothing of it. Delivering is idempotent.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from tokenstone.client import Client
from tokenstone.errors import ServiceRefused, TokenstoneError
from tokenstone.record.parts import Finished, RankPart, facts_of, lives, read_parts, run_of, write_synced
from tokenstone.run import RunState
from tokenstone.wire import RunChange, RunCreate

log = logging.getLogger("tokenstone.record")

MOST_BYTES = 256 * 2**20
PATIENCE_SECONDS = 600.0
_CONFLICT = 409
_LATER = frozenset({401, 403, 408, 425, 429})
"""Refusals that another attempt may not meet: a key can be made, a service can come to rest."""


class Outbox:
    """The spool folder of jobs. Raises OSError where it cannot be written."""

    def __init__(self, spool: Path) -> None:
        self.live, self._outbox, self._refused = spool / "live", spool / "outbox", spool / "refused"
        for folder in (self.live, self._outbox, self._refused):
            folder.mkdir(parents=True, exist_ok=True)

    def waiting(self) -> list[Path]:
        """Runs to be delivered, the oldest first."""
        return sorted(self._outbox.glob("*.json"), key=lambda path: path.stat().st_mtime)

    def put(self, finished: Finished) -> Path:
        """Take a run that is over; from now on it is not lost. Drops the oldest beyond the bound, and says so."""
        path = self._outbox / f"{finished.create.run_id}.json"
        write_synced(path, finished.model_dump_json())
        sizes = {waiting: waiting.stat().st_size for waiting in self.waiting()}
        for oldest in [waiting for waiting in sizes if waiting != path]:
            if sum(sizes.values()) <= MOST_BYTES:
                break
            log.warning("dropped %s, %d bytes: the spool is full and no service took it", oldest, sizes.pop(oldest))
            oldest.unlink(missing_ok=True)
        return path

    def close_run(self, folder: Path) -> Path | None:
        """Make one run of what its ranks have left in `folder`; None where they left nothing. Raises OSError."""
        parts = read_parts(folder, broken=lambda path, why: log.warning("%s is not a part of a run: %s", path, why))
        if not parts:
            shutil.rmtree(folder, ignore_errors=True)
            return None
        create = run_of(parts)
        with suppress(OSError, ValidationError):
            asked = RunCreate.model_validate_json((folder / "created.json").read_bytes())
            if len(asked.devices) == len(parts):
                create = asked
        path = self.put(Finished(create=create, facts=facts_of(parts)))
        shutil.rmtree(folder, ignore_errors=True)
        return path

    def collect(self, *, patience_seconds: float = PATIENCE_SECONDS) -> int:
        """Close the runs of which no rank lives any more; returns how many. Raises OSError.

        Where some ranks have never been heard of, they may be on their way: for that long after the last one spoke.
        """
        closed = 0
        with self._alone():
            for folder in sorted(self.live.iterdir()):
                parts = list(folder.glob("rank-*.json"))
                if not parts or lives(folder):
                    continue
                silent = time.time() - max(path.stat().st_mtime for path in parts)
                if len(parts) >= _world_size(parts[0]) or silent >= patience_seconds:
                    closed += self.close_run(folder) is not None
        return closed

    def deliver(self, client: Client) -> int:
        """Hand everything to the service; returns how many it took. Raises what makes another attempt worthwhile."""
        taken = 0
        with self._alone():
            for path in self.waiting():
                taken += self._deliver(path, client)
        return taken

    def _deliver(self, path: Path, client: Client) -> bool:
        try:
            deliver(Finished.model_validate_json(path.read_bytes()), client)
        except ServiceRefused as error:
            if error.status >= 500 or error.status in _LATER:
                raise
            self._refuse(path, error)
            return False
        except ValidationError as error:
            self._refuse(path, error)
            return False
        path.unlink()
        return True

    def _refuse(self, path: Path, error: Exception) -> None:
        kept = self._refused / path.name
        path.replace(kept)
        kept.with_suffix(".txt").write_text(f"{error}\n", encoding="utf-8")
        log.warning("the service does not take %s, which is kept as %s: %s", path.stem, kept, error)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time moves files."""
        with (self._outbox / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _world_size(part: Path) -> int:
    """How many ranks there are by what one of them says; 0 for a file that is none, which `close_run` reports."""
    try:
        return RankPart.model_validate_json(part.read_bytes()).world_size
    except (OSError, ValidationError):
        return 0


def deliver(finished: Finished, client: Client) -> str:
    """Tell the service of a run that is over; returns its id. The same again changes nothing.

    Where the service has failed the run meanwhile, for its client was silent, or has another run of that name, the
    facts become a run beside it: they were paid for.
    """
    create, facts = finished.create, finished.facts
    try:
        _tell(create, finished, client)
    except ServiceRefused as error:
        if error.status != _CONFLICT:
            raise
        mark = hashlib.sha256(facts.model_dump_json().encode()).hexdigest()[:8]
        create = create.model_copy(update={"run_id": f"{create.run_id[:190]}-{mark}"})
        _tell(create, finished, client)
    return create.run_id


def _tell(create: RunCreate, finished: Finished, client: Client) -> None:
    if client.create_run(create).state is RunState.CREATED:
        client.change_run(create.run_id, RunChange(state=RunState.RUNNING))
    client.put_facts(create.run_id, finished.facts)


def try_to_deliver(outbox: Outbox, client: Client) -> TokenstoneError | None:
    """Deliver what waits; what kept it from the service is returned, for the next attempt."""
    try:
        outbox.deliver(client)
    except TokenstoneError as error:
        return error
    return None
