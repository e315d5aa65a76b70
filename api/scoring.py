"""From facts to evaluations: what happens when a run ends, and when it is scored again."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Protocol

from api.store.engine import Session, Store
from api.store.evaluations import (
    PricedBy,
    add_evaluation,
    add_facts,
    find_facts,
    get_evaluation,
    latest_evaluation,
)
from api.store.price_books import get_price_book
from api.store.runs import get_run, move_run, view
from api.store.tables import Run
from api.store.telemetry import windows_of_run
from api.views import Scored
from tokenstone.cost import Price, rental
from tokenstone.errors import Conflict, InvalidValue, NotFound
from tokenstone.evaluate import Evaluation, evaluate
from tokenstone.run import RunState, check_transition, facts_kind
from tokenstone.wire import InferenceFacts, PriceChoice, RunView, TrainingFacts, WindowRow

AnyFacts = TrainingFacts | InferenceFacts


def end_with_facts(store: Store, run_id: str, facts: AnyFacts, *, now: float) -> tuple[RunView, bool]:
    """Take the facts of a running run, evaluate them without a price, and end it: complete, or invalid.

    Returns the run, and whether the facts were new. The same facts again change nothing. Raises NotFound, InvalidValue
    for facts that are not those of this run, and Conflict for other facts than before or a run that is not running.
    """
    with store.reading() as session:
        run = get_run(session, run_id)
        before = view(run)
        if _are_known(session, run, facts):
            return before, False
        check_transition(run_id, before.state, RunState.COMPLETE)
        _check_facts(before, facts)
        windows = windows_of_run(session, run, start=facts.started_unix_seconds, end=_end(facts))
    # Worked out before the write begins, because others wait for that.
    evaluation = _evaluate(before, facts, windows, None)
    with store.writing() as session:
        run = get_run(session, run_id, lock=True)
        if _are_known(session, run, facts):  # told a second time while we worked them out
            return view(run), False
        end = RunState.COMPLETE if evaluation.ledger.balanced else RunState.INVALID
        move_run(run, end, reason="" if end is RunState.COMPLETE else "ledger_residual", now=now)
        add_facts(session, run, facts, now=now)
        add_evaluation(session, run, evaluation, now=now)
        return view(run), True


def _are_known(session: Session, run: Run, facts: AnyFacts) -> bool:
    """Say whether the run has these facts; raises Conflict where it has others."""
    present = find_facts(session, run)
    if present is not None and present != facts:
        raise Conflict(f"run {run.run_id} has other facts already", where="body", hint="facts are told once")
    return present is not None


class Once(Protocol):
    """Knows whether the same request was made before, and remembers what it makes."""

    def made_before(self, session: Session, actor: str) -> str | None:
        """Number of the evaluation that it made, or None."""
        ...

    def keep(self, session: Session, actor: str, made: str) -> None:
        """Remember the number of the evaluation."""
        ...


def score_again(store: Store, run_id: str, choice: PriceChoice, *, actor: str, once: Once, now: float) -> Scored:
    """Evaluate a run with the windows and the price of now, and append the result to its history.

    The same request again (by `once`) finds what it made before. Raises NotFound, Conflict where the run has no facts,
    and InvalidValue or UnknownName for the price.
    """
    with store.reading() as session:
        run = get_run(session, run_id)
        if (made := once.made_before(session, actor)) is not None:
            return get_evaluation(session, run, int(made))
        facts = find_facts(session, run)
        if facts is None:
            raise Conflict(
                f"run {run_id} is {run.state} and has no facts", where="run_id", hint=why_no_facts(run.state)
            )
        started = datetime.fromtimestamp(facts.started_unix_seconds, UTC).date()
        price, priced_by = _price(session, choice, on=started)
        windows = windows_of_run(session, run, start=facts.started_unix_seconds, end=_end(facts))
        before = view(run)
    evaluation = _evaluate(before, facts, windows, price)
    with store.writing() as session:
        run = get_run(session, run_id)
        if (made := once.made_before(session, actor)) is not None:  # sent a second time while we worked it out
            return get_evaluation(session, run, int(made))
        scored = add_evaluation(session, run, evaluation, priced_by, now=now)
        once.keep(session, actor, str(scored.number))
        return scored


def why_no_facts(state: str) -> str:
    """Say why a run of that state has no facts."""
    if RunState(state).ended:
        return "it ended without telling what it did"
    return "they come when it ends: PUT /v1/runs/{run_id}/facts"


def _price(session: Session, choice: PriceChoice, *, on: date) -> tuple[Price | None, PricedBy]:
    """The price chosen, as it was in force `on` the day of the run, and by what it came about."""
    if choice.usd_per_device_hour is not None:
        if choice.price_book is not None or choice.price_row is not None:
            raise InvalidValue("two prices: a figure and a row", where="body", hint="give one of them")
        return rental(choice.usd_per_device_hour), PricedBy(choice.usd_per_device_hour)
    if choice.price_book is None and choice.price_row is None:
        return None, PricedBy()
    if choice.price_book is None or choice.price_row is None:
        raise InvalidValue("half a price", where="body", hint="price_book and price_row go together")
    book = get_price_book(session, choice.price_book)
    price = book.resolve(choice.price_row, on=on)
    return price, PricedBy(price.usd_per_device_hour, f"{book.name}@{book.version}", choice.price_row)


def _end(facts: AnyFacts) -> float:
    return facts.started_unix_seconds + facts.allocated_seconds


def _check_facts(run: RunView, facts: AnyFacts) -> None:
    """Raise InvalidValue for facts that cannot be those of the run."""
    if facts.kind != facts_kind(run.spec):
        raise InvalidValue(f"facts of {facts.kind} for a run of {run.spec.kind}", where="body.kind")
    count = facts.device_count if isinstance(facts, InferenceFacts) else len(facts.devices)
    if count != len(run.devices):
        raise InvalidValue(f"facts of {count} devices for a run on {len(run.devices)}", where="body.devices")


def _evaluate(run: RunView, facts: AnyFacts, windows: list[WindowRow], price: Price | None) -> Evaluation:
    try:
        return evaluate(run, facts, windows=windows, price=price)
    except (OverflowError, ZeroDivisionError) as error:
        raise InvalidValue(f"the figures cannot be worked out: {error}", where="body", hint="check them") from error


def evaluation_of(session: Session, run: Run) -> tuple[RunView, Evaluation]:
    """Return a run and its latest evaluation; raises NotFound that says why there is none."""
    evaluation = latest_evaluation(session, run)
    if evaluation is None:
        reason = f" ({run.reason})" if run.reason else ""
        raise NotFound(
            f"run {run.run_id} is {run.state}{reason} and has no score", where="run_id", hint=why_no_facts(run.state)
        )
    return view(run), evaluation
