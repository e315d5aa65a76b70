"""A session: the service and an agent in the background, and runs of the reference workloads against them.

`bench` and `train` are sessions with different runs. However a session ends, no process is left behind, and a run
that did not end well is failed, with the reason.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter

from cli.files import write_whole
from cli.guards import interrupted_by_signals, only_one
from cli.launch import Launch
from cli.processes import Child
from cli.progress import Stages
from cli.workload import run_workload
from tokenstone import hardware as catalogue
from tokenstone.client import Client
from tokenstone.cost import PriceBook
from tokenstone.errors import TokenstoneError
from tokenstone.evaluate import Evaluation
from tokenstone.report import Report
from tokenstone.run import InferenceSpec, RunState, TrainingSpec
from tokenstone.wire import Facts, PriceChoice, Probe, RunChange, RunCreate, RunDevice

LEASE_SECONDS = 20.0
HEARTBEAT_SECONDS = 5.0
START_SECONDS = 60.0

Conclusion = TypeVar("Conclusion")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a session works, and at what price. Every part is known to be sound."""

    data: Path
    report_path: Path
    cluster: str
    hardware: str | None
    threads: int | None
    price: PriceChoice
    price_book: PriceBook | None
    """The user's own book, which the service does not know yet."""

    @property
    def logs(self) -> Path:
        """Where the parts write their logs."""
        return self.data / "logs"

    @property
    def checkpoint(self) -> Path:
        """Where training leaves the model that serving takes up."""
        return self.data / "checkpoint.pt"


