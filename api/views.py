"""Answers of the service that are not messages of the wire: they hold what the domain works out."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tokenstone.cost import Bill
from tokenstone.evaluate import Evaluation
from tokenstone.run import WorkloadSpec
from tokenstone.wire import ClusterPrice, Device


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Scored(_View):
    """An evaluation in the history of a run. `number` grows with each."""

    number: int
    created_unix_seconds: float
    schema_version: int
    """Of the formulas: a later version may work out other figures from the same inputs."""
    inputs_hash: str
    """SHA-256 of everything that the figures follow from: run, facts, windows, price."""
    validity: list[str]
    usd_per_device_hour: float | None
    price_book: str | None
    """NAME@VERSION; none where the price was given by hand, or there was none."""
    price_row: str | None
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


class ClusterView(_View):
    """A cluster: known as soon as a node or a run names it."""

    name: str
    nodes: int
    accelerators: int
    runs: int
    seen_unix_seconds: float | None
    """When its last batch arrived."""
    price: ClusterPrice | None
    """In force today."""


class DeviceView(_View):
    """A device of a node, as its driver named it last."""

    cluster: str
    node: str
    device: Device
    hardware: str | None
    """Its name in the catalogue, where the driver's name is known."""


class SpecView(_View):
    """A workload spec that runs have had. It never changes: its id is its hash."""

    spec_id: str
    spec: WorkloadSpec
    runs: int


class PhaseView(_View):
    """A phase of one device of a run."""

    device: str
    kind: str
    start_seconds: float
    duration_seconds: float
    activity_seconds: dict[str, float]
    steps: int


class Health(_View):
    """Whether the service lives, or is ready to work."""

    status: str = "ok"
