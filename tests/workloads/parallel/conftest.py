"""Several ranks in one test: forked processes, which cost hundredths of a second, not torchrun's four seconds."""

from __future__ import annotations

import io
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from workloads.training.parallel.processes import Place, joined

DEADLINE_SECONDS = 60.0

RunRanks = Callable[..., list[Any]]


def _rank(
    sender: Connection, place: Place, deadline: float, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        with joined(place, torch.device("cpu"), deadline_seconds=deadline):
            sender.send_bytes(_pack((function(*args), None)))
    except BaseException as error:  # handed to the test
        sender.send_bytes(_pack((error, traceback.format_exc())))


def _pack(result: Any) -> bytes:
    """By value: a tensor sent through a pipe as it is would be fetched from the rank, which may have ended."""
    buffer = io.BytesIO()
    torch.save(result, buffer)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The oracle beside the ranks too: with more threads than free cores, OpenMP waits by spinning."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run_ranks(tmp_path: Path) -> RunRanks:
    """`run_ranks(size, function, *args)`: the results of `function` on every rank, by rank.

    An error on a rank is raised here, or returned in place of a result if `return_errors`.
    """
    context = multiprocessing.get_context("fork")
    counter = iter(range(1000))

    def run(
        size: int, function: Callable[..., Any], *args: Any, return_errors: bool = False, deadline: float = 30.0
    ) -> list[Any]:
        meeting = f"file://{tmp_path / f'meeting-{next(counter)}'}"
        ranks = []
        for rank in range(size):
            receiver, sender = context.Pipe(duplex=False)
            place = Place(rank, size, rank, meeting)
            process = context.Process(target=_rank, args=(sender, place, deadline, function, args), daemon=True)
            process.start()
            sender.close()
            ranks.append((process, receiver))
        until, results = time.monotonic() + DEADLINE_SECONDS, []
        try:
            for rank, (_, receiver) in enumerate(ranks):
                if not receiver.poll(max(0.0, until - time.monotonic())):
                    pytest.fail(f"rank {rank} of {size} is not done after {DEADLINE_SECONDS:g} s")
                try:
                    result, trace = torch.load(io.BytesIO(receiver.recv_bytes()), weights_only=False)
                except EOFError:
                    result, trace = EOFError(f"rank {rank} ended without a result"), ""
                if trace is not None and not return_errors:
                    pytest.fail(f"rank {rank} of {size}:\n{trace}")
                results.append(result)
        finally:
            for process, _ in ranks:
                process.join(timeout=5)
                process.kill()
        return results

    return run