class Session:
    """Runs that share a name, a node and a client."""

    def __init__(self, site: Site, stages: Stages, client: Client, node: str, *, name: str) -> None:
        self._site, self._stages, self._client, self._node = site, stages, client, node
        self._runs = 0
        self._name = f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"

    def probe(self, dtype: str, *, ranks: int = 1) -> Probe:
        """Measure the limits of one device; on a CPU that `ranks` share, of one rank's part of the cores."""
        with self._stages.stage("probe", "matrix multiplication and memory") as stage:
            out = self._site.data / "probe.json"
            arguments = ["--dtype", dtype, *self._threads(ranks)]
            probe = Probe.model_validate(run_workload("probe", arguments, out, stage=stage, log_dir=self._site.logs))
            peak, memory = probe.gemm_flops_per_second / 1e12, probe.memory_bytes_per_second / 1e9
            stage.note(f"{peak:,.3g} TFLOP/s {probe.dtype}, {memory:,.1f} GB/s")
        return probe

    def run(
        self,
        command: Literal["train", "infer"],
        spec: TrainingSpec | InferenceSpec,
        probe: Probe | None,
        *,
        title: str | None = None,
        checkpoint: Path | None = None,
        arguments: Sequence[str] = (),
        devices: list[RunDevice] | None = None,
        launch: Launch = Launch(),  # noqa: B008  frozen
    ) -> str:
        """Run one workload as a run of the service, on as many processes as its layout has ranks; return its id.

        `title` is what the stage is called (default: the command), `checkpoint` the model's file, `arguments` go to
        the workload. `devices` are those of an endpoint; without them the run is on what `probe` has measured.
        """
        site = self._site
        self._runs += 1
        run_id = f"{self._name}-{self._runs}-{command}"
        spec_path = site.data / f"{command}-spec.json"
        write_whole(spec_path, spec.model_dump_json())
        ranks = spec.layout.ranks if isinstance(spec, TrainingSpec) else 1
        told = ["--spec", str(spec_path), *self._threads(ranks), *arguments]
        if command == "train":
            checkpoint = site.checkpoint
            told += ["--cache", str(site.data / "cache"), *launch.arguments]
        told += ["--checkpoint", str(checkpoint)] if checkpoint is not None else []
        if devices is None:
            assert probe is not None  # noqa: S101  what runs here has been probed
            devices = self._devices(probe, ranks)
        create = RunCreate(run_id=run_id, cluster=site.cluster, spec=spec, devices=devices, lease_seconds=LEASE_SECONDS)
        with _open_run(self._client, create) as alive, self._stages.stage(title or command, spec.preset) as stage:
            out = site.data / f"{command}-facts.json"
            result = run_workload(
                command, told, out, stage=stage, log_dir=site.logs, alive=alive, processes=ranks,
                max_restarts=launch.max_restarts, launcher=launch.prefix,
            )  # fmt: skip
            measured = {} if probe is None else {"probe": probe.model_dump()}
            facts: Any = TypeAdapter(Facts).validate_python(result | measured)
            self._client.put_facts(run_id, facts)
        return run_id

    def score(self, run_id: str) -> Evaluation:
        """Score one run at the site's price."""
        return self._client.score_run(run_id, self._site.price)

    def scores(self, run_ids: list[str]) -> list[Evaluation]:
        """Score the runs at the site's price; return their evaluations, in order."""
        with self._stages.stage("scores", "scoring"):
            return [self._client.score_run(run_id, self._site.price) for run_id in run_ids]

    def report(self, run_ids: list[str]) -> Report:
        """Score the runs at the site's price, write the page, return the report."""
        with self._stages.stage("report", "scoring") as stage:
            for run_id in run_ids:
                self._client.score_run(run_id, self._site.price)
            report = self._client.report(run_ids)
            write_whole(self._site.report_path, self._client.report_html(run_ids))
            stage.note(str(self._site.report_path))
        return report

    def _devices(self, probe: Probe, ranks: int) -> list[RunDevice]:
        """One device a rank. Ranks on a CPU are parts of one host, so they are numbered."""
        known = self._site.hardware or catalogue.identify(probe.device_name)
        ids = [probe.device_id] if ranks == 1 else [f"{probe.device_id}:{rank}" for rank in range(ranks)]
        return [RunDevice(id=name, node=self._node, model=probe.device_name, hardware=known) for name in ids]

    def _threads(self, ranks: int) -> list[str]:
        """Threads of each process: as many as were asked for, else an even share of the cores."""
        threads = self._site.threads or max(1, len(os.sched_getaffinity(0)) // ranks)
        return ["--threads", str(threads)]


def run_session(site: Site, name: str, work: Callable[[Session], list[str]]) -> Report:
    """Start service and agent, let `work` do its runs, stop the agent (its last windows arrive), and report."""
    return conclude_session(site, name, work, Session.report)


def conclude_session(
    site: Site, name: str, work: Callable[[Session], list[str]], conclude: Callable[[Session, list[str]], Conclusion]
) -> Conclusion:
    """As `run_session`, but what is made of the runs is up to `conclude`: not all runs belong on one report."""
    stages = Stages()
    serve = ["serve", "--json", "--lifeline", "--host", "127.0.0.1", "--port", "0", "--data", str(site.data)]
    node = socket.gethostname() or "localhost"
    with (
        only_one(site.data),
        interrupted_by_signals(),
        stages.shown(),
        stages.stage("service", "starting") as stage,
        Child("service", "cli", serve, site.logs) as service,
    ):
        url = str(service.first_message(START_SECONDS)["url"])
        stage.finish(url)
        with Client(url) as client:
            if site.price_book is not None:
                client.add_price_book(site.price_book)
            session = Session(site, stages, client, node, name=name)
            agent = ["agent", "--lifeline", "--listen", "none", "--api", url, "--node", node]
            agent += ["--cluster", site.cluster, "--window-seconds", "1", "--spool", str(site.data / "spool")]
            with Child("agent", "cli", agent, site.logs):
                run_ids = work(session)
            return conclude(session, run_ids)


@contextmanager
def _open_run(client: Client, create: RunCreate) -> Iterator[Callable[[], None]]:
    """A run that is failed, with the reason, if the block does not end well. Yields the heartbeat."""
    client.create_run(create)
    try:
        client.change_run(create.run_id, RunChange(state=RunState.RUNNING))
        last = time.monotonic()

        def alive() -> None:
            nonlocal last
            if time.monotonic() - last >= HEARTBEAT_SECONDS:
                last = time.monotonic()
                client.change_run(create.run_id, RunChange(state=RunState.RUNNING))

        yield alive
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)[:500]
        with suppress(TokenstoneError):
            client.change_run(create.run_id, RunChange(state=RunState.FAILED, reason=reason))
        raise
