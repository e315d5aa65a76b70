"""Fleet: what tokens cost on each cluster, what idle devices burn, and which nodes are sick."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.frame import board, cluster, job
from dashboards.panels import bargauges, stats, tables, timeseries
from dashboards.queries import SERVICE, now, over_time, stored
from dashboards.sickness import COUNT_SICK_NODES, SICK

IDLE = SERVICE + ',use="idle"'
AGENTS = 'job=~"$job",cluster=~"$cluster"'
SPEC = "cluster, kind, preset, spec_id"
TODAY = "since midnight (UTC)"
BUSY = f"sum(accel_busy_ratio{{{AGENTS}}})"
HERE = f"count(accel_info{{{AGENTS}}})"


def _today(metric: str, by: str, use: str = "") -> str:
    where = SERVICE + (f',use="{use}"' if use else "")
    return f"sum{by} ({stored(metric, 'cluster, model, use', where)})"


def make() -> Dashboard:
    """Build the board."""
    money = [
        stats(
            "Burnt by idle devices today",
            "Price x device-hours in which the agent saw no kernel resident, " + TODAY + ". Devices without a price are "
            "not in it: see the next figure. `PUT /v1/cluster-prices` sets a price.",
            "currencyUSD", now(_today("tokenstone_fleet_today_usd", "", "idle")), size=(5, 4), decimals=2,
        ),
        stats(
            "Idle without a price today",
            "Idle device-time, " + TODAY + ", of devices that have no price, and so are not in the money beside.",
            "s",
            now(
                f"sum({stored('tokenstone_fleet_today_device_seconds', 'cluster, model', IDLE)} "
                f"unless on (cluster, model) {stored('tokenstone_fleet_usd_per_device_hour', 'cluster, model')}) "
                f"or 0 * {_today('tokenstone_fleet_today_device_seconds', '', 'idle')}"
            ),
            size=(5, 4),
        ),
        stats(
            "Devices", "Accelerators that agents see now.", "none", now(HERE), size=(3, 4),
        ),
        stats(
            "Busy", "Of each second, the share in which a kernel was resident, added up over the devices: devices' "
            "worth of business. It says nothing of how well the kernels use the device.",
            "none", now(BUSY), size=(3, 4), decimals=1,
        ),
        stats(
            "Allocated, but idle", "Devices that a job holds and on which no kernel is resident now. Known only where a "
            "job manager (Slurm, Kubernetes) tells the agent who holds what.",
            "none", now(f"sum(accel_allocated_idle_ratio{{{AGENTS}}})"), size=(4, 4), steps=((None, "green"), (1, "red")),
        ),
        stats(
            "Sick nodes", "Nodes with at least one of the troubles listed below.",
            "none", now(COUNT_SICK_NODES), size=(4, 4), steps=((None, "green"), (1, "red")),
        ),
    ]  # fmt: skip
    cost = [
        tables(
            "Score and cost by cluster",
            "Of each workload spec, the run evaluated last. Score: 100 x ideal device-seconds / allocated ones. Only runs "
            "of one spec compare as like with like.",
            now(stored("tokenstone_spec_score", SPEC)),
            now(stored("tokenstone_spec_usd_per_million_tokens", SPEC)),
            now(stored("tokenstone_spec_device_seconds_per_million_tokens", SPEC)),
            columns={
                "cluster": ("Cluster", "none"), "kind": ("Kind", "none"), "preset": ("Workload", "none"),
                "spec_id": ("Spec", "none"), "Value #A": ("Score of 100", "none"),
                "Value #B": ("Cost per M tokens", "currencyUSD"), "Value #C": ("Device time per M tokens", "s"),
            },
            sort="Cost per M tokens", size=(24, 7),
        ),
        timeseries(
            "Score over time", "Score of the latest evaluated run of each spec, of 100. A step is a new run.", "none",
            over_time(stored("tokenstone_spec_score", SPEC), "{{cluster}} {{preset}} {{spec_id}}"),
        ),
        timeseries(
            "Cost over time", "Per million tokens, of the latest evaluated run of each spec that has a price: all tokens that it "
            "trained, or read and wrote.", "currencyUSD",
            over_time(stored("tokenstone_spec_usd_per_million_tokens", SPEC), "{{cluster}} {{preset}} {{spec_id}}"),
        ),
    ]  # fmt: skip
    use = [
        timeseries(
            "Devices: allocated and busy",
            "There: what agents see. Busy: devices' worth of time with a kernel resident. Allocated: held by a job, where "
            "a job manager tells. The gap from busy to there is paid for and idle.",
            "none",
            over_time(HERE, "there"),
            over_time(BUSY, "busy"),
            over_time(f"sum(accel_allocated_ratio{{{AGENTS}}})", "allocated to a job"),
            over_time(f"sum(accel_allocated_idle_ratio{{{AGENTS}}})", "allocated, but idle"),
            colors={"there": "text", "busy": "green", "allocated to a job": "blue", "allocated, but idle": "red"},
        ),
        bargauges(
            "Device-time today",
            "Busy, idle and unknown add up to the time for which accelerators were there, " + TODAY + ". Unknown is not "
            "idle: the agent was silent. Held by runs: by the runs that the service knows.",
            "s",
            now(f"sum by (use) ({stored('tokenstone_fleet_today_device_seconds', 'cluster, model, use')})", "{{use}}"),
            now(_today("tokenstone_fleet_today_allocated_device_seconds", ""), "held by runs"),
        ),
        timeseries(
            "Money burnt by idle devices, by cluster",
            "Price x idle device-hours since midnight (UTC); it begins again from 0 each day.", "currencyUSD",
            over_time(_today("tokenstone_fleet_today_usd", " by (cluster)", "idle"), "{{cluster}}"),
        ),
        timeseries(
            "Runs", "Runs that the service knows, by state.", "none",
            over_time(f"sum by (state) ({stored('tokenstone_runs', 'cluster, state')})", "{{state}}"), stacked="normal",
        ),
    ]  # fmt: skip
    sick = [
        tables(
            "What is wrong",
            "What is wrong now, and on which device. Each trouble has an alert, with what to do: docs/runbooks.md.",
            now(SICK),
            columns={
                "cluster": ("Cluster", "none"), "node": ("Node", "none"), "device": ("Device", "none"),
                "problem": ("Trouble", "none"), "detail": ("Detail", "none"),
            },
            size=(16, 9),
        ),
        tables(
            "Nodes last heard of",
            "Time since the service took in a node's last batch. An agent sends one every window, 10 s by default.",
            now(f"time() - {stored('tokenstone_node_seen_timestamp_seconds', 'cluster, node')}"),
            columns={"cluster": ("Cluster", "none"), "node": ("Node", "none"), "Value #A": ("Silent for", "s")},
            sort="Silent for", size=(8, 9), steps={"Silent for": ((None, "green"), (120, "orange"), (600, "red"))},
        ),
    ]  # fmt: skip
    return board(
        "fleet", "Fleet",
        "What a token costs on each cluster, what idle devices burn, and which nodes are sick.",
        [job(), cluster()],
        [("Now", money), ("Score and cost", cost), ("Allocated, busy, idle", use), ("Health", sick)],
        since="now-24h",
    )  # fmt: skip
