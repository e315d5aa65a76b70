"""The thread that hands the spool to the service, in order, until each batch is acknowledged.

A service that is away or busy is waited for, longer each time and with chance in it, so that a thousand agents
do not come back in step. A batch that the service refuses for good is set aside and never blocks the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set

from collector.sources.agent import Delivery
from collector.spool import Spool
from tokenstone.errors import ServiceRefused
from tokenstone.wire import IngestAnswer

_WORTH_RETRYING = {401, 403, 408, 429}
_LONGEST_WAIT_SECONDS = 60.0
_ANSWER_VALID_SECONDS = 60.0

log = structlog.get_logger()


class PushClient(Protocol):
    """The part of the typed client that the agent needs."""

    def announce(self, metrics_address: str) -> None:
        """Say with every batch where `/metrics` is served: HOST:PORT, or :PORT."""
        ...

    def push_windows(self, batch_json: bytes) -> IngestAnswer:
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
    ) -> None:
        self._spool, self._client, self._monotonic = spool, client, monotonic
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._batches = {"accepted": 0, "duplicate": 0, "rejected": 0}
        self._answer: tuple[float, float] | None = None
        self._retrying = Retrying(
            retry=retry_if_exception(lambda error: not is_final_refusal(error)),
            wait=wait_random_exponential(multiplier=first_wait_seconds, max=_LONGEST_WAIT_SECONDS),
            stop=stop_when_event_set(self._stopping),
            sleep=sleep_using_event(self._stopping),
            before_sleep=self._log_retry,
            reraise=True,
        )
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
        return Delivery(dict(self._batches), self._spool.waiting_bytes, self._spool.dropped_batches)

    def asked_window_seconds(self) -> float | None:
        """Return the window length that the service asked for, or None where it has said nothing of late."""
        answer = self._answer
        if answer is None or self._monotonic() - answer[0] > _ANSWER_VALID_SECONDS:
            return None
        return answer[1]

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            while (name := self._spool.oldest()) is not None and not self._stopping.is_set():
                self._settle(name, retry=True)
            if not self._stopping.is_set():
                self._wake.wait()
        while (name := self._spool.oldest()) is not None:
            if not self._settle(name, retry=False):
                break

    def _settle(self, name: str, *, retry: bool) -> bool:
        """Push one batch until it is accepted, refused for good or dropped; False where it still waits."""
        try:
            if retry:
                self._retrying(self._attempt, name)
            else:
                self._attempt(name)
        except Exception as error:
            if not is_final_refusal(error):
                log.warning("batch left in the spool", batch=name, why=str(error))
                return False
            self._batches["rejected"] += 1
            log.warning("batch refused by the service and set aside", batch=name, why=str(error))
            self._spool.reject(name)
        return True

    def _attempt(self, name: str) -> None:
        data = self._spool.read(name)
        if data is None:
            return
        answer = self._client.push_windows(data)
        self._batches[answer.status] += 1
        self._answer = (self._monotonic(), answer.window_seconds)
        self._spool.remove(name)

    @staticmethod
    def _log_retry(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait_seconds = round(state.upcoming_sleep, 1)
        log.warning(
            "service does not take batches", why=str(error), attempt=state.attempt_number, wait_seconds=wait_seconds
        )
