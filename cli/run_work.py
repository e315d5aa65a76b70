"""The work of `tokenstone run`: the command between two looks at the clock, and what is made of it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.bracket import Outcome, run_bracketed
from cli.files import write_whole
from cli.run_facts import bracketed_facts, devices_of, joules
from cli.run_site import Measured, warn
from cli.session import Site
from tokenstone.cost import Price
from tokenstone.errors import TokenstoneError
from tokenstone.evaluate import Evaluation, evaluate
from tokenstone.record.job import FOLDER, drawn_id
from tokenstone.record.parts import LEASE_SECONDS, RankPart, facts_of, read_parts
from tokenstone.run import JobSpec, RunState
from tokenstone.wire import RunChange, RunCreate, RunView, TrainingFacts


def run_command(
    command: Sequence[str],
    spec: JobSpec,
    site: Site,
    at: Measured,
    *,
    tokens: int | None,
    pattern: re.Pattern[bytes] | None,
    price: Price | None,
) -> dict[str, Any]:
    """Run the command and return the document of the run. Raises what `run_bracketed` does."""
    run_id = drawn_id(spec.preset)
    devices = devices_of(at.node, at.devices(), os.environ, hardware=site.hardware)
    create = RunCreate(
        run_id=run_id, cluster=at.cluster, spec=spec, devices=devices, lease_seconds=LEASE_SECONDS
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="tokenstone-run-") as marks, at.run(create) as created:
        environment = {**os.environ, FOLDER: marks, "TOKENSTONE_RUN_ID": run_id}
        try:
            outcome = run_bracketed(command, environment, pattern)
        except BaseException as error:
            _fail(at, create, created, str(error) or type(error).__name__)
            raise
        parts = read_parts(Path(marks), broken=lambda path, why: warn(f"{path.name} of the program's marks: {why}"))
    windows = at.windows(outcome.started_unix_seconds - 1, outcome.started_unix_seconds + outcome.wall_seconds + 1)
    told = tokens if tokens is not None else outcome.tokens
    if parts:
        create, facts = _marked(create, parts, outcome, told)
    else:
        facts = bracketed_facts(outcome, devices, windows, tokens=told or 0)
    facts = facts.model_copy(update={"provenance": facts.provenance | {"exit_code": str(outcome.exit_code)}})
    view = RunView(
        **create.model_dump(include={"run_id", "cluster"}), spec_id=create.spec.spec_id, spec=create.spec,
        devices=create.devices, state=RunState.COMPLETE, reason="", created_unix_seconds=outcome.started_unix_seconds,
        started_unix_seconds=outcome.started_unix_seconds, ended_unix_seconds=None,
    )  # fmt: skip
    evaluation = evaluate(view, facts, windows=windows, price=price)
    report = _store(at, create, created, facts, site)
    energy = joules(create.devices, windows)
    return _document(view, evaluation, outcome, price, energy, marked=bool(parts)) | {
        "service": at.url, "report_path": report, "provenance": facts.provenance,
    }  # fmt: skip


def _marked(
    create: RunCreate, parts: Sequence[RankPart], outcome: Outcome, tokens: int | None
) -> tuple[RunCreate, TrainingFacts]:
    """The program's own marks, between the instants at which its devices were taken and given back."""
    facts = facts_of(
        parts, started_unix_seconds=outcome.started_unix_seconds, allocated_seconds=max(outcome.wall_seconds, 1e-9)
    )
    if tokens is not None:
        facts = facts.model_copy(update={"tokens": tokens})
    spec = parts[0].spec
    if spec.flops_per_token is None and spec.model is None and isinstance(create.spec, JobSpec):
        spec = create.spec
    known = {device.id: device for device in create.devices}
    devices = [known.get(part.device.id, part.device) for part in parts]
    return create.model_copy(update={"devices": devices, "spec": spec}), facts


def _fail(at: Measured, create: RunCreate, created: bool, reason: str) -> None:
    if created and at.client is not None:
        try:
            at.client.change_run(create.run_id, RunChange(state=RunState.FAILED, reason=reason[:500]))
        except TokenstoneError as error:
            warn(str(error))


def _store(at: Measured, create: RunCreate, created: bool, facts: TrainingFacts, site: Site) -> str | None:
    """Hand the facts to the service and write the page; a service that fails is said and loses the page alone."""
    if at.client is None:
        return None
    try:
        stored = at.client.run(create.run_id) if created else None
        if stored is None or (stored.spec, stored.devices) != (create.spec, create.devices):
            marked = f"{create.run_id}-marked"  # its own marks say of other devices or work than we could from outside
            _fail(at, create, created, f"its own marks are the run {marked}")
            create = create.model_copy(update={"run_id": marked})
            at.client.create_run(create)
            at.client.change_run(create.run_id, RunChange(state=RunState.RUNNING))
        at.client.put_facts(create.run_id, facts)
        at.client.score_run(create.run_id, site.price)
        write_whole(site.report_path, at.client.report_html([create.run_id]))
    except TokenstoneError as error:
        warn(f"the service does not hold this run: {error}")
        return None
    return str(site.report_path)


def _document(
    view: RunView, e: Evaluation, outcome: Outcome, price: Price | None, energy: float | None, *, marked: bool
) -> dict[str, Any]:
    """The document of a run. Its keys are stable: scripts and `tokenstone what-if` rely on them."""
    usd = None if price is None else price.usd_per_device_second * e.ledger.allocated_seconds
    return {
        "run_id": view.run_id,
        "name": view.spec.preset,
        "exit_code": outcome.exit_code,
        "started_unix_seconds": outcome.started_unix_seconds,
        "wall_seconds": outcome.wall_seconds,
        "cpu_seconds": outcome.cpu_seconds,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "marked": marked,
        "devices": len(view.devices),
        "device_ids": [device.id for device in view.devices],
        "allocated_seconds": e.ledger.allocated_seconds,
        "ledger_seconds": e.ledger.seconds,
        "residual_seconds": e.ledger.residual_seconds,
        "score": e.score,
        "validity": e.validity,
        "tokens": e.tokens.total,
        "price": price.model_dump(mode="json") if price else None,
        "usd": usd,
        "usd_per_million_tokens": e.bill.usd_per_million_tokens if e.bill else None,
        "device_seconds_per_million_tokens": e.bill.device_seconds_per_million_tokens if e.bill else None,
        "joules": energy,
        "joules_reason": "" if energy is not None else "no energy counter on every device of the run",
        "panel": [row.model_dump(mode="json") for row in e.panel],
        "advice": [advice.model_dump(mode="json") for advice in e.advice],
        "roofline": e.roofline,
    }
