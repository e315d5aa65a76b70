"""The wire: what agents, workloads, the service and its clients say to each other. Versioned.

Times named `..._unix_seconds` are wall clock and only label; every duration and offset is monotonic.
All models refuse unknown keys and non-finite numbers.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tokenstone.day import Day
from tokenstone.run import RunState, WorkloadSpec

SCHEMA_VERSION = 1

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]*$")]
"""Names of clusters, nodes and devices: what host names and UUIDs are made of."""
RunId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*$")]
"""Names of runs: they stand in paths, so they hold no slash."""
Text = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]
"""Free text. No database keeps the character NUL."""
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Amount = Annotated[float, Field(ge=0, le=1e40)]
UnixSeconds = Annotated[float, Field(ge=0, le=1e11)]
Whole = Annotated[int, Field(ge=0, le=2**53)]
"""Whole numbers as far as every reader of JSON holds them exactly."""
Tokens = Whole
Ratio = Annotated[float, Field(ge=0, le=1)]


class WireModel(BaseModel):
    """What every message shares."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- windows: agent -> service ---------------------------------------------------------------------------------


class Device(WireModel):
    """A device as its driver names it."""

    id: Name
    kind: Literal["accelerator", "host"]
    vendor: Text
    model: Text
    index: Whole = 0
    memory_bytes: Whole | None = None


class Series(WireModel):
    """Identity of one time series of a node. `device` is a device id, or "host"."""

    metric: Name
    device: Name
    labels: dict[str, Text] = Field(default_factory=dict, max_length=8)


class AbsentMetric(WireModel):
    """A metric that the node cannot give, and why."""

    metric: Name
    device: Name
    reason: Text


class WindowBatch(WireModel):
    """One columnar batch of windows. Idempotent by (node, epoch, sequence); entry i of every column is window i."""

    schema_version: Literal[1] = 1
    cluster: Name = "default"
    node: Name
    epoch: Name
    """Drawn anew at each start of an agent; sequences count from 0 within it."""
    sequence: Whole
    devices: list[Device] = Field(default_factory=list, max_length=1024)
    absences: list[AbsentMetric] = Field(default_factory=list, max_length=10_000)
    series: list[Series] = Field(max_length=20_000)
    series_index: list[Annotated[int, Field(ge=0)]] = Field(max_length=200_000)
    start_unix_seconds: list[UnixSeconds]
    duration_seconds: list[Seconds]
    count: list[Annotated[int, Field(ge=1, le=2**53)]]
    mean: list[float | None]
    minimum: list[float | None]
    maximum: list[float | None]
    delta: list[float | None]

    @model_validator(mode="after")
    def _columns_are_even(self) -> Self:
        columns = ("start_unix_seconds", "duration_seconds", "count", "mean", "minimum", "maximum", "delta")
        for name in columns:
            if len(getattr(self, name)) != len(self.series_index):
                raise ValueError(
                    f"column {name} has {len(getattr(self, name))} entries, series_index {len(self.series_index)}"
                )
        if self.series_index and max(self.series_index) >= len(self.series):
            raise ValueError(f"series_index names series {max(self.series_index)} of {len(self.series)}")
        return self


METRICS_ADDRESS = "Tokenstone-Metrics-Address"
"""Header with a batch: HOST:PORT where the agent serves `/metrics`; without a host, where the batch comes from."""


class IngestAnswer(WireModel):
    """What the service says to a batch."""

    status: Literal["accepted", "duplicate"]
    windows: int
    missing_sequences: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = Field(default_factory=list)
    """Ranges [first, last] of this epoch that have not arrived."""
    window_seconds: float = 10.0
    """The window length that the service asks for: 1 s while a run is active on the node."""
    server_unix_seconds: UnixSeconds | None = None
    """The service's clock, so that the agent can tell how far its own is off."""


class NodeView(WireModel):
    """A node as the service knows it: its devices, and what its agent cannot measure there."""

    cluster: str
    name: str
    seen_unix_seconds: float
    """When the last batch arrived."""
    devices: list[Device]
    absences: list[AbsentMetric]


class WindowRow(WireModel):
    """One stored window, as a query answers it."""

    node: str
    device: str
    metric: str
    labels: dict[str, str]
    start_unix_seconds: float
    duration_seconds: float
    count: int
    mean: float | None
    minimum: float | None
    maximum: float | None
    delta: float | None


