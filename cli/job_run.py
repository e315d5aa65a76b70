"""A job of a launcher as a run: its devices, its life, its facts."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import typer

from cli.guards import interrupted_by_signals, signals_held
from cli.workload_files import read_facts
from tokenstone import hardware as catalogue
from tokenstone.client import Client
from tokenstone.errors import (
    InvalidValue,
    NotFound,
    OperationError,
    ServiceRefused,
    ServiceUnreachable,
    WorkloadFailed,
)
from tokenstone.run import RunState, TrainingSpec
from tokenstone.wire import Probe, RunChange, RunCreate, RunDevice

_END_SECONDS = 30
"""How long a launcher that was asked to end may take."""


def run_devices(
    client: Client, cluster: str, nodes: Sequence[str], spec: TrainingSpec, probe: Probe | None
) -> list[RunDevice]:
    """The devices of a job, one a rank, node by node; raises InvalidValue, or NotFound for a node without an agent.

    Where a CPU was probed, ranks are parts of the hosts; else the first accelerators of each node that its agent knows.
    """
    ranks = spec.layout.ranks
    each, rest = divmod(ranks, len(nodes))
    if rest or not each:
        raise InvalidValue(
            f"{ranks} ranks on {len(nodes)} nodes", where="--nodes", hint="write the spec with --nproc NODES x DEVICES"
        )
    if probe is not None and probe.device_type == "cpu":
        known = catalogue.identify(probe.device_name)
        ids = [probe.device_id] if each == 1 else [f"{probe.device_id}:{number}" for number in range(each)]
        return [RunDevice(id=id, node=node, model=probe.device_name, hardware=known) for node in nodes for id in ids]
    views = {view.name: view for view in client.nodes(cluster=cluster)}
    devices: list[RunDevice] = []
    for node in nodes:
        if node not in views:
            raise NotFound(
                f"the service knows no node {node!r} in cluster {cluster!r}", where="--nodes",
                hint="start its agent with the same --cluster and --node, or look at GET /v1/nodes",
            )  # fmt: skip
        found = sorted((d for d in views[node].devices if d.kind == "accelerator"), key=lambda device: device.index)
        if len(found) < each:
            raise InvalidValue(
                f"node {node!r} has {len(found)} accelerators, the spec takes {each} a node", where="--spec",
                hint="write the spec with another --nproc; nodes without accelerators need --probe",
            )  # fmt: skip
        devices += [
            RunDevice(id=device.id, node=node, model=device.model, hardware=catalogue.identify(device.model))
            for device in found[:each]
        ]
    return devices


class JobRun:
    """One run from its creation to its facts. However it ends, the launcher is gone and the service knows how."""

    LEASE_SECONDS = 300.0
    """The service may be away for so long without failing the run."""
    HEARTBEAT_SECONDS = 10.0

    def __init__(self, client: Client, create: RunCreate) -> None:
        self._client, self._create = client, create

    def run(self, launcher: Sequence[str], facts: Path, probe: Probe | None) -> int:
        """Run the launcher and hand its facts in; return its exit code. Raises WorkloadFailed without facts."""
        facts.unlink(missing_ok=True)
        self._client.create_run(self._create)
        try:
            self._client.change_run(self._create.run_id, RunChange(state=RunState.RUNNING))
            with interrupted_by_signals():
                code = self._attend(launcher)
            if code:
                self._fail(f"{launcher[0]} ended with code {code}")
                return code
            self._hand_in(facts, probe)
        except BaseException as error:
            self._fail("interrupted" if isinstance(error, KeyboardInterrupt) else str(error)[:500])
            raise
        return 0

    def _attend(self, launcher: Sequence[str]) -> int:
        process: subprocess.Popen[bytes] | None = None
        try:
            with signals_held():
                process = subprocess.Popen(launcher, stdin=subprocess.DEVNULL)
            while True:
                try:
                    return process.wait(self.HEARTBEAT_SECONDS)
                except subprocess.TimeoutExpired:
                    self._say_alive()
        except OSError as error:
            raise InvalidValue(f"cannot be started: {error.strerror}", where=launcher[0]) from None
        finally:
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(_END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _say_alive(self) -> None:
        try:
            self._client.change_run(self._create.run_id, RunChange(state=RunState.RUNNING))
        except (ServiceUnreachable, ServiceRefused) as error:
            # A training of days does not end because the service is being restarted.
            typer.echo(f"tokenstone: the run goes on: {error}", err=True)

    def _hand_in(self, path: Path, probe: Probe | None) -> None:
        hint = "rank 0 of the workload writes it; its --out must be on a file system that this node sees"
        if not path.is_file():
            raise WorkloadFailed("the job has ended well and left no facts", where=str(path), hint=hint)
        facts = read_facts(path)
        if probe is not None and facts.probe is None:
            facts = facts.model_copy(update={"probe": probe})
        self._client.put_facts(self._create.run_id, facts)

    def _fail(self, reason: str) -> None:
        try:
            self._client.change_run(self._create.run_id, RunChange(state=RunState.FAILED, reason=reason))
        except OperationError as error:
            typer.echo(f"tokenstone: the service could not be told that the run failed: {error}", err=True)
