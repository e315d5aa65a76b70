"""The server in this process: model, engine, routes, and uvicorn around them."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from tokenstone.listen import bound_socket, url_of
from tokenstone.model import ModelShape
from workloads.device import require_fp32, select_device
from workloads.files import require_writable
from workloads.inference.engine import Engine
from workloads.inference.request import EngineLimits, Request
from workloads.progress import Progress, Silent
from workloads.provenance import provenance
from workloads.serving.app import create_app
from workloads.serving.engine_thread import EngineThread
from workloads.serving.generation import Generator, Limits
from workloads.serving.metrics import ServingMetrics
from workloads.serving.model import Served, load_served
from workloads.serving.record import Recorder
from workloads.serving.text import token_bytes

GRACE_SECONDS = 5
KEEP_ALIVE_SECONDS = 75


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """What is served, and how much of it at once."""

    shape: ModelShape
    dtype: str
    checkpoint: Path | None
    max_batch: int
    context: int
    max_waiting: int = 1024
    token_budget: int | None = None
    """Tokens of one iteration; None: 512, or enough for the batch."""
    pages: int | None = None
    prefix_caching: bool = True
    chunked_prefill: bool = True
    speculative_depth: int = 0
    """Tokens guessed ahead by the checkpoint's multi-token prediction."""
    body_bytes: int = 16 * 2**20
    name: str | None = None
    """What clients call the model; None: the shape's name."""
    threads: int | None = None
    seed: int = 0
    record: Path | None = None
    """Where the iterations are written at the end."""
    tokenizer_path: Path | None = None
    """Where the tokenizer is written before the server is ready."""


def serve_model(
    options: ServingOptions,
    *,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    progress: Progress | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; `on_ready` is told the address.

    Raises PortInUse, NotWritable, InvalidValue for what cannot be served, InvalidFile for an unusable checkpoint.
    """
    progress = progress or Silent()
    for path in (options.record, options.tokenizer_path):
        if path is not None:
            require_writable(path)
    require_fp32(options.dtype)
    with bound_socket(host, port) as listener:
        progress.phase("startup")
        device = select_device(options.threads)
        served = load_served(options.shape, options.checkpoint, seed=options.seed)
        served.model.to(device.torch)
        limits = EngineLimits(
            max_batch=options.max_batch,
            context=options.context,
            token_budget=options.token_budget or max(512, options.max_batch * (1 + options.speculative_depth)),
            pages=options.pages,
            prefix_caching=options.prefix_caching,
            chunked_prefill=options.chunked_prefill,
            speculative_depth=options.speculative_depth,
        )
        if served.prediction is not None:
            served.prediction.to(device.torch)
        engine = Engine(served.model, device, limits=limits, prediction=served.prediction)
        progress.phase("warm_up")
        _warm_up(engine, served, limits)
        if options.tokenizer_path is not None:
            served.tokenizer.save(str(options.tokenizer_path))
        recorder = Recorder()
        record = recorder.add if options.record is not None else lambda _: None
        thread = EngineThread(engine, on_iteration=record)
        name = options.name or options.shape.name
        metrics = ServingMetrics(name)
        room = Limits(
            context=min(options.context, limits.total_pages * limits.page_tokens),
            most_active=options.max_batch + options.max_waiting,
            body_bytes=options.body_bytes,
        )
        words, keep = token_bytes(served.tokenizer), options.record is not None
        generator = Generator(thread, served.tokenizer, words, room, metrics, keep_labels=keep)
        _run(create_app(thread, generator, metrics, name), listener, on_ready)
        if options.record is not None:
            facts = provenance(device, served.model.parameter_count(), served.corpus, options.dtype)
            facts["checkpoint"] = "trained" if served.trained else "untrained"
            recorder.write(
                options.record, model=options.shape, dtype=options.dtype, pages=limits.total_pages,
                labels=generator.labels, expert_load=engine.statistics().expert_load, provenance=facts,
            )  # fmt: skip


def _warm_up(engine: Engine, served: Served, limits: EngineLimits) -> None:
    """Let every kernel run once, at a full batch and at one request, so that the first client does not pay for it."""
    words = max(1, min(16, limits.context - 4))
    prompt = [token % served.tokenizer.get_vocab_size() for token in range(words)]
    for batch in (limits.max_batch, 1):
        for number in range(batch):
            engine.submit(Request(-1 - number, prompt, min(4, limits.context - words)))
        while engine.busy:
            engine.iterate()
        engine.forget()


class _Server(uvicorn.Server):
    """Says when it is ready, and does not raise the signal that ended it once more."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()


def _run(app: FastAPI, listener: socket.socket, on_ready: Callable[[str], None]) -> None:
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    server = _Server(config, lambda: on_ready(url_of(listener)))

    def end(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
