"""Compare: clusters and runs side by side, cost against score, with the luck of runs."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.frame import board, choice, cluster, job
from dashboards.ledger import COLORS
from dashboards.panels import matrix_bars, prose, tables, timeseries
from dashboards.queries import SERVICE, now, over_time, stored

SPEC = SERVICE + ',spec_id=~"$spec"'
ALL = ',tokens=~"trained|input and output"'
ABOUT = "cluster, preset, spec_id"
WORDS = (
    "The unit of replication is the run. Intervals are Student's t at 95 % on the logarithms of the newest 20 evaluated "
    "runs of a spec on a cluster, around their geometric mean; below 2 runs there is none, and below 4 a difference should "
    "not be called real. They cover the luck of runs, not that of another day. Overlapping intervals decide nothing: "
    "`GET /v1/compare` tests the ratio (Welch, Holm)."
)


def _spec(metric: str, bound: str = "") -> str:
    return stored(metric, ABOUT, SPEC + (f',bound="{bound}"' if bound else ""))


def _run(metric: str, more: str = "") -> str:
    about = f"max by (cluster, run_id, spec_id, preset) (tokenstone_run_info{{{SPEC}}})"
    figure = f"max by (cluster, run_id) ({metric}{{{SERVICE}{more}}})"
    return f"{figure} * on (cluster, run_id) group_left (spec_id, preset) {about}"


def make() -> Dashboard:
    """Build the board."""
    score, cost = "tokenstone_spec_score_interval", "tokenstone_spec_usd_per_million_tokens_interval"
    seconds = "tokenstone_spec_device_seconds_per_million_tokens_interval"
    head = {"cluster": ("Cluster", "none"), "preset": ("Workload", "none"), "spec_id": ("Spec", "none")}
    clusters = [
        prose("How to read this", WORDS),
        tables(
            "Cost against score, by cluster",
            "Geometric mean over runs, with its 95 % interval. Cheap and efficient is up and right of the others: a low "
            "cost with a high score. A cluster without a price has no cost; device-time is in the next table.",
            now(_spec("tokenstone_spec_runs")), now(_spec(score, "mean")), now(_spec(score, "low")),
            now(_spec(score, "high")), now(_spec(cost, "mean")), now(_spec(cost, "low")), now(_spec(cost, "high")),
            columns={
                **head, "Value #A": ("Runs", "none"),
                "Value #B": ("Score", "none"), "Value #C": ("Score from", "none"), "Value #D": ("Score to", "none"),
                "Value #E": ("$ per M tokens", "currencyUSD"), "Value #F": ("$ from", "currencyUSD"),
                "Value #G": ("$ to", "currencyUSD"),
            },
            sort="Score", size=(24, 8),
        ),
        tables(
            "Device-time per M tokens, by cluster",
            "The same without prices: geometric mean over runs with its 95 % interval.",
            now(_spec("tokenstone_spec_runs")), now(_spec(seconds, "mean")), now(_spec(seconds, "low")),
            now(_spec(seconds, "high")),
            columns={
                **head, "Value #A": ("Runs", "none"), "Value #B": ("Device-time", "s"), "Value #C": ("from", "s"),
                "Value #D": ("to", "s"),
            },
            sort="Device-time", size=(12, 8),
        ),
        matrix_bars(
            "The ledgers side by side", "Shares of allocated device-time of each cluster's latest evaluated run of a "
            "spec. Choose one spec above, so that like is compared with like.", "percentunit",
            now(f"sum by (cluster, category) ({stored('tokenstone_spec_ledger_ratio', 'cluster, spec_id, category', SPEC)})"
                f" / on (cluster) group_left () count by (cluster) (count by (cluster, spec_id) "
                f"(tokenstone_spec_ledger_ratio{{{SPEC}}})) > 1e-9"),
            across="cluster", within="category", colors=COLORS,
        ),
    ]  # fmt: skip
    runs = [
        tables(
            "Runs side by side",
            "The runs that were evaluated last, of all chosen clusters and specs. Only runs of one spec compare as like "
            "with like.",
            now(_run("tokenstone_run_score")),
            now(_run("tokenstone_run_usd_per_million_tokens", ALL)),
            now(_run("tokenstone_run_device_seconds_per_million_tokens", ALL)),
            now(_run("tokenstone_run_tokens_per_second")), now(_run("tokenstone_run_devices")),
            now(_run("tokenstone_run_joules_per_token")),
            now(f"1000 * ({_run('tokenstone_run_started_timestamp_seconds')})"),
            columns={
                "Value #G": ("Began", "dateTimeAsIso"), "cluster": ("Cluster", "none"), "run_id": ("Run", "none"),
                "preset": ("Workload", "none"), "spec_id": ("Spec", "none"), "Value #A": ("Score", "none"),
                "Value #B": ("$ per M tokens", "currencyUSD"), "Value #C": ("Device-time per M tokens", "s"),
                "Value #D": ("Tokens/s", "none"), "Value #E": ("Devices", "none"), "Value #F": ("Energy a token", "joule"),
            },
            sort="Began", size=(24, 9),
        ),
        timeseries(
            "Score over time", "Latest evaluated run of each spec and cluster.", "none",
            over_time(_spec("tokenstone_spec_score"), "{{cluster}} {{preset}} {{spec_id}}"),
        ),
        timeseries(
            "Cost over time", "Dollars per million tokens of the latest evaluated run of each spec and cluster.",
            "currencyUSD",
            over_time(_spec("tokenstone_spec_usd_per_million_tokens"), "{{cluster}} {{preset}} {{spec_id}}"),
        ),
    ]  # fmt: skip
    spec = choice(
        "spec", "Spec", f"label_values(tokenstone_spec_runs{{{SERVICE}}}, spec_id)",
        meaning="Hash of everything that defines the work.",
    )  # fmt: skip
    return board(
        "compare", "Compare", "Clusters and runs side by side: cost against score, with the luck of runs.",
        [job(), cluster(), spec],
        [("Clusters", clusters), ("Runs", runs)], since="now-7d",
    )  # fmt: skip
