"""`tokenstone infer --sweep`: loads from one client up, then a bisection for the highest rate within the objective.

Each load is a run of its own: nothing is pooled.
"""

from __future__ import annotations

from pathlib import Path

import typer

from cli.files import write_whole
from cli.frontier import Frontier, Point, make_point
from cli.output import print_json, stdout
from cli.session import Session, Site, conclude_session
from tokenstone.evaluate import Evaluation
from tokenstone.objectives import ATTAINMENT
from tokenstone.run import InferenceSpec, Traffic
from tokenstone.wire import PriceChoice, RunDevice

BISECTIONS = 6
CLOSE_ENOUGH = 1.1
"""The search ends when the rate that misses is within 10 % of one that meets the objective."""
_LEAST_REQUESTS_A_CLIENT = 4


class _Sweep:
    """Makes loads in one session and keeps their points."""

    def __init__(
        self, session: Session, site: Site, spec: InferenceSpec, remote: list[RunDevice] | None,
        arguments: list[str], checkpoint: Path | None,
    ) -> None:  # fmt: skip
        self._session, self._site, self._spec, self._remote = session, site, spec, remote
        self._arguments, self._checkpoint = arguments, checkpoint
        self._probe = session.probe(spec.dtype) if remote is None else None
        self.points: list[Point] = []
        self.run_ids: list[str] = []

    def load(self, traffic: Traffic, title: str, requests: int) -> Evaluation:
        """Make one load and evaluate it at the site's price."""
        spec = self._spec.model_copy(update={"traffic": traffic, "requests": requests})
        run_id = self._session.run(
            "infer", spec, self._probe, title=title, checkpoint=self._checkpoint, arguments=self._arguments,
            devices=self._remote,
        )  # fmt: skip
        evaluation = self._session.score(run_id)
        self.run_ids.append(run_id)
        known = self._remote is None or evaluation.bill is not None
        self.points.append(make_point(evaluation, spec, devices=len(self._remote or [0]) if known else None))
        return evaluation

    def closed(self, most: int) -> float:
        """1, 2, 4, ... clients; return the most requests a second that were answered."""
        clients, best = 1, 0.0
        while clients <= most:
            traffic = self._spec.arrivals.model_copy(
                update={"arrival": "closed", "concurrency": clients, "rate": None, "trace_sha256": ""}
            )
            requests = max(self._spec.requests, _LEAST_REQUESTS_A_CLIENT * clients)
            evaluation = self.load(traffic, f"{clients} at once", requests)
            best = max(best, self.points[-1].requests_per_second or 0.0)
            if sum((evaluation.errors or {}).values()) == evaluation.requests:
                break  # nothing works there, and more of it will not either
            clients *= 2
        return best

    def bisect(self, highest: float) -> float | None:
        """The highest rate at which the objective is met, to 10 %; None where no tried rate meets it."""
        met, missed = None, None
        rate = highest
        for _ in range(BISECTIONS):
            traffic = self._spec.arrivals.model_copy(update={"arrival": "poisson", "rate": rate, "trace_sha256": ""})
            evaluation = self.load(traffic, f"{rate:.3g} a second", self._spec.requests)
            if (evaluation.goodput_ratio or 0.0) >= ATTAINMENT:
                met = rate
            else:
                missed = rate
            if met is not None and missed is not None and missed / met <= CLOSE_ENOUGH:
                break
            if missed is None:
                rate *= 1.5
            else:
                rate = (missed * met) ** 0.5 if met is not None else missed / 2
        return met


def run_sweep(
    site: Site, spec: InferenceSpec, remote: list[RunDevice] | None, arguments: list[str], checkpoint: Path | None,
    *, json: bool,
) -> None:  # fmt: skip
    """Make the loads, write the picture, print the frontier."""
    made: list[_Sweep] = []
    highest: list[float | None] = []

    def work(session: Session) -> list[str]:
        sweep = _Sweep(session, site, spec, remote, arguments, checkpoint)
        made.append(sweep)
        best = sweep.closed(max(1, spec.arrivals.concurrency))
        if spec.objective is not None and best > 0:
            highest.append(sweep.bisect(best))
        return sweep.run_ids

    conclude_session(site, "sweep", work, lambda _session, run_ids: run_ids)
    frontier = Frontier(
        model=spec.endpoint_model or spec.preset,
        objective=spec.objective,
        points=made[0].points,
        highest_rate=highest[0] if highest else None,
        cost_unit="device-seconds" if site.price == PriceChoice() else "usd",
    )
    picture = site.report_path.with_name("frontier.svg")
    from cli.frontier_chart import svg  # noqa: PLC0415

    write_whole(picture, svg(frontier))
    if json:
        print_json(frontier.document() | {"picture_path": str(picture)})
        return
    from cli.frontier_chart import print_frontier  # noqa: PLC0415

    print_frontier(frontier, stdout())
    typer.echo(f"\nPicture: {picture}")
