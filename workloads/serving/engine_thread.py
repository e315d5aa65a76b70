"""The engine in a thread of its own, and answers to it in an event loop.

The engine is not thread-safe, so everything that is asked of it goes through an inbox and is done between iterations.
All new tokens of an iteration cross to the event loop in one call.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from tokenstone.errors import InvalidValue
from workloads.inference.engine import Engine
from workloads.inference.iteration import EngineStatistics, Iteration
from workloads.inference.request import Output, Request


class EngineFailed(Exception):
    """The engine ended with an error; it serves nobody any more."""


@dataclass(slots=True)
class Answer:
    """The outputs of one request as they come; an exception where it was refused."""

    id: int
    submitted: float
    outputs: asyncio.Queue[Output | Exception] = field(default_factory=asyncio.Queue)


class EngineThread:
    """Runs `engine` until `stop`. `on_iteration` is called in the engine's thread after each one."""

    def __init__(self, engine: Engine, *, on_iteration: Callable[[Iteration], None] = lambda _: None) -> None:
        self._engine, self._on_iteration = engine, on_iteration
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._answers: dict[int, Answer] = {}
        self._next_id = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        """Begin; must be called in the event loop that awaits the answers."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End after the present iteration and wait for that."""
        self._inbox.put(None)
        self._thread.join()

    @property
    def active(self) -> int:
        """Requests that wait or run."""
        return len(self._answers)

    def submit(self, make: Callable[[int], Request]) -> Answer:
        """Hand a request in; `make` is given its id."""
        if self.failure is not None:
            raise EngineFailed(str(self.failure))
        self._next_id += 1
        request = make(self._next_id)
        answer = Answer(request.id, time.monotonic())
        self._answers[request.id] = answer
        self._inbox.put(lambda: self._submit(request))
        return answer

    def cancel(self, answer: Answer) -> None:
        """Nobody waits for this answer any more: free what it holds. Harmless once it has ended."""
        if self._answers.pop(answer.id, None) is not None:
            self._inbox.put(lambda: self._cancel(answer.id))

    async def statistics(self) -> EngineStatistics:
        """The engine's state between two iterations."""
        if self.failure is not None:
            raise EngineFailed(str(self.failure))
        wanted: Future[EngineStatistics] = Future()
        self._inbox.put(lambda: wanted.set_result(self._engine.statistics()))
        return await asyncio.wrap_future(wanted)

    # --- in the engine's thread

    def _submit(self, request: Request) -> None:
        try:
            self._engine.submit(request)
        except InvalidValue as error:
            self._to_loop(self._refuse, request.id, error)

    def _cancel(self, request_id: int) -> None:
        self._engine.cancel(request_id)

    def _run(self) -> None:
        try:
            while self._work_through_inbox():
                if self._engine.busy:
                    iteration = self._engine.iterate()
                    if iteration.outputs:
                        self._to_loop(self._deliver, iteration.outputs)
                    self._on_iteration(iteration)
        except Exception as error:  # whatever it was, those who wait must hear of it
            traceback.print_exc()
            self.failure = error
            self._to_loop(self._fail, error)

    def _work_through_inbox(self) -> bool:
        """Do what was asked meanwhile; wait for it where there is nothing to compute. False: stop."""
        while True:
            try:
                command = self._inbox.get(block=not self._engine.busy)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _to_loop(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # --- in the event loop

    def _deliver(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            answer = self._answers.get(output.request_id)
            if answer is not None:
                answer.outputs.put_nowait(output)
                if output.finish_reason is not None:
                    del self._answers[output.request_id]

    def _refuse(self, request_id: int, error: Exception) -> None:
        answer = self._answers.pop(request_id, None)
        if answer is not None:
            answer.outputs.put_nowait(error)

    def _fail(self, error: Exception) -> None:
        for request_id in list(self._answers):
            self._refuse(request_id, EngineFailed(f"{type(error).__name__}: {error}"))
