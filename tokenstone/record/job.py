"""A job of your own as a run: its steps, phases and tokens, on one or many ranks."""

from __future__ import annotations

import atexit
import logging
import math
import operator
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ContextDecorator, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, SupportsIndex, TypeVar

from pydantic import ValidationError

from tokenstone import hardware as catalogue
from tokenstone.errors import InvalidValue
from tokenstone.model import ModelShape
from tokenstone.record.outbox import Outbox
from tokenstone.record.parts import RankPart
from tokenstone.record.recorder import Recorder
from tokenstone.record.sender import Sender
from tokenstone.run import JobSpec
from tokenstone.wire import Activity, PhaseKind, RunDevice

log = logging.getLogger("tokenstone.record")

FOLDER = "TOKENSTONE_RUN_FOLDER"
"""Set by `tokenstone run`: where its child's marks go, to become part of its run."""
MOST_PHASES = 1000
_MOST_NOTES = 40

Item = TypeVar("Item")


class Job:
    """Marks of one rank. Use it as a context manager, or call `start` and `close`.

    `api`: the service (default: $TOKENSTONE_API; without one the run waits on disk). `device`: as its driver names it,
    so that telemetry can be joined. `hardware` and `dtype` name the peak, `flops_per_token` (or `model` and
    `sequence_length`) the work: with both, the job has a score. Ranks come from $RANK and $WORLD_SIZE and share
    `run_id` and `spool` (default: $TOKENSTONE_SPOOL), a folder that all of them can write. Each counts its own tokens.
    `per_node`: nodes share no folder, so each node's ranks ($LOCAL_RANK, $LOCAL_WORLD_SIZE) are a run of their own.

    Raises InvalidValue or UnknownName for what cannot be; afterwards neither service nor disk disturbs the loop.
    """

    def __init__(
        self,
        name: str,
        *,
        api: str | None = None,
        cluster: str | None = None,
        device: str | None = None,
        device_model: str = "",
        node: str | None = None,
        hardware: str | None = None,
        dtype: str = "unknown",
        flops_per_token: float | None = None,
        model: ModelShape | None = None,
        sequence_length: int | None = None,
        run_id: str | None = None,
        spool: Path | str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        per_node: bool = False,
    ) -> None:
        ranks = ("LOCAL_RANK", "LOCAL_WORLD_SIZE") if per_node else ("RANK", "WORLD_SIZE")
        self.rank, self.world_size = _whole(ranks[0], rank, 0), _whole(ranks[1], world_size, 1)
        if not self.rank < self.world_size:
            raise InvalidValue(f"rank {self.rank} of {self.world_size}", where="RANK", hint="ranks count from 0")
        self._folder = os.environ.get(FOLDER)
        node = node or socket.gethostname() or "localhost"
        self.run_id = run_id or _run_id(name, self.world_size, bracketed=self._folder is not None)
        if per_node and self._folder is None:
            self.run_id += f"-{node}"
        hardware = hardware or catalogue.identify(device_model)
        if hardware is not None:
            catalogue.get(hardware)
        default = "host" if self.world_size == 1 else f"host:{self.rank}"
        try:
            spec = JobSpec(
                preset=name, model=model, sequence_length=sequence_length, flops_per_token=flops_per_token, dtype=dtype
            )
            self._first = RankPart(
                run_id=self.run_id,
                cluster=cluster or os.environ.get("TOKENSTONE_CLUSTER") or "default",
                spec=spec,
                rank=self.rank,
                world_size=self.world_size,
                device=RunDevice(
                    id=device or default, node=node, model=device_model, hardware=hardware,
                ),
                started_unix_seconds=time.time(),
                elapsed_seconds=0.0,
                phases=[],
                tokens=0,
                provenance={"recorded": "by the job's own loop (tokenstone.record)"},
            )  # fmt: skip
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"]) or "Job"
            raise InvalidValue(problem["msg"], where=where, hint="see docs/your-own-job.md") from error
        self._api = api or os.environ.get("TOKENSTONE_API") or None
        self._spool = Path(spool or os.environ.get("TOKENSTONE_SPOOL") or default_spool())
        self._recorder = Recorder(self._first.device.id, step_remainder="compute", most_phases=MOST_PHASES)
        self._tokens = 0
        self._losses: tuple[float | None, float | None] = (None, None)
        self._provenance = dict(self._first.provenance)
        self._began = self._closed = False
        self._process = os.getpid()
        self._sender: Sender | None = None

    # --- its life

    def start(self) -> Self:
        """Begin to write and send in the background. A folder that cannot be written is said, and does not raise."""
        try:
            if self._folder is not None:
                folder, outbox = Path(self._folder), None
            else:
                outbox = Outbox(self._spool)
                folder = outbox.live / self.run_id
            self._sender = Sender(folder, outbox, self._part, self._api, self.rank)
        except OSError as error:
            log.warning("nothing of this job can be kept: %s", error)
        atexit.register(self.close)
        return self

    def close(self, timeout: float = 10.0) -> None:
        """End the run. Takes `timeout` seconds at most; what the service has not taken by then waits on disk."""
        if self._closed or os.getpid() != self._process:  # a child that was forked has nothing to end
            return
        self._closed = True
        atexit.unregister(self.close)
        if self._sender is not None:
            self._sender.close(timeout)

    def flush(self) -> bool:
        """Write down everything that is marked so far; True once it is safe on disk, whatever happens then."""
        return self._sender is not None and self._sender.write()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._provenance["ended_by"] = kind.__name__
        self.close()

    # --- marks; each is also a decorator

    def step(self, tokens: SupportsIndex = 0) -> _Marked:
        """One step of the loop. What nothing inside it marks is computation. Tokens of a step that raises are none."""
        return _Marked(self, "step", 1, _tokens(tokens))

    def phase(self, kind: PhaseKind) -> _Marked:
        """Another phase: startup, warm_up, checkpoint, recovery, drain. Phases do not nest."""
        return _Marked(self, kind, 0, 0)

    def begin(self, kind: PhaseKind) -> None:
        """Begin a phase where no `with` can stand. What came before the first phase is start-up."""
        if not self._began:
            self._began = True
            self._recorder.begin("startup", began_seconds=0.0)
            self._recorder.end()
        self._recorder.begin(kind)

    def end(self, *, steps: int = 0, tokens: SupportsIndex = 0) -> None:
        """End the phase that `begin` began."""
        count = _tokens(tokens)
        self._recorder.end(steps)
        self._tokens += count

    @contextmanager
    def activity(self, name: Activity) -> Iterator[None]:
        """A part of a step that is not computation: input_stall, exposed_communication, checkpoint, ..."""
        with self._recorder.activity(name):
            yield

    def add(self, name: Activity, start: float, end: float) -> None:
        """Add an activity that was measured elsewhere, in seconds since the job began (`elapsed_seconds`)."""
        self._recorder.add(name, start, end)

    def elapsed_seconds(self) -> float:
        """Seconds since the job began."""
        return self._recorder.elapsed_seconds()

    def batches(self, loader: Iterable[Item]) -> Iterator[Item]:
        """The items of a loader; the wait for each is an input stall."""
        items = iter(loader)
        while True:
            with self.phase("step"), self.activity("input_stall"):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def count(self, tokens: SupportsIndex) -> None:
        """Count tokens that no `step` was told of."""
        self._tokens += _tokens(tokens)

    def loss(self, value: float) -> None:
        """Note the loss; the first and the last stand in the report. One that is not finite is none."""
        value = float(value)
        if not math.isfinite(value):
            return
        first, _ = self._losses
        self._losses = (value if first is None else first, value)

    def note(self, **provenance: str) -> None:
        """Say under which conditions it ran: versions, settings. Raises InvalidValue for more than 40 of them."""
        noted = self._provenance | {name: str(text).replace("\0", "")[:500] for name, text in provenance.items()}
        if len(noted) > _MOST_NOTES:
            raise InvalidValue(f"{len(noted)} notes", where="note", hint=f"keep to {_MOST_NOTES}")
        self._provenance = noted

    def _part(self, finished: bool) -> RankPart:
        """Everything so far. Called from the sender's thread."""
        first, last = self._losses
        phases = self._recorder.phases
        return self._first.model_copy(
            update={
                "elapsed_seconds": self._recorder.elapsed_seconds(), "phases": phases, "tokens": self._tokens,
                "loss_first": first, "loss_last": last, "finished": finished, "provenance": dict(self._provenance),
            }
        )  # fmt: skip