# --- facts of a run: workload -> service -----------------------------------------------------------------------


class Probe(WireModel):
    """A measured roofline of one device: the peak where no catalogue row is known."""

    device_id: Name
    """As the driver names it (a UUID where there is one), so that telemetry can be joined; "host" for a CPU."""
    device_name: Text
    device_type: Text
    threads: Annotated[int, Field(ge=1)] | None = None
    dtype: Text
    gemm_flops_per_second: Annotated[float, Field(gt=0)]
    memory_bytes_per_second: Annotated[float, Field(gt=0)]
    repetitions: Annotated[int, Field(ge=1)]
    gemm_spread_ratio: Amount
    """(best - median) / best over the repetitions: how steady the machine was."""
    memory_spread_ratio: Amount
    conditions: Text = ""


Activity = Literal[
    "compute", "exposed_communication", "pipeline_bubble", "load_imbalance", "input_stall", "checkpoint",
    "host_overhead", "startup", "recovery", "idle",
]  # fmt: skip
PhaseKind = Literal["startup", "warm_up", "step", "checkpoint", "recovery", "drain"]


class Phase(WireModel):
    """A named interval of one device, and how its seconds divide: exclusive, so they add up to the duration."""

    kind: PhaseKind
    start_seconds: Seconds
    """From the start of the allocation."""
    duration_seconds: Seconds
    activity_seconds: dict[Activity, Seconds]
    steps: Annotated[int, Field(ge=0)] = 0


class DevicePhases(WireModel):
    """The phases of one device, in order of time."""

    device: Name
    phases: list[Phase] = Field(max_length=200_000)


class CollectiveTotal(WireModel):
    """All waits of one kind over the counted steps, of all ranks together."""

    name: Text
    count: Whole
    seconds: Seconds
    """Waited, whether or not something computed meanwhile."""
    sent_bytes: Whole
    buffer_bytes: Whole = 0
    """What the collectives were called with, each rank's own share included: NCCL's S, whose algbw is S / time."""
    transfer_seconds: Seconds = 0.0
    """`seconds` without the wait for slower ranks, as far as that could be told apart."""


Part = Literal[
    "data", "forward", "backward", "backward_input", "backward_weight", "optimizer", "dispatch", "combine",
    "gradient_reduction", "pipeline_wait", "other_communication", "other_work",
]  # fmt: skip
"""Parts of a training step. `backward` is a whole one; schedules that split it have the other two."""


class StepColumns(WireModel):
    """Counted steps as columns: entry i of each is step i."""

    duration_seconds: list[Seconds] = Field(max_length=200_000)
    """The mean over the ranks, as `part_seconds`."""
    loss: list[float]
    gradient_norm: list[Amount]
    """Of the whole model, before clipping."""
    max_violation: list[Amount]
    """MaxVio of this step's batch in the largest layer."""
    part_seconds: dict[Part, list[Seconds]]
    """Mean over the ranks. Where two threads work at once, more than the step took."""

    @model_validator(mode="after")
    def _columns_are_even(self) -> Self:
        steps = len(self.duration_seconds)
        for column in (self.loss, self.gradient_norm, self.max_violation, *self.part_seconds.values()):
            if len(column) != steps:
                raise ValueError(f"a column has {len(column)} entries, duration_seconds {steps}")
        return self


class RankFigures(WireModel):
    """One rank over the counted steps."""

    device: Name
    node: Name | None = None
    """Host name of the node that it was on."""
    part_seconds: dict[Part, Seconds]
    wait_seconds: Seconds
    """Waited for other ranks, for whatever reason and whether or not something computed meanwhile."""
    busy_seconds: Seconds
    """At least one of its threads was in an action of the pipeline schedule, exchanges of experts included."""
    peak_memory_bytes: Whole


class OperandFigures(WireModel):
    """What FP8 quantisation met, of one kind of operand, in the steps in which it was counted."""

    operand: Literal["activation", "weight", "gradient"]
    amax: Amount
    """Largest magnitude before quantisation, of all ranks."""
    underflow_ratio: Annotated[float, Field(ge=0, le=1)] | None
    """Share of the values that were not zero and became zero."""


