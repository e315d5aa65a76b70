"""The JSON documents of `bench` and `train`. Their keys are stable: scripts rely on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenstone.evaluate import Evaluation
from tokenstone.report import Report, Section


def bench_document(report: Report, report_path: Path) -> dict[str, Any]:
    """The document of `tokenstone bench --json`."""
    bill = report.bill
    sections = {section.kind: section for section in report.sections}
    return {
        "score": report.score,
        "usd_per_million_tokens": bill.usd_per_million_tokens if bill else None,
        "device_seconds_per_million_tokens": bill.device_seconds_per_million_tokens if bill else None,
        "training": section_document(sections["training"]),
        "inference": section_document(sections["inference"]),
        "bottleneck": report.bottleneck.model_dump(mode="json") if report.bottleneck else None,
        "advice": [advice.model_dump(mode="json") for advice in report.advice],
        "report_path": str(report_path),
        "validity": report.validity,
        "price": report.price.model_dump(mode="json") if report.price else None,
        "roofline": sections["training"].evaluation.roofline,
    }


def training_document(report: Report, report_path: Path | str) -> dict[str, Any]:
    """The document of `tokenstone train --json`, and of `submit`, whose report has a URL."""
    [section] = report.sections
    evaluation = section.evaluation
    roofline, ledger = evaluation.roofline or {}, evaluation.ledger
    steps = sum(ledger.seconds.get(name, 0.0) for name in _IN_STEPS)
    flops = None
    if evaluation.mfu_ratio is not None and roofline:
        flops = evaluation.mfu_ratio * float(roofline["peak_flops_per_second"] or 0.0) * len(section.run.devices)
    return section_document(section) | {
        "model_flops_per_second": flops,
        "measured_peak_flops_per_second": roofline.get("peak_flops_per_second"),
        "exposed_communication_ratio": evaluation.exposed_communication_ratio,
        "communication": [total.model_dump(mode="json") for total in evaluation.communication],
        "bubble_ratio": _bubble(evaluation, steps),
        **_detail(evaluation),
        "bottleneck": report.bottleneck.model_dump(mode="json") if report.bottleneck else None,
        "price": report.price.model_dump(mode="json") if report.price else None,
        "roofline": evaluation.roofline,
        "provenance": evaluation.provenance,
        "report_path": str(report_path),
    }


def _bubble(evaluation: Evaluation, steps: float) -> float:
    """Measured on the schedule; without a pipeline, what the ledger knows, which is 0."""
    detail = evaluation.training
    if detail is not None and detail.bubble_ratio is not None:
        return detail.bubble_ratio
    return evaluation.ledger.seconds.get("pipeline_bubble", 0.0) / steps if steps else 0.0


def _detail(evaluation: Evaluation) -> dict[str, Any]:
    """What the evaluation says of a training beside its ledger; null where it was not measured."""
    detail = evaluation.training
    if detail is None:
        return {}
    return {name: value for name, value in detail.model_dump(mode="json").items() if name != "bubble_ratio"}


_IN_STEPS = (
    "compute", "ideal", "recompute", "kernel_inefficiency", "exposed_communication", "pipeline_bubble",
    "load_imbalance", "input_stall", "host_overhead",
)  # fmt: skip


def section_document(section: Section) -> dict[str, Any]:
    """One run of a document."""
    evaluation = section.evaluation
    ledger, bill = evaluation.ledger, evaluation.bill
    document: dict[str, Any] = {
        "kind": evaluation.kind,
        "run_id": evaluation.run_id,
        "spec_id": evaluation.spec_id,
        "state": section.run.state,
        "score": evaluation.score,
        "advice": [advice.model_dump(mode="json") for advice in evaluation.advice],
        "tokens": evaluation.tokens.total,
        "ledger_seconds": ledger.seconds,
        "allocated_seconds": ledger.allocated_seconds,
        "residual_seconds": ledger.residual_seconds,
        "tokens_per_second": evaluation.tokens_per_second,
        "usd_per_million_tokens": bill.usd_per_million_tokens if bill else None,
        "device_seconds_per_million_tokens": bill.device_seconds_per_million_tokens if bill else None,
        "validity": evaluation.validity,
        "run": section.run.model_dump(mode="json"),
        "evaluation": evaluation.model_dump(mode="json"),
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
    for name in ("ttft_seconds", "tpot_seconds", "itl_seconds", "e2e_seconds"):
        found = getattr(waits, name) if waits else None
        document[name] = found.model_dump() if found else None
    return document | {"goodput_ratio": evaluation.goodput_ratio, "prefill_ratio": ledger.prefill_ratio}
