"""Makes a load: sends the requests of a plan when they are due, and ends whatever the endpoint does.

Latency counts from the instant at which a request was due. An open loop never waits for answers, so a slow endpoint
cannot slow down what is asked of it (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tokenstone.latency import percentile
from tokenstone.run import Traffic
from tokenstone.wire import ClientLag
from workloads.load.agenda import Agenda
from workloads.load.client import Client, Endpoint
from workloads.load.outcome import Outcome
from workloads.load.plan import Conversation, Planned
from workloads.load.prompts import Prompt, PromptSource

LEAST_LAG_LIMIT_SECONDS = 0.01
LAG_LIMIT_RATIO = 0.1
"""A client is saturated where its lag is above 10 ms and above a tenth of the median latency of a request."""
_LONGEST_PAUSE_SECONDS = 1.0
_MOST_PREPARED_TOKENS = 20_000_000
_REST_SECONDS = 0.1
"""A client of a closed loop that was refused waits before it asks again: as long as it was told, within a second."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a load was: an outcome for every planned request, and how the client itself did."""

    began: float
    """Monotonic clock when the first request could be due."""
    outcomes: list[Outcome]
    lag: ClientLag
    api: str


@dataclass(slots=True)
class Generator:
    """Sends the conversations of a plan."""

    endpoint: Endpoint
    prompts: PromptSource
    traffic: Traffic
    seed: int = 0
    label: str = "load"
    """Requests are called `label`-index (X-Request-Id)."""
    most_seconds: float = 3600.0
    """However it goes, the load ends after that long; what is under way then is `stopped`."""
    on_progress: Callable[[int, int], None] = lambda _done, _tokens: None
    """Told after each answer: how many requests have ended, and their output tokens."""

    def run(self, plan: Sequence[Conversation]) -> Load:
        """Make the load from a thread of its own loop. Returns an outcome for each request, in order of indices."""
        with _undisturbed():
            return _run_loop(_Run(self, plan).make())


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No long pauses while the load is made: of the agenda's thread for the loop's, and of both for the collector."""
    switch, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(0.0005)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        sys.setswitchinterval(switch)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _run_loop(work: Coroutine[Any, Any, Load]) -> Load:
    """Run on uvloop where it is installed, which costs half of asyncio's own loop."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ModuleNotFoundError):
        import uvloop  # noqa: PLC0415

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


class _Run:
    """One load under way."""

    def __init__(self, generator: Generator, plan: Sequence[Conversation]) -> None:
        self._g, self._plan = generator, plan
        count = sum(len(conversation.turns) for conversation in plan)
        self._outcomes: list[Outcome | None] = [None] * count
        # Drawn beforehand, so that it costs nothing while the load is made; unless they are too long to be kept.
        short = sum(turn.input_tokens for c in plan for turn in c.turns) <= _MOST_PREPARED_TOKENS
        self._prompts = {c.turns[0].index: self._draw(c.turns[0], first=True) for c in plan} if short else {}
        self._ended = 0
        self._tokens = 0

    async def make(self) -> Load:
        open_loop = self._g.traffic.arrival != "closed"
        async with Client(self._g.endpoint, self._g.prompts) as client:
            self._client = client
            began = time.monotonic() + (0.05 if open_loop else 0.0)
            tasks: list[asyncio.Task[None]] = []
            all_started = asyncio.Event()

            def start(index: int) -> None:
                tasks.append(asyncio.create_task(self._open(self._plan[index], instants[index])))
                if len(tasks) == len(instants):
                    all_started.set()

            instants = [began + (c.due_seconds or 0.0) for c in self._plan] if open_loop else []
            with Agenda(instants, start) as agenda:
                try:
                    async with asyncio.timeout(self._g.most_seconds):
                        if open_loop:
                            await all_started.wait()
                        else:
                            waiting = iter(self._plan)
                            clients = min(self._g.traffic.concurrency, len(self._plan))
                            tasks += [asyncio.create_task(self._client_of_closed_loop(waiting)) for _ in range(clients)]
                        await asyncio.wait(tasks)
                except TimeoutError:
                    for task in tasks:
                        task.cancel()
                    if tasks:
                        await asyncio.wait(tasks)
            api = client.api
        outcomes = self._complete(began)
        return Load(began, outcomes, _lag(outcomes, agenda.loop_lags, open_loop=open_loop), api)

    async def _open(self, conversation: Conversation, due: float) -> None:
        await self._converse(conversation, due)

    async def _client_of_closed_loop(self, waiting: Iterator[Conversation]) -> None:
        for conversation in waiting:
            last = await self._converse(conversation, time.monotonic())
            if last.error == "stopped":
                return
            if last.error is not None:
                pause = last.retry_after if last.retry_after is not None else _REST_SECONDS
                await asyncio.sleep(min(pause, _LONGEST_PAUSE_SECONDS))

    async def _converse(self, conversation: Conversation, due: float) -> Outcome:
        said: list[Prompt] = []
        outcome = Outcome(due)
        for turn in conversation.turns:
            prepared = self._prompts.get(turn.index)
            said.append(self._draw(turn, first=not said) if prepared is None else prepared)
            name = f"{self._g.label}-{turn.index}"
            outcome = await self._client.send(said, turn.output_tokens, due, name, self._seed(turn))
            self._outcomes[turn.index] = outcome
            self._ended += 1
            self._tokens += outcome.output_tokens
            self._g.on_progress(self._ended, self._tokens)
            if outcome.error == "stopped":
                break
            said.append(self._g.prompts.answer(outcome.text, outcome.token_ids))
            due = time.monotonic()
        return outcome

    def _draw(self, turn: Planned, *, first: bool) -> Prompt:
        shared = self._g.traffic.shared_prefix_tokens if first else 0
        shared = min(shared, turn.input_tokens - 1)  # something is left that is the request's own
        own = self._g.prompts.stretch(turn.input_tokens - shared, (self._g.seed, 3, turn.prompt))
        if not shared:
            return own
        return self._g.prompts.join([self._g.prompts.stretch(shared, (self._g.seed, 4, turn.prefix)), own])

    def _seed(self, turn: Planned) -> int:
        return self._g.seed * 1_000_003 + turn.index

    def _complete(self, began: float) -> list[Outcome]:
        """Every request has an outcome: what never got its turn was stopped."""
        now = time.monotonic()
        outcomes = []
        dues = {turn.index: began + (c.due_seconds or 0.0) for c in self._plan for turn in c.turns}
        for index, found in enumerate(self._outcomes):
            outcome = found or Outcome(min(dues[index], now))
            if found is None:
                outcome.fail("stopped", "the run was ended before it was sent", now)
            outcomes.append(outcome)
        return outcomes


def _lag(outcomes: Sequence[Outcome], loop_lags: Sequence[float], *, open_loop: bool) -> ClientLag:
    late = [o.sent - o.due for o in outcomes if o.sent is not None] if open_loop else []
    whole = [o.end - o.due for o in outcomes if o.end is not None and o.error is None]
    typical = percentile(whole, 0.5) if whole else 0.0
    return ClientLag(
        send_p99_seconds=max(0.0, percentile(late, 0.99)) if late else 0.0,
        loop_p99_seconds=max(0.0, percentile(loop_lags, 0.99)) if loop_lags else 0.0,
        limit_seconds=max(LEAST_LAG_LIMIT_SECONDS, LAG_LIMIT_RATIO * typical),
    )