class TrainingFacts(WireModel):
    """What a training run did. No score: that is the service's."""

    kind: Literal["training"] = "training"
    schema_version: Literal[1] = 1
    started_unix_seconds: UnixSeconds
    allocated_seconds: Annotated[float, Field(gt=0)]
    """Wall time for which each device was held, T."""
    devices: list[DevicePhases] = Field(min_length=1, max_length=100_000)
    tokens: Tokens
    """Tokens trained in counted steps; those of warm-up and of lost work are not."""
    recomputed_flops: Amount = 0.0
    communication: list[CollectiveTotal] = Field(default_factory=list, max_length=100)
    loss_first: float | None = None
    loss_last: float | None = None
    max_violation: Amount | None = None
    """MaxVio over the counted steps: (largest expert load - mean) / mean, the largest layer (arXiv 2408.15664)."""
    steps: StepColumns | None = None
    ranks: list[RankFigures] = Field(default_factory=list, max_length=100_000)
    expert_load: list[list[Whole]] = Field(default_factory=list, max_length=10_000)
    """Tokens of the counted steps that each expert got, layer by layer."""
    schedule_seconds: Seconds | None = None
    """From the beginning of a step until its last rank has done its last action, over the counted steps; None
    without a pipeline. Of it, a rank's bubble is what it was not busy."""
    fp8: list[OperandFigures] = Field(default_factory=list, max_length=3)
    restarts: Whole = 0
    """How often the training went on after its processes had died."""
    lost_steps: Whole = 0
    """Steps that were done again after that."""
    failed_checkpoints: Whole = 0
    """Checkpoints that could not be written, after which the training went on."""
    probe: Probe | None = None
    provenance: dict[str, Text] = Field(default_factory=dict, max_length=50)


_OPTIONAL_COLUMNS = frozenset(
    {"scheduler_seconds", "sampler_seconds", "detokenizer_seconds", "activated_experts", "drafted_tokens",
     "accepted_tokens", "cache_used_ratio", "preemptions"}
)  # fmt: skip


class Iterations(WireModel):
    """Engine iterations as columns. Model, communication and host seconds are exclusive parts of the duration."""

    start_seconds: list[Seconds] = Field(default_factory=list, max_length=500_000)
    duration_seconds: list[Seconds] = Field(default_factory=list)
    model_seconds: list[Seconds] = Field(default_factory=list)
    communication_seconds: list[Seconds] = Field(default_factory=list)
    host_seconds: list[Seconds] = Field(default_factory=list)
    flops: list[Amount] = Field(default_factory=list)
    bytes: list[Amount] = Field(default_factory=list)
    prefill_flops: list[Amount] = Field(default_factory=list)
    """The part of `flops` done for prefill; splits a mixed iteration between input and output."""
    recomputed_tokens: list[Tokens] = Field(default_factory=list)
    requests: list[list[Annotated[int, Field(ge=0)]]] = Field(default_factory=list)
    """Indices into the run's requests: who took part."""
    request_tokens: list[list[Tokens]] = Field(default_factory=list)
    """Tokens that each of them had prefilled or decoded here; guesses that proved wrong are none."""
    # What an engine may also tell: a whole column, or an empty one.
    scheduler_seconds: list[Seconds] = Field(default_factory=list)
    """Parts of the host seconds, as the next two."""
    sampler_seconds: list[Seconds] = Field(default_factory=list)
    detokenizer_seconds: list[Seconds] = Field(default_factory=list)
    activated_experts: list[Whole] = Field(default_factory=list)
    """Experts that had at least one of these tokens, summed over layers."""
    drafted_tokens: list[Tokens] = Field(default_factory=list)
    """Guesses that were checked (speculative decoding), and those of them that proved right."""
    accepted_tokens: list[Tokens] = Field(default_factory=list)
    cache_used_ratio: list[Ratio] = Field(default_factory=list)
    """Pages of the cache that requests hold, of all pages."""
    preemptions: list[Whole] = Field(default_factory=list)

    @model_validator(mode="after")
    def _columns_are_even(self) -> Self:
        lengths = {name: len(getattr(self, name)) for name in type(self).model_fields}
        if len({length for name, length in lengths.items() if length or name not in _OPTIONAL_COLUMNS}) > 1:
            raise ValueError(f"columns differ in length: {lengths}")
        for members, tokens in zip(self.requests, self.request_tokens, strict=True):
            if len(members) != len(tokens):
                raise ValueError("an iteration names more requests than token counts, or fewer")
        return self


