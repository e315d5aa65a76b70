"""Answers of the service that are not messages of the wire: they hold what the domain works out."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tokenstone.cost import Bill
from tokenstone.evaluate import Evaluation


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Scored(_View):
    """An evaluation in the history of a run. `number` grows with each."""

    number: int
    created_unix_seconds: float
    evaluation: Evaluation


class Bills(_View):
    """What a run's tokens cost. Without a price, the lines are in device-seconds alone."""

    run_id: str
    bill: Bill
    input_bill: Bill | None
    uncached_input_bill: Bill | None
    output_bill: Bill | None
    goodput_bill: Bill | None


class MetricView(_View):
    """A metric of the registry. `labels` are those beside node and device."""

    name: str
    kind: str
    unit: str
    resource: str
    help: str
    labels: list[str]


class Health(_View):
    """Whether the service lives, or is ready to work."""

    status: str = "ok"
