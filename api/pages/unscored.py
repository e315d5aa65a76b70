"""A run that has no evaluation yet, or never will: what is missing, why, and what can be said."""

from __future__ import annotations

from api.pages.environment import Site, render
from api.pages.runs import run_facts
from tokenstone.run import RunState
from tokenstone.wire import RunView

_WHY = {
    RunState.CREATED: "The run was created and has not begun. Its figures come when it ends.",
    RunState.RUNNING: "The run is under way. Its figures come when it ends; this page does not reload by itself.",
    RunState.FAILED: "The run failed and told nothing of what it did, so nothing can be said of where its time went.",
    RunState.COMPLETE: "The run ended, and its evaluation is not there: `POST /v1/runs/RUN/scores` makes one.",
    RunState.INVALID: "The run ended, and its evaluation is not there: `POST /v1/runs/RUN/scores` makes one.",
}


def unscored_html(site: Site, run: RunView) -> str:
    """Return the page of a run without an evaluation."""
    return render("unscored.html.j2", site=site, run=run, why=_WHY[run.state], facts=run_facts(run, None))