class Histogram(WireModel):
    """Many durations in little room: bucket i holds what lies between `growth`^(i-1) and `growth`^i seconds.

    A percentile read from it is wrong by half a bucket at most: 0.5 %.
    """

    growth: Annotated[float, Field(gt=1, le=2)] = 1.01
    buckets: dict[int, Annotated[int, Field(gt=0)]] = Field(default_factory=dict, max_length=10_000)
    sum_seconds: Seconds = 0.0


RequestError = Literal[
    "connect", "timeout", "rate_limited", "wrong_model", "context_exceeded", "refused", "server_error", "closed",
    "malformed", "empty", "stopped",
]  # fmt: skip
"""What became of a request that failed:

`connect` nobody answers there · `timeout` no answer in time · `rate_limited` 429 · `wrong_model` the endpoint does not
serve that model · `context_exceeded` longer than the model's context · `refused` another 4xx · `server_error` 5xx ·
`closed` the stream ended before the answer did · `malformed` not the protocol · `empty` an answer without a token ·
`stopped` under way or not yet sent when the whole run was ended.
"""


class RequestTimes(WireModel):
    """Requests as columns; times from the start of the allocation. None where a request never got so far."""

    arrival_seconds: list[Seconds] = Field(default_factory=list, max_length=500_000)
    """When the request was due, whether or not the client could send it then."""
    first_token_seconds: list[Seconds | None] = Field(default_factory=list)
    end_seconds: list[Seconds | None] = Field(default_factory=list)
    """The last token, or the moment at which the request failed."""
    input_tokens: list[Tokens] = Field(default_factory=list)
    cached_input_tokens: list[Tokens] = Field(default_factory=list)
    output_tokens: list[Tokens] = Field(default_factory=list)
    error: list[RequestError | None] = Field(default_factory=list)
    """Why a request failed; empty where none did."""

    @model_validator(mode="after")
    def _columns_are_even(self) -> Self:
        lengths = {name: len(getattr(self, name)) for name in type(self).model_fields}
        if not self.error:
            del lengths["error"]
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}")
        return self

    @property
    def failed(self) -> list[bool]:
        """Whether each request failed."""
        return [error is not None for error in self.error] if self.error else [False] * len(self.arrival_seconds)


class ClientLag(WireModel):
    """How late the load generator itself was; a client that cannot keep up measures itself."""

    send_p99_seconds: Seconds
    """From the scheduled instant of a request to its first byte on the way."""
    loop_p99_seconds: Seconds
    """How late the client's event loop woke up: the error of every instant it took."""
    limit_seconds: Seconds
    """Above this the client counts as saturated."""

    @property
    def saturated(self) -> bool:
        """Whether the client was too slow for the load it was to make."""
        return max(self.send_p99_seconds, self.loop_p99_seconds) > self.limit_seconds


class InferenceFacts(WireModel):
    """What a serving run did: phases outside serving, engine iterations, requests. No score."""

    kind: Literal["inference"] = "inference"
    schema_version: Literal[1] = 1
    started_unix_seconds: UnixSeconds
    allocated_seconds: Annotated[float, Field(gt=0)]
    device_count: Annotated[int, Field(ge=1)]
    """Devices that worked in lock step through every iteration."""
    startup_seconds: Seconds
    """Init, load, compile and warm-up, per device."""
    iterations: Iterations
    iterations_known: bool = True
    """False for an endpoint that does not tell what its engine did."""
    devices_known: bool = True
    """False where nobody said on how many devices an endpoint runs."""
    requests: RequestTimes
    inter_token: Histogram | None = None
    """Gaps between the tokens of every request (ITL)."""
    client: ClientLag | None = None
    expert_load: list[list[Whole]] | None = None
    """Tokens of each expert of each expert layer, start-up included; None where it was not counted."""
    probe: Probe | None = None
    provenance: dict[str, Text] = Field(default_factory=dict, max_length=50)

    @model_validator(mode="after")
    def _requests_exist(self) -> Self:
        known = len(self.requests.arrival_seconds)
        for members in self.iterations.requests:
            if members and max(members) >= known:
                raise ValueError(f"an iteration names request {max(members)} of {known}")
        return self


