"""What `/metrics` says of what the store keeps: runs and specs, the fleet today, nodes. Absent is never zero.

Bounded, whatever has been run: SPEC_RUNS newest runs of a spec on a cluster count for its interval, MOST_RUNS in all;
SHOWN_RUNS runs are shown one by one, and what follows from their facts alone for DETAILED_RUNS of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from api.run_metrics import DETAIL, FAMILIES, Family, Figure, details, figures, ledger_ratios
from api.store.cluster_prices import Pricing
from api.store.engine import Session, Store
from api.store.evaluations import find_facts
from api.store.fleet import device_days
from api.store.inventory import nodes_seen
from api.store.latest import Latest, evaluation_of, latest_evaluations, newest_evaluation
from api.store.runs import count_by_state, get_run
from tokenstone.evaluate import Evaluation
from tokenstone.fleet import GONE_AFTER_SECONDS, SECONDS_PER_DAY, FleetRow, fleet_rows
from tokenstone.score.interval import geometric_interval

MOST_RUNS = 1000
SPEC_RUNS = 20
SHOWN_RUNS = 50
DETAILED_RUNS = 10
FLEET_SECONDS = 60.0
"""The fleet is added up no more often than that."""
_SPEC = ("cluster", "kind", "preset", "spec_id")
_COSTS = ("score", "usd_per_million_tokens", "device_seconds_per_million_tokens")
_MEANINGS = {
    "score": "Score",
    "usd_per_million_tokens": "Cost of a million tokens",
    "device_seconds_per_million_tokens": "Device-seconds of a million tokens",
}


class StoredMetrics(Collector):
    """Reads the store when somebody scrapes. What runs did never changes, and is read once."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self._guard = threading.Lock()
        self._newest = -1
        self._runs: list[GaugeMetricFamily] = []
        self._known: dict[int, tuple[list[Figure], dict[str, float]]] = {}
        self._details: dict[str, list[Figure]] = {}
        self._fleet: list[GaugeMetricFamily] = []
        self._fleet_at = float("-inf")

    def describe(self) -> list[GaugeMetricFamily]:
        """Name nothing beforehand, so that registering does not read the store."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Everything; scrapes that come together wait for one reading."""
        states = GaugeMetricFamily("tokenstone_runs", "Runs by state.", labels=["cluster", "state"])
        seen = GaugeMetricFamily(
            "tokenstone_node_seen_timestamp_seconds",
            "When a node's last batch arrived, seconds since 1970; nodes heard of within seven days.",
            labels=["cluster", "node"],
        )
        now = self._clock()
        with self._guard, self._store.reading() as session:
            for cluster, state, count in count_by_state(session):
                states.add_metric([cluster, state], count)
            for cluster, node, at in nodes_seen(session, since=now - GONE_AFTER_SECONDS):
                seen.add_metric([cluster, node], at)
            newest = newest_evaluation(session)
            if newest != self._newest:
                self._runs, self._newest = list(self._read_runs(session)), newest
            if abs(now - self._fleet_at) >= FLEET_SECONDS:
                self._fleet, self._fleet_at = list(_fleet(session, now)), now
            found = [states, seen, *self._runs, *self._fleet]
        yield from found

    def _read_runs(self, session: Session) -> Iterator[GaugeMetricFamily]:
        latest = latest_evaluations(session, each=SPEC_RUNS, most=MOST_RUNS)
        specs: dict[tuple[str, ...], list[Latest]] = {}
        for found in latest:
            run = found.run
            specs.setdefault((run.cluster, run.spec.kind, run.spec.preset, run.spec_id), []).append(found)
        shown = latest[:SHOWN_RUNS]
        self._read_new(session, [*shown, *(runs[0] for runs in specs.values())], shown[:DETAILED_RUNS])
        yield from _specs(specs, {number: ledger for number, (_, ledger) in self._known.items()})
        yield from _families(
            FAMILIES, f"The newest {SHOWN_RUNS} evaluated runs.", shown, lambda found: self._known[found.number][0]
        )
        yield from _families(
            DETAIL,
            f"The newest {DETAILED_RUNS} evaluated runs.",
            shown[:DETAILED_RUNS],
            lambda found: self._details[found.run.run_id],
        )

    def _read_new(self, session: Session, wanted: Iterable[Latest], detailed: Iterable[Latest]) -> None:
        """Read the bodies that have not been read, and forget those that are not wanted any more."""
        numbers = {found.number: found for found in wanted}
        self._known = {
            number: self._known.get(number) or _read(found, evaluation_of(session, number))
            for number, found in numbers.items()
        }
        names = [found.run.run_id for found in detailed]
        self._details = {name: self._details.get(name) or _read_details(session, name) for name in names}


