"""Result files: what `bench`, `train`, `infer` and `report --json` print, read back as runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tokenstone.compare import RunFigures
from tokenstone.cost import Price, make_bill
from tokenstone.errors import InvalidFile
from tokenstone.evaluate import Evaluation
from tokenstone.report import Report
from tokenstone.wire import RunView

_KINDS = ("training", "inference")


def figures_of_document(document: dict[str, Any], path: Path) -> Iterator[RunFigures | tuple[RunView, Evaluation]]:
    """The runs of a result file: whole, or figures alone where an earlier version wrote it. Raises InvalidFile."""
    try:
        if "sections" in document:
            yield from [(s.run, s.evaluation) for s in Report.model_validate(document).sections]
            return
        found = [document[kind] for kind in _KINDS if kind in document] or [document]
        for run in found:
            if "evaluation" in run and "run" in run:
                yield RunView.model_validate(run["run"]), Evaluation.model_validate(run["evaluation"])
            else:
                yield _figures(run, document.get("price"), document.get("roofline"))
    except ValidationError as error:
        problem = error.errors()[0]
        raise _not_a_result(path, f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not_a_result(path, f"{type(error).__name__}: {error}") from error


def runs_of_document(document: dict[str, Any], path: Path) -> list[tuple[RunView, Evaluation]]:
    """The runs of a result file with all that a report needs. Raises InvalidFile."""
    whole = [found for found in figures_of_document(document, path) if not isinstance(found, RunFigures)]
    if not whole:
        raise InvalidFile("holds figures, but not the runs that a report needs", where=str(path),
                          hint="run it again with this version, or ask the service: tokenstone report RUN")  # fmt: skip
    return whole


def _not_a_result(path: Path, why: str) -> InvalidFile:
    return InvalidFile(f"is no result of tokenstone ({why})", where=str(path),
                       hint="give what `tokenstone bench`, `train`, `infer` or `report` print with --json")  # fmt: skip


def _figures(run: dict[str, Any], price: dict[str, Any] | None, roofline: dict[str, Any] | None) -> RunFigures:
    kind = "inference" if "input_tokens" in run else "training"
    known = {name: value for name, value in (price or {}).items() if name != "currency"}
    bill = make_bill(
        {str(name): float(value) for name, value in run["ledger_seconds"].items()}, int(run["tokens"]),
        "trained" if kind == "training" else "input and output", Price.model_validate(known) if known else None,
    )  # fmt: skip
    waits = {name: (run.get(f"{name}_seconds") or {}).get("p99") for name in ("ttft", "tpot")}
    return RunFigures(
        run_id=run["run_id"],
        cluster=run.get("cluster", ""),
        spec_id=run["spec_id"],
        kind=kind,
        spec=None,
        figures={
            "score": run["score"],
            "tokens_per_second": run["tokens_per_second"],
            "device_seconds_per_million_tokens": bill.device_seconds_per_million_tokens if bill else None,
            "usd_per_million_tokens": bill.usd_per_million_tokens if bill else None,
            "usd_per_million_input_tokens": run.get("usd_per_million_input_tokens"),
            "usd_per_million_output_tokens": run.get("usd_per_million_output_tokens"),
            "ttft_p99_seconds": waits["ttft"],
            "tpot_p99_seconds": waits["tpot"],
            "mfu_ratio": run.get("mfu_ratio"),
            "joules_per_token": run.get("joules_per_token"),
        },
        bill=bill if abs(run["residual_seconds"]) <= 1e-6 * run["allocated_seconds"] else None,
        environment={"hardware": str(roofline["hardware"])} if roofline else {},
        validity=run["validity"],
    )