Facts = Annotated[TrainingFacts | InferenceFacts, Field(discriminator="kind")]


# --- runs ------------------------------------------------------------------------------------------------------


class RunDevice(WireModel):
    """A device that a run was given. `hardware` is a catalogue name, or None where it is not known."""

    id: Name
    node: Name
    model: Text = ""
    hardware: Name | None = None


class RunCreate(WireModel):
    """Ask for a run; idempotent by `run_id`, which the client draws."""

    run_id: RunId
    cluster: Name = "default"
    spec: WorkloadSpec
    devices: list[RunDevice] = Field(min_length=1, max_length=100_000)
    lease_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """A run whose client is silent for longer is failed by the service: a dead client leaves no run open."""


class RunChange(WireModel):
    """Move a run on, or (with its present state) say that its client is alive."""

    state: RunState
    reason: Text = ""


class RunView(WireModel):
    """A run as the service shows it."""

    run_id: str
    cluster: str
    spec_id: str
    spec: WorkloadSpec
    devices: list[RunDevice]
    state: RunState
    reason: str
    created_unix_seconds: float
    started_unix_seconds: float | None
    ended_unix_seconds: float | None


class PriceChoice(WireModel):
    """The price to score a run with: dollars per device-hour, or a row of a stored price book; neither is no price."""

    usd_per_device_hour: Amount | None = None
    price_book: Text | None = None
    price_row: Text | None = None


# --- operating the service -------------------------------------------------------------------------------------


class KeyScope(StrEnum):
    """What a key may do. `admin` may do everything."""

    INGEST = "ingest"
    READ = "read"
    ADMIN = "admin"


class KeyCreate(WireModel):
    """Ask for an API key. Without a cluster it is for all of them; an admin's key always is."""

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    scopes: list[KeyScope] = Field(min_length=1, max_length=3)
    cluster: Name | None = None
    expires_unix_seconds: UnixSeconds | None = None

    @model_validator(mode="after")
    def _admins_have_no_cluster(self) -> Self:
        if self.cluster is not None and KeyScope.ADMIN in self.scopes:
            raise ValueError("a key for one cluster cannot have the scope admin")
        return self


class KeyView(WireModel):
    """A key as lists show it: never the key itself."""

    prefix: str
    name: str
    scopes: list[KeyScope]
    cluster: str | None
    created_unix_seconds: float
    expires_unix_seconds: float | None
    revoked_unix_seconds: float | None


class KeyMade(KeyView):
    """A new key, told this once."""

    key: str


class DatedPrice(WireModel):
    """What devices cost from a day on: a figure, or a price book.

    Without `price_row`, a book prices each device by its one row for the device's hardware.
    """

    effective_from: Day
    usd_per_device_hour: Annotated[float, Field(ge=0, le=1e6)] | None = None
    price_book: Annotated[Text, Field(min_length=1)] | None = None
    """NAME, whose latest version counts, or NAME@VERSION."""
    price_row: Text | None = None

    @model_validator(mode="after")
    def _is_one_price(self) -> Self:
        if (self.usd_per_device_hour is None) == (self.price_book is None):
            raise ValueError("give either usd_per_device_hour or price_book")
        if self.price_row is not None and self.price_book is None:
            raise ValueError("price_row is a row of price_book, which is not given")
        return self


class ClusterPrice(DatedPrice):
    """What the devices of a cluster cost from a day on."""

    cluster: Name


class AuditEntry(WireModel):
    """One act of an administrator. `actor` is the prefix of a key, "local", or "command line"."""

    number: int
    at_unix_seconds: float
    actor: str
    action: str
    target: str
    detail: str
    request_id: str


class TargetGroup(WireModel):
    """Agents that Prometheus is to scrape, in the form of its HTTP service discovery."""

    targets: list[str]
    labels: dict[str, str]


Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """Some of a list, in its order. `next_cursor` asks for what follows; None is the end."""

    items: list[Item]
    next_cursor: str | None = None


class Problem(BaseModel):
    """RFC 9457 problem document."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    hint: str = ""
