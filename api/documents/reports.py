"""A report on runs, or on a cluster, as Markdown: the answer first."""

from __future__ import annotations

from api.documents.text import block, bullets, code, figure, page, plain, table, utc
from tokenstone.cluster_report import ClusterReport, WorkloadRow
from tokenstone.evaluate import REASONS
from tokenstone.latency import Percentiles
from tokenstone.report import Report, Section
from tokenstone.score.bottleneck import TITLES


def report_markdown(report: Report) -> str:
    """Return the document on one or several runs."""
    score = "absent" if report.score is None else f"{report.score:.1f} of 100"
    facts = [f"- Score: {score}", f"- {plain(report.bottleneck_sentence)}", f"- {plain(report.price_note)}"]
    return page(
        [
            [f"# {plain(report.title)} on {plain(report.cluster)}"],
            [f"**{plain(report.answer)}**"],
            [*facts, f"- Made {utc(report.created_unix_seconds)}"],
            ["## Bill"],
            _bill(report),
            ["## Ledger"],
            _ledger(report),
            *(part for section in report.sections for part in _section(section)),
            ["## Validity"],
            bullets([f"{c}: {note}" for c, note in zip(report.validity, report.validity_notes, strict=True)]),
        ]
    )


def cluster_markdown(report: ClusterReport) -> str:
    """Return the document on a cluster."""
    return page(
        [
            [f"# Cluster {plain(report.cluster)}"],
            [f"**{plain(report.answer)}**"],
            [f"Made {utc(report.created_unix_seconds)}. Runs of one spec are like with like. `s` are device-seconds."],
            table(
                [
                    "workload",
                    "spec",
                    "runs",
                    "$ per M tokens",
                    "s per M tokens",
                    "score",
                    "tokens/s",
                    "A/A floor",
                ],
                [_workload(row) for row in report.workloads],
                numbers_from=2,
            ),
            *(part for row in report.workloads for part in _workload_parts(row)),
            ["## Runs left out"] if report.left_out else [],
            bullets([f"{out.run_id}: {out.reason}" for out in report.left_out]),
        ]
    )


def _bill(report: Report) -> list[str]:
    if not report.bills:
        return ["No bill: no token was counted, or a ledger does not balance."]
    names = dict.fromkeys(line.category for bill in report.bills for line in bill.lines if line.device_seconds > 0)
    rows = []
    for name in names:
        lines = [next((line for line in bill.lines if line.category == name), None) for bill in report.bills]
        values = [None if line is None else line.usd_per_million_tokens if report.price else
                  line.device_seconds_per_million_tokens for line in lines]  # fmt: skip
        rows.append([TITLES[name], *("" if value is None else figure(value) for value in values)])
    totals = [b.usd_per_million_tokens if report.price else b.device_seconds_per_million_tokens for b in report.bills]
    rows.append(["total", *(figure(total) for total in totals)])
    unit = "$" if report.price else "device-seconds"
    return [f"{unit} per million tokens.", "", *table(["", *(bill.token_kind for bill in report.bills)], rows)]


def _ledger(report: Report) -> list[str]:
    total = sum(report.ledger_seconds.values()) or 1.0
    rows = [[TITLES[name], figure(seconds), f"{seconds / total:.1%}"]
            for name, seconds in report.ledger_seconds.items() if seconds > 0]  # fmt: skip
    rows.append(["allocated", figure(report.allocated_seconds), "100%"])
    return table(["device-seconds of all runs", "seconds", "share"], rows)


def _section(section: Section) -> list[list[str]]:
    evaluation = section.evaluation
    figures = [f"- {h.title}: {plain(h.value)} {plain(h.unit)}{f' ({plain(h.note)})' if h.note else ''}".rstrip()
               for h in section.headlines]  # fmt: skip
    joules = evaluation.joules_per_token
    energy = f"{figure(joules)} J per token" if joules is not None else f"absent: {plain(evaluation.joules_reason)}"
    panel = [
        [plain(row.resource), "absent" if row.mean_ratio is None else f"{row.mean_ratio:.1%}",
         "" if row.p95_ratio is None else f"{row.p95_ratio:.1%}", plain(row.capacity or row.absent_reason)]
        for row in evaluation.panel
    ]  # fmt: skip
    again = section.reproduce
    return [
        [f"## {section.kind.capitalize()}: {plain(section.run.run_id)}"],
        [f"Spec {code(section.run.spec_id)}, {plain(section.run.spec.preset)}, state {section.run.state}."],
        [*figures, f"- Energy: {energy}"],
        *_percentiles(section),
        ["### Resources"],
        table(["resource", "mean", "p95", "held against"], panel, texts_from=3),
        ["### Environment and provenance"],
        [f"- {plain(name)}: {plain(value)}" for name, value in section.environment.items()],
        [f"- inputs: {code(evaluation.inputs_hash)}", *(f"- {plain(text)}" for text in evaluation.conventions)],
        ["### How to do it again"],
        block([again.command]) if again.command else [],
        [plain(again.note[:1].upper() + again.note[1:]) + "."] if again.note else [],
        bullets([f"{c}: {REASONS.get(c, c)}" for c in evaluation.validity if c != "valid"]),
    ]


def _percentiles(section: Section) -> list[list[str]]:
    waits = section.evaluation.latencies
    if waits is None:
        return []
    found: list[tuple[str, Percentiles | None]] = [
        ("TTFT", waits.ttft_seconds), ("TPOT", waits.tpot_seconds), ("ITL", waits.itl_seconds),
        ("E2E", waits.e2e_seconds),
    ]  # fmt: skip
    rows = [
        [name, *(figure(value) for value in (d.mean, d.p50, d.p90, d.p95, d.p99))] for name, d in found if d is not None
    ]
    if not rows:
        return []
    return [["### Latencies"], table(["seconds", "mean", "p50", "p90", "p95", "p99"], rows)]


def _workload(row: WorkloadRow) -> list[str]:
    floor = "absent" if row.noise_floor.ratio is None else f"{row.noise_floor.ratio - 1:.1%}"
    return [
        f"{plain(row.preset)} ({row.kind})", code(row.spec_id), str(len(row.runs)), figure(row.usd_per_million_tokens),
        figure(row.device_seconds_per_million_tokens), "absent" if row.score is None else f"{row.score:.1f}",
        figure(row.tokens_per_second), floor,
    ]  # fmt: skip


def _workload_parts(row: WorkloadRow) -> list[list[str]]:
    worst = row.bottleneck
    told = f"{worst.sentence[:1].upper()}{worst.sentence[1:]}." if worst else "No bottleneck is known."
    return [
        [f"## {plain(row.preset)} ({row.kind})"],
        [f"Newest run: {plain(row.runs[0].run_id)}. {told}"],
        bullets(row.missing),
        block([row.reproduce.command]) if row.reproduce.command else [f"{plain(row.reproduce.note)}."],
    ]
