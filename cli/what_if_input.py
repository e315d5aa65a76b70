"""What `tokenstone what-if` starts from: a run of the service, or a result that a command has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenstone.errors import InvalidFile, UsageError

if TYPE_CHECKING:
    from tokenstone.evaluate import Evaluation
    from tokenstone.what_if import Baseline
    from tokenstone.wire import RunView

_KNOWN = "a result of trace, bench, train, infer or run (--json), a report, or an evaluation of the service"


def read_baseline(source: str, *, api: str, part: str | None) -> Baseline:
    """The baseline in a file, or of the run of that id; raises InvalidFile, UsageError and the client's errors."""
    path = Path(source)
    if path.suffix == ".json" or path.exists():
        return _of_document(_read(path), source, part)
    from tokenstone.client import Client  # noqa: PLC0415

    with Client(api) as client:
        return _of_evaluation(client.score(source), client.run(source), f"run {source}")


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidFile("no such file", where=str(path), hint=f"give a run's id, or {_KNOWN}") from error
    except (OSError, ValueError) as error:
        raise InvalidFile(f"cannot be read as JSON: {error}", where=str(path), hint=f"give {_KNOWN}") from error
    if not isinstance(document, dict):
        raise InvalidFile("is not a result", where=str(path), hint=f"give {_KNOWN}")
    return document


def _of_document(document: dict[str, Any], source: str, part: str | None) -> Baseline:
    from pydantic import ValidationError  # noqa: PLC0415

    from tokenstone.evaluate import Evaluation  # noqa: PLC0415
    from tokenstone.wire import RunView  # noqa: PLC0415

    try:
        if "sections" in document:
            section = _one(document["sections"], source, part)
            return _of_evaluation(
                Evaluation.model_validate(section["evaluation"]), RunView.model_validate(section["run"]), source
            )
        if "inputs_hash" in document:
            return _of_evaluation(Evaluation.model_validate(document), None, source)
        if "training" in document and "inference" in document:
            document |= _one([{"kind": kind} | document[kind] for kind in ("training", "inference")], source, part)
        if isinstance(document.get("evaluation"), dict):  # a result that tells all
            run = RunView.model_validate(document["run"])
            return _of_evaluation(Evaluation.model_validate(document["evaluation"]), run, source)
        if "ledger_seconds" in document:
            return _of_result(document, source)
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        raise InvalidFile(f"is not a whole result: {error}", where=source, hint=f"give {_KNOWN}") from error
    raise InvalidFile("holds no ledger", where=source, hint=f"give {_KNOWN}")


def _one(parts: list[dict[str, Any]], source: str, wanted: str | None) -> dict[str, Any]:
    chosen = [part for part in parts if wanted in {None, part["kind"]}]
    if len(chosen) != 1:
        kinds = ", ".join(part["kind"] for part in parts) or "none"
        raise UsageError(f"{source} holds {kinds}", where="--part", hint="name one, or give a run's id")
    return chosen[0]


def _of_evaluation(evaluation: Evaluation, run: RunView | None, source: str) -> Baseline:
    from tokenstone.run import TrainingSpec  # noqa: PLC0415
    from tokenstone.what_if import Baseline  # noqa: PLC0415

    ledger, spec = evaluation.ledger, run.spec if run else None
    roofline: dict[str, Any] = dict(evaluation.roofline or {})
    pipeline: dict[str, Any] = {}
    if isinstance(spec, TrainingSpec):
        layout = spec.layout
        pipeline = {"schedule": layout.schedule, "pipeline": layout.pipeline, "micro_batches": layout.micro_batches}
    return Baseline(
        kind=evaluation.kind,
        seconds=ledger.seconds,
        input_seconds=ledger.input_seconds,
        residual_seconds=ledger.residual_seconds,
        tokens=evaluation.tokens.total,
        price=evaluation.bill.price if evaluation.bill else None,
        devices=len(run.devices) if run else None,
        hardware=roofline.get("hardware"),
        dtype=roofline.get("dtype"),
        peak_flops_per_second=roofline.get("peak_flops_per_second"),
        memory_bytes_per_second=roofline.get("memory_bytes_per_second"),
        source=source,
        **pipeline,
    )


def _of_result(document: dict[str, Any], source: str) -> Baseline:
    """A document of `trace`, `train`, `infer`, `bench` or `run`, whose keys are stable."""
    from tokenstone.what_if import Baseline  # noqa: PLC0415

    peak: dict[str, Any] = document.get("peak") or document.get("roofline") or {}
    bill: dict[str, Any] = document.get("bill") or {}
    overlap = document.get("overlap_us")
    ranks = document.get("ranks")
    serving = document.get("kind") == "inference" or "prefill_ratio" in document
    return Baseline(
        kind="inference" if serving else "training",
        seconds=document["ledger_seconds"],
        residual_seconds=document.get("residual_seconds", 0.0),
        tokens=document.get("tokens") or bill.get("tokens") or 0,
        price=document.get("price") or bill.get("price"),
        devices=document.get("devices") or (len(ranks) if ranks else None),
        hardware=peak.get("hardware"),
        dtype=peak.get("dtype"),
        peak_flops_per_second=peak.get("peak_flops_per_second") or peak.get("flops_per_second"),
        memory_bytes_per_second=peak.get("memory_bytes_per_second"),
        hidden_communication_seconds=None if overlap is None else overlap / 1e6,
        source=source,
    )
