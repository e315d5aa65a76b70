"""The thread that hands the spool to the service, in order, until each batch is acknowledged.

A service that is away or busy is waited for, longer each time and with chance in it, so that a thousand agents
do not come back in step. A batch that the service refuses for good is set aside and never blocks the rest.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Literal, Protocol

from collector.log import Log
from collector.sources.agent import Delivery
from collector.spool import Spool
from tokenstone.errors import ServiceRefused

_TOO_LONG = 413
_WORTH_RETRYING = {401, 403, 408, 425, 429}
_LONGEST_WAIT_SECONDS = 60.0
_ANSWER_VALID_SECONDS = 60.0

log = Log()


class Answer(Protocol):
    """What the service says to a batch (`tokenstone.wire.IngestAnswer`)."""

    @property
    def status(self) -> Literal["accepted", "duplicate"]:
        """Whether the batch was new."""
        ...

    @property
    def window_seconds(self) -> float:
        """The window length that the service asks for."""
        ...

    @property
    def server_unix_seconds(self) -> float | None:
        """The service's clock when it answered."""
        ...


class PushClient(Protocol):
    """The part of a client that the agent needs."""

    def announce(self, metrics_address: str) -> None:
        """Say with every batch where `/metrics` is served: HOST:PORT, or :PORT."""
        ...

    def push_windows(self, batch_json: bytes) -> Answer:
        """Hand over gzip'ed JSON of a WindowBatch.

        Raises tokenstone.errors.ServiceUnreachable, or ServiceRefused with the HTTP status.
        """
        ...


def is_final_refusal(error: BaseException) -> bool:
    """Say whether the service will never take this batch, however often it is asked."""
    return isinstance(error, ServiceRefused) and 400 <= error.status < 500 and error.status not in _WORTH_RETRYING


class Pusher:
    """Pushes what is in the spool, oldest first, on a thread of its own."""

    def __init__(
        self,
        spool: Spool,
        client: PushClient,
        *,
        first_wait_seconds: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._spool, self._client, self._monotonic, self._unix = spool, client, monotonic, unix
        self._first_wait_seconds = first_wait_seconds
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._batches = {"accepted": 0, "duplicate": 0, "rejected": 0}
        self._answer: tuple[float, float] | None = None
        self._clock_offset_seconds: float | None = None
        self._thread = threading.Thread(target=self._run, name="tokenstone-push", daemon=True)

    def start(self) -> None:
        """Begin to push."""
        self._thread.start()

    def notify(self) -> None:
        """Say that the spool has something new."""
        self._wake.set()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Try what waits once more, then end; after the timeout what is left stays in the spool."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout_seconds)

    def delivery(self) -> Delivery:
        """Return what has been handed over and what waits."""
        return Delivery(
            dict(self._batches), self._spool.waiting_bytes, self._spool.dropped_batches, self._clock_offset_seconds
        )

    def asked_window_seconds(self) -> float | None:
        """Return the window length that the service asked for, or None where it has said nothing of late."""
        answer = self._answer
        if answer is None or self._monotonic() - answer[0] > _ANSWER_VALID_SECONDS:
            return None
        return answer[1]

    def _run(self) -> None:
        attempts = 0
        while not self._stopping.is_set():
            self._wake.clear()
            name = self._spool.oldest()
            if name is None:
                self._wake.wait()
            elif (error := self._settle(name)) is None:
                attempts = 0
            else:
                attempts += 1
                self._wait(error, attempts)
        while (name := self._spool.oldest()) is not None and self._settle(name) is None:
            pass

    def _wait(self, error: Exception, attempts: int) -> None:
        """Wait longer each time, up to a minute, and by chance between half of that and all of it."""
        longest = min(_LONGEST_WAIT_SECONDS, self._first_wait_seconds * 2.0 ** min(attempts - 1, 30))
        asked = getattr(error, "retry_after_seconds", None) or 0.0
        seconds = max(longest * random.uniform(0.5, 1.0), min(asked, _LONGEST_WAIT_SECONDS))  # noqa: S311
        log.warning("service does not take batches", why=str(error), attempt=attempts, wait_seconds=round(seconds, 1))
        self._stopping.wait(seconds)

    def _settle(self, name: str) -> Exception | None:
        """Push one batch; return why it still waits, or None where it is accepted, refused for good or dropped."""
        try:
            self._push(name)
        except Exception as error:
            if isinstance(error, ServiceRefused) and error.status == _TOO_LONG and self._split(name):
                return None
            if not is_final_refusal(error):
                return error
            self._batches["rejected"] += 1
            log.warning("batch refused by the service and set aside", batch=name, why=str(error))
            self._spool.reject(name)
        return None

    def _split(self, name: str) -> bool:
        try:
            return self._spool.split(name)
        except OSError as error:
            log.warning("batch is too long for the service and cannot be split", batch=name, why=str(error))
            return False

    def _push(self, name: str) -> None:
        data = self._spool.read(name)
        if data is None:
            return
        sent = self._unix()
        answer = self._client.push_windows(data)
        came = self._unix()
        self._batches[answer.status] += 1
        self._answer = (self._monotonic(), answer.window_seconds)
        if answer.server_unix_seconds is not None:
            # As NTP has it: the answer was written half way. Wrong by half of the round trip at most.
            self._clock_offset_seconds = answer.server_unix_seconds - (sent + came) / 2
        self._spool.remove(name)