class _Marked(ContextDecorator):
    """A phase as a context manager and a decorator; written out, because it stands in every step of a loop."""

    __slots__ = ("_job", "_kind", "_steps", "_tokens")

    def __init__(self, job: Job, kind: PhaseKind, steps: int, tokens: int) -> None:
        self._job, self._kind, self._steps, self._tokens = job, kind, steps, tokens

    def __enter__(self) -> None:
        self._job.begin(self._kind)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._job.end(steps=self._steps, tokens=self._tokens if kind is None else 0)


def default_spool() -> Path:
    """Where jobs keep their records: $XDG_STATE_HOME/tokenstone/jobs, or ~/.local/state/tokenstone/jobs."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "tokenstone" / "jobs"


def _whole(name: str, given: int | None, otherwise: int) -> int:
    text = str(given) if given is not None else os.environ.get(name, str(otherwise))
    if not text.isdecimal():
        raise InvalidValue(f"{text!r} is not a whole number", where=name, hint="launchers such as torchrun set it")
    return int(text)


def _tokens(number: SupportsIndex) -> int:
    try:
        count = operator.index(number)
    except TypeError as error:
        raise InvalidValue(f"{number!r} tokens", where="tokens", hint="tokens are counted whole") from error
    if count < 0:
        raise InvalidValue(f"{count} tokens", where="tokens", hint="give 0 or more")
    return count


def _run_id(name: str, world_size: int, *, bracketed: bool) -> str:
    """Drawn for one rank; several take what their launcher has given all of them."""
    if bracketed or world_size == 1:
        return os.environ.get("TOKENSTONE_RUN_ID") or drawn_id(name)
    if shared := os.environ.get("TOKENSTONE_RUN_ID"):
        return shared
    if (elastic := os.environ.get("TORCHELASTIC_RUN_ID", "none")) != "none":
        return f"torchrun-{elastic}"
    if slurm := os.environ.get("SLURM_JOB_ID"):
        return f"slurm-{slurm}-{os.environ.get('SLURM_STEP_ID', '0')}"
    raise InvalidValue(
        f"{world_size} ranks have no name in common", where="run_id",
        hint="give all ranks the same run_id, or set TOKENSTONE_RUN_ID",
    )  # fmt: skip


def drawn_id(name: str) -> str:
    """A new run's id that tells the job's name and when it began."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)[:80].lstrip("._-") or "job"
    return f"{plain}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
