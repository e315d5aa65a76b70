"""A side as it is typed: run ids, a cluster, result files, or a published result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.result_files import figures_of_document
from tokenstone.client import Client
from tokenstone.compare import LeftOut, RunFigures, Side, make_side, run_figures
from tokenstone.compare.published import PREFIX, find_published
from tokenstone.compare.side import published_side
from tokenstone.errors import InvalidFile, InvalidValue, NotFound, ServiceRefused
from tokenstone.evaluate import Evaluation
from tokenstone.run import RunState
from tokenstone.wire import InferenceFacts, RunView

MOST_RUNS = 50
"""Of a cluster: the newest."""
_NOT_FOUND = 404


@dataclass
class Gathered:
    """Runs of one side before one workload is chosen, and what curves need."""

    title: str
    figures: list[RunFigures] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    facts: dict[str, InferenceFacts] = field(default_factory=dict)
    output_seconds: dict[str, float] = field(default_factory=dict)
    currency: str = "USD"
    is_mixed: bool = False
    """A cluster or a bench holds runs of several workloads: one is chosen."""
    published: Side | None = None

    def add(self, run: RunView, evaluation: Evaluation) -> None:
        """Put an evaluated run there."""
        self.figures.append(run_figures(run, evaluation))
        if evaluation.output_bill is not None:
            self.output_seconds[run.run_id] = evaluation.output_bill.device_seconds


def gather(text: str, client: Client, where: str) -> Gathered:
    """Read a side. The service is only asked for what is no file and not published. Raises UsageError and its kin."""
    if text.startswith(PREFIX):
        return Gathered(title=text, published=published_side(find_published(text)))
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InvalidValue("no runs", where=where, hint="give run ids, a cluster, result files or published:KEY")
    files = [name for name in names if name.endswith(".json") or Path(name).is_file()]
    if files and len(files) < len(names):
        raise InvalidValue("files and run ids on one side", where=where, hint="give one kind a side")
    if files:
        return _from_files([Path(name) for name in files])
    return _from_service(names, client, where)


def choose(a: Gathered, b: Gathered, spec: str | None, kind: str | None) -> tuple[Side, Side]:
    """Make both sides. Where one holds several workloads, take the spec that both have, with most runs."""
    sides = (a, b)
    for side in sides:
        if kind is not None:
            side.figures = [run for run in side.figures if run.kind == kind]
        if spec is not None:
            side.figures = [run for run in side.figures if run.spec_id == spec]
    if spec is None:
        common = Counter({
            spec_id: min(counts) for spec_id in {run.spec_id for run in a.figures} & {run.spec_id for run in b.figures}
            if (counts := [sum(run.spec_id == spec_id for run in side.figures) for side in sides])
        })  # fmt: skip
        chosen = max(common, key=lambda spec_id: (common[spec_id], spec_id)) if common else None
        for side, other in ((a, b), (b, a)):
            if side.is_mixed:
                kinds = {other.published.published.kind} if other.published and other.published.published else None
                side.figures = _one_workload(side.figures, chosen, kinds or {run.kind for run in other.figures})
    return _side(a, "A"), _side(b, "B")


def _one_workload(runs: list[RunFigures], chosen: str | None, kinds: set[Any]) -> list[RunFigures]:
    """The runs of the chosen spec; without one, of the first workload of the other side's kind."""
    if chosen is None:
        alike = [run for run in runs if run.kind in kinds] or runs
        chosen = alike[0].spec_id if alike else None
    return [run for run in runs if run.spec_id == chosen]


def _side(gathered: Gathered, where: str) -> Side:
    if gathered.published is not None:
        return gathered.published
    if not gathered.figures:
        reasons = "; ".join(f"{out.run_id}: {out.reason}" for out in gathered.left_out[:3])
        raise NotFound(f"no run with figures{f' ({reasons})' if reasons else ''}", where=gathered.title,
                       hint="name runs that are complete; check --spec and --kind")  # fmt: skip
    return make_side(
        gathered.figures, title=gathered.title, left_out=gathered.left_out, currency=gathered.currency, where=where
    )


def _from_files(paths: Sequence[Path]) -> Gathered:
    gathered = Gathered(title=_title([path.stem for path in paths]))
    currencies = set()
    for path in paths:
        document = read_json(path)
        for found in figures_of_document(document, path):
            if isinstance(found, RunFigures):
                gathered.figures.append(found)
            else:
                gathered.add(*found)
        currencies.add(str((document.get("price") or {}).get("currency", "USD")))
        gathered.is_mixed |= "training" in document
    if len(currencies) > 1:
        raise InvalidValue(f"prices in {' and '.join(sorted(currencies))} on one side", where=gathered.title,
                           hint="give files with one currency a side")  # fmt: skip
    gathered.currency = currencies.pop()
    seen: Counter[str] = Counter(run.run_id for run in gathered.figures)
    twice = [run_id for run_id, number in seen.items() if number > 1]
    if twice:
        raise InvalidValue(f"run {twice[0]} is in several files", where=gathered.title, hint="name each run once")
    return gathered


def _title(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON document. Raises InvalidFile."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidFile("no such file", where=str(path)) from error
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidFile(f"cannot be read as JSON: {error}", where=str(path)) from error
    if not isinstance(document, dict):
        raise InvalidFile("is no result: not a JSON object", where=str(path))
    return document


def _from_service(names: Sequence[str], client: Client, where: str) -> Gathered:
    gathered = Gathered(title=_title(names))
    for name in dict.fromkeys(names):
        run = _find(client, name)
        if run is not None:
            _add_run(gathered, client, run)
        elif len(names) == 1:
            _add_cluster(gathered, client, name, where)
        else:
            raise NotFound(f"there is no run {name!r}", where=where, hint=f"{client.base_url}/runs lists them")
    return gathered


def _find(client: Client, run_id: str) -> RunView | None:
    try:
        return client.run(run_id)
    except ServiceRefused as error:
        if error.status == _NOT_FOUND:
            return None
        raise


def _add_cluster(gathered: Gathered, client: Client, name: str, where: str) -> None:
    runs = []
    for run in client.runs(cluster=name):
        runs.append(run)
        if len(runs) == MOST_RUNS:
            break
    if not runs:
        raise NotFound(f"there is neither a run nor a cluster {name!r}", where=where,
                       hint=f"{client.base_url}/runs lists them; published results begin with {PREFIX}")  # fmt: skip
    gathered.is_mixed = True
    for run in runs:
        _add_run(gathered, client, run)


def _add_run(gathered: Gathered, client: Client, run: RunView) -> None:
    if run.state not in {RunState.COMPLETE, RunState.INVALID}:
        gathered.left_out.append(
            LeftOut(run_id=run.run_id, reason=f"it is {run.state}{f' ({run.reason})' if run.reason else ''}")
        )
        return
    evaluation = client.score(run.run_id)
    gathered.add(run, evaluation)
    if evaluation.kind == "inference":
        facts = client.facts(run.run_id)
        if isinstance(facts, InferenceFacts):
            gathered.facts[run.run_id] = facts