def _read(found: Latest, evaluation: Evaluation) -> tuple[list[Figure], dict[str, float]]:
    return list(figures(found.run, evaluation)), dict(ledger_ratios(evaluation.ledger))


def _read_details(session: Session, run_id: str) -> list[Figure]:
    facts = find_facts(session, get_run(session, run_id))
    return [] if facts is None else list(details(facts))


def _families(
    families: Mapping[str, Family], which: str, runs: Iterable[Latest], of: Callable[[Latest], Iterable[Figure]]
) -> Iterator[GaugeMetricFamily]:
    made = {
        name: GaugeMetricFamily(f"tokenstone_run_{name}", f"{about} {which}", labels=["cluster", "run_id", *labels])
        for name, (about, labels) in families.items()
    }
    for found in runs:
        for figure in of(found):
            if figure.value is not None:
                made[figure.name].add_metric([found.run.cluster, found.run.run_id, *figure.labels], figure.value)
    yield from made.values()


def _specs(
    specs: Mapping[tuple[str, ...], list[Latest]], ledgers: Mapping[int, Mapping[str, float]]
) -> Iterator[GaugeMetricFamily]:
    """Of each spec on each cluster: the run evaluated last, and how its newest runs spread."""
    counts = GaugeMetricFamily(
        "tokenstone_spec_runs", f"Evaluated runs of a spec, {SPEC_RUNS} at most: those of its intervals.", labels=_SPEC
    )
    ratios = GaugeMetricFamily(
        "tokenstone_spec_ledger_ratio",
        "Share of allocated device-seconds by category, of the newest evaluated run of a spec.",
        labels=[*_SPEC, "category"],
    )
    for labels, runs in specs.items():
        counts.add_metric(labels, len(runs))
        for category, share in ledgers[runs[0].number].items():
            ratios.add_metric([*labels, category], share)
    yield from (counts, ratios)
    for name in _COSTS:
        now = GaugeMetricFamily(
            f"tokenstone_spec_{name}", f"{_MEANINGS[name]} of the newest evaluated run of a spec.", labels=_SPEC
        )
        spread = GaugeMetricFamily(
            f"tokenstone_spec_{name}_interval",
            f"{_MEANINGS[name]}: geometric mean of the newest {SPEC_RUNS} runs of a spec, and its 95 % interval.",
            labels=[*_SPEC, "bound"],
        )
        for labels, runs in specs.items():
            values = [getattr(found, name) for found in runs]
            if values[0] is not None:
                now.add_metric(labels, values[0])
            ends = geometric_interval([value for value in values if value is not None])
            for bound, end in zip(("mean", "low", "high"), ends, strict=True):
                if end is not None:
                    spread.add_metric([*labels, bound], end)
        yield from (now, spread)


def _fleet(session: Session, now: float) -> Iterator[GaugeMetricFamily]:
    """Device-time and money since midnight (UTC)."""
    by = ["cluster", "model"]
    devices = GaugeMetricFamily("tokenstone_fleet_devices", "Accelerators that were there today (UTC).", labels=by)
    seconds = GaugeMetricFamily(
        "tokenstone_fleet_today_device_seconds",
        "Device-seconds since midnight (UTC), busy, idle or unknown: the agent was silent.",
        labels=[*by, "use"],
    )
    held = GaugeMetricFamily(
        "tokenstone_fleet_today_allocated_device_seconds",
        "Device-seconds since midnight (UTC) in which a run of the service held the device.",
        labels=by,
    )
    money = GaugeMetricFamily(
        "tokenstone_fleet_today_usd", "Dollars of those device-seconds, where there is a price.", labels=[*by, "use"]
    )
    price = GaugeMetricFamily("tokenstone_fleet_usd_per_device_hour", "Price in force today.", labels=by)
    today = int(now // SECONDS_PER_DAY)
    days = device_days(session, cluster=None, first_day=today, last_day=today, now=now)
    for row in fleet_rows(days, Pricing(session, None, None)):
        _add_row(row, devices, seconds, held, money, price)
    yield from (devices, seconds, held, money, price)


def _add_row(
    row: FleetRow,
    devices: GaugeMetricFamily,
    seconds: GaugeMetricFamily,
    held: GaugeMetricFamily,
    money: GaugeMetricFamily,
    price: GaugeMetricFamily,
) -> None:
    labels = [row.cluster, row.model]
    devices.add_metric(labels, row.devices)
    held.add_metric(labels, row.hours.allocated * 3600)
    for use in ("busy", "idle", "unknown"):
        seconds.add_metric([*labels, use], getattr(row.hours, use) * 3600)
        if row.usd is not None:
            money.add_metric([*labels, use], getattr(row.usd, use))
    if row.price is not None:
        price.add_metric(labels, row.price.usd_per_device_hour)
