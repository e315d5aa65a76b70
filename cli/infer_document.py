"""The JSON documents of `infer`. Their keys are stable: scripts rely on them. What is null has a reason in `absent`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli.documents import section_document
from tokenstone.evaluate import REASONS
from tokenstone.latency import DEFINITIONS
from tokenstone.report import Report, Section
from tokenstone.run import InferenceSpec

_DISTRIBUTIONS = ("ttft_seconds", "tpot_seconds", "itl_seconds", "e2e_seconds")


def infer_document(report: Report, report_path: Path) -> dict[str, Any]:
    """The document of `tokenstone infer --json`."""
    [section] = report.sections
    return load_document(section) | {
        "bottleneck": report.bottleneck.model_dump(mode="json") if report.bottleneck else None,
        "price": report.price.model_dump(mode="json") if report.price else None,
        "report_path": str(report_path),
    }


def load_document(section: Section) -> dict[str, Any]:
    """One load."""
    evaluation, spec = section.evaluation, section.run.spec
    assert isinstance(spec, InferenceSpec)  # noqa: S101  a load has no other
    errors = evaluation.errors or {}
    document = section_document(section) | {
        "requests": evaluation.requests,
        "errors": sum(errors.values()),
        "errors_by_kind": errors,
        "cached_input_tokens": evaluation.tokens.cached_input,
        "output_tokens_per_second": evaluation.output_tokens_per_second,
        "goodput_requests_per_second": evaluation.goodput_requests_per_second,
        "goodput_tokens_per_second": evaluation.goodput_tokens_per_second,
        "joules_per_token": evaluation.joules_per_token,
        "objective": spec.objective.model_dump() if spec.objective else None,
        "traffic": spec.arrivals.model_dump(),
        "client": evaluation.client.model_dump() if evaluation.client else None,
        "validity_notes": [REASONS[code] for code in evaluation.validity],
        "definitions": DEFINITIONS,
        "conventions": evaluation.conventions,
        "roofline": evaluation.roofline,
        "provenance": evaluation.provenance,
    }
    return document | {"absent": {key: why for key, why in _reasons(section).items() if document.get(key) is None}}


def _reasons(section: Section) -> dict[str, str]:
    """Why a figure is null, where it is."""
    evaluation, spec = section.evaluation, section.run.spec
    assert isinstance(spec, InferenceSpec)  # noqa: S101  a load has no other
    nobody = "no request succeeded"
    no_objective = "no objective was given: --slo ttft=2s,tpot=80ms"
    bill = "devices_unknown" if "devices_unknown" in evaluation.validity else None
    no_bill = REASONS[bill] if bill else "no token of this kind, or a ledger that does not balance"
    no_price = no_bill if bill else "no price was given: --price-per-device-hour or --price-row"
    reasons = dict.fromkeys(_DISTRIBUTIONS, nobody) | {
        "tpot_seconds": "no request that succeeded has two tokens or more",
        "itl_seconds": "no request that succeeded has two events or more",
        "output_tokens_per_second": "no request ended",
        "score": "; ".join(REASONS[code] for code in evaluation.validity if code != "valid") or "no token",
        "joules_per_token": evaluation.joules_reason,
    }
    for name in ("goodput_ratio", "goodput_requests_per_second", "goodput_tokens_per_second", "objective"):
        reasons[name] = no_objective if spec.objective is None else "no request ended"
    for kind in ("", "input_", "output_"):
        reasons[f"usd_per_million_{kind}tokens"] = no_price
        reasons[f"device_seconds_per_million_{kind}tokens"] = no_bill
    return reasons
