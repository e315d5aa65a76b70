"""Carries out a bench: service and agent behind it, probe, training, serving, report."""

from __future__ import annotations

import fcntl
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from cli.bench_plan import Plan
from cli.processes import Child
from cli.progress import Stages
from cli.workload import run_workload
from tokenstone import hardware as catalogue
from tokenstone.client import Client
from tokenstone.errors import Conflict, TokenstoneError
from tokenstone.report import Report, Section
from tokenstone.run import InferenceSpec, RunState, TrainingSpec
from tokenstone.wire import Facts, Probe, RunChange, RunCreate, RunDevice

LEASE_SECONDS = 20.0
HEARTBEAT_SECONDS = 5.0
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What a bench ends with."""

    report: Report
    report_path: Path
    probe: Probe

    def as_json(self) -> dict[str, Any]:
        """The document of `tokenstone bench --json`; the keys are stable."""
        report, bill = self.report, self.report.bill
        sections = {section.kind: section for section in report.sections}
        return {
            "score": report.score,
            "usd_per_million_tokens": bill.usd_per_million_tokens if bill else None,
            "device_seconds_per_million_tokens": bill.device_seconds_per_million_tokens if bill else None,
            "training": _section_json(sections["training"]),
            "inference": _section_json(sections["inference"]),
            "bottleneck": report.bottleneck.model_dump(mode="json") if report.bottleneck else None,
            "report_path": str(self.report_path),
            "validity": report.validity,
            "price": report.price.model_dump(mode="json") if report.price else None,
            "probe": self.probe.model_dump(mode="json"),
        }


def _section_json(section: Section) -> dict[str, Any]:
    evaluation = section.evaluation
    ledger, bill = evaluation.ledger, evaluation.bill
    document: dict[str, Any] = {
        "run_id": evaluation.run_id,
        "spec_id": evaluation.spec_id,
        "state": section.run.state,
        "score": evaluation.score,
        "tokens": evaluation.tokens.total,
        "ledger_seconds": ledger.seconds,
        "allocated_seconds": ledger.allocated_seconds,
        "residual_seconds": ledger.residual_seconds,
        "tokens_per_second": evaluation.tokens_per_second,
        "usd_per_million_tokens": bill.usd_per_million_tokens if bill else None,
        "device_seconds_per_million_tokens": bill.device_seconds_per_million_tokens if bill else None,
        "validity": evaluation.validity,
    }
    if evaluation.kind == "training":
        document |= {
            "mfu_ratio": evaluation.mfu_ratio,
            "loss_first": evaluation.loss_first,
            "loss_last": evaluation.loss_last,
            "max_violation": evaluation.max_violation,
        }
        return document
    for name, part in (("input", evaluation.input_bill), ("output", evaluation.output_bill)):
        document[f"{name}_tokens"] = getattr(evaluation.tokens, name)
        document[f"usd_per_million_{name}_tokens"] = part.usd_per_million_tokens if part else None
        document[f"device_seconds_per_million_{name}_tokens"] = part.device_seconds_per_million_tokens if part else None
    waits = evaluation.latencies
    for name in ("ttft_seconds", "tpot_seconds", "e2e_seconds"):
        found = getattr(waits, name) if waits else None
        document[name] = found.model_dump() if found else None
    return document | {"goodput_ratio": evaluation.goodput_ratio, "prefill_ratio": ledger.prefill_ratio}


def run_bench(plan: Plan) -> BenchResult:
    """Run the bench. However it ends, no process is left behind, and a run that did not end well is failed."""
    stages = Stages()
    serve = ["serve", "--json", "--lifeline", "--host", "127.0.0.1", "--port", "0", "--data", str(plan.data)]
    with (
        _only_one(plan.data),
        _interrupted_by_signals(),
        stages.shown(),
        stages.stage("service", "starting") as stage,
        Child("service", "cli", serve, plan.logs) as service,
    ):
        url = str(service.first_message(START_SECONDS)["url"])
        stage.finish(url)
        return _with_service(plan, stages, url)


def _with_service(plan: Plan, stages: Stages, url: str) -> BenchResult:
    node = _node_name()
    agent = ["agent", "--lifeline", "--listen", "none", "--api", url, "--node", node, "--cluster", plan.cluster]
    agent += ["--window-seconds", "1", "--spool", str(plan.data / "spool")]
    with Client(url) as client:
        if plan.price_book is not None:
            client.add_price_book(plan.price_book)
        with Child("agent", "cli", agent, plan.logs):
            probe = _probe(plan, stages)
            device = RunDevice(
                id=probe.device_id,
                node=node,
                model=probe.device_name,
                hardware=plan.hardware or catalogue.identify(probe.device_name),
            )
            bench = _Bench(plan, client, device, probe)
            runs = [bench.run("train", plan.training, stages), bench.run("infer", plan.inference, stages)]
        with stages.stage("report", "scoring") as stage:
            for run_id in runs:
                client.score_run(run_id, plan.price)
            report = client.report(runs)
            _write_whole(plan.report_path, client.report_html(runs))
            stage.note(str(plan.report_path))
    return BenchResult(report, plan.report_path, probe)


def _probe(plan: Plan, stages: Stages) -> Probe:
    with stages.stage("probe", "matrix multiplication and memory") as stage:
        arguments = ["--dtype", plan.training.dtype, *_threads(plan)]
        result = run_workload("probe", arguments, plan.data / "probe.json", stage=stage, log_dir=plan.logs)
        probe = Probe.model_validate(result)
        peak, memory = probe.gemm_flops_per_second / 1e12, probe.memory_bytes_per_second / 1e9
        stage.note(f"{peak:,.3g} TFLOP/s {probe.dtype}, {memory:,.1f} GB/s")
    return probe


def _threads(plan: Plan) -> list[str]:
    return ["--threads", str(plan.threads)] if plan.threads else []


class _Bench:
    """The runs of one bench: they share a name, a device and a probe."""

    def __init__(self, plan: Plan, client: Client, device: RunDevice, probe: Probe) -> None:
        self._plan, self._client, self._device, self._probe = plan, client, device, probe
        self._name = f"bench-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"

    def run(self, command: Literal["train", "infer"], spec: TrainingSpec | InferenceSpec, stages: Stages) -> str:
        """Run one workload as a run of the service; return the run's id."""
        run_id = f"{self._name}-{command}"
        files = self._plan.data
        spec_path, checkpoint = files / f"{command}-spec.json", files / "checkpoint.pt"
        _write_whole(spec_path, spec.model_dump_json())
        arguments = ["--spec", str(spec_path), "--checkpoint", str(checkpoint), *_threads(self._plan)]
        create = RunCreate(
            run_id=run_id, cluster=self._plan.cluster, spec=spec, devices=[self._device], lease_seconds=LEASE_SECONDS
        )
        with _open_run(self._client, create) as alive, stages.stage(command, spec.preset) as stage:
            result = run_workload(
                command, arguments, files / f"{command}-facts.json", stage=stage, log_dir=self._plan.logs, alive=alive
            )
            facts: Any = TypeAdapter(Facts).validate_python(result | {"probe": self._probe.model_dump()})
            self._client.put_facts(run_id, facts)
        return run_id


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


@contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Hold the data folder: two benches at once would measure each other."""
    with (data / "bench.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Conflict(
                "another bench is running", where=str(data), hint="wait for it, or use another --data"
            ) from error
        yield


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end us as Ctrl-C does: through every `finally`. A second one does not disturb that."""

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _node_name() -> str:
    return socket.gethostname() or "localhost"


def _write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
