"""Run: where the device-seconds of one training went, what they cost, and what held it back."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.frame import board, cluster, job, run
from dashboards.ledger import COLORS, OUTSIDE_STEPS
from dashboards.panels import Size, bargauges, matrix_bars, stats, tables, timeseries
from dashboards.queries import RUN, SERVICE, now, over_time, stored

DUST = "1e-9"
"""What rounding leaves of a category that has no time."""
SMALL: Size = (4, 4)


def _of_run(metric: str, by: str = "run_id") -> str:
    return stored(metric, by, RUN)


def _of_spec(metric: str, by: str) -> str:
    """A figure of the newest run of the chosen run's spec, as it was at each time."""
    chosen = f"group by (cluster, spec_id) (tokenstone_run_info{{{RUN}}} @ end())"
    return f"{stored(metric, by, SERVICE)} > {DUST} and on (cluster, spec_id) {chosen}"


def make() -> Dashboard:
    """Build the board."""
    ledger, usd = "tokenstone_run_ledger_device_seconds", "tokenstone_run_bill_usd_per_million_tokens"
    in_steps = stored(ledger, "run_id, category", RUN + f',category!~"{OUTSIDE_STEPS}"')
    figures = [
        stats(
            "Score", "100 x ideal device-seconds / allocated ones: of every dollar, how many cents bought work at the "
            "hardware's limit. Absent where the limit is not known.", "none", now(_of_run("tokenstone_run_score")),
            size=SMALL, decimals=1,
        ),
        stats(
            "Cost per M tokens", "Price x allocated device-time / tokens of counted steps. Absent without a price.",
            "currencyUSD", now(f"sum by (run_id) ({_of_run(usd, 'run_id, category')})"), size=SMALL,
        ),
        stats(
            "Device time per M tokens", "Allocated device-time / tokens of counted steps: the cost without a price.", "s",
            now(f"sum by (run_id) ({_of_run('tokenstone_run_bill_device_seconds_per_million_tokens', 'run_id, category')})"),
            size=SMALL,
        ),
        stats(
            "Tokens per second", "Tokens of counted steps / time of those steps, all devices together: the rate that "
            "papers print, without start-up.", "none", now(_of_run("tokenstone_run_step_tokens_per_second")), size=SMALL,
        ),
        stats(
            "Model FLOPs utilization", "FLOPs that the model needs (causal attention) / time of counted steps / peak. It "
            "leaves out start-up and recovery, which the score does not.", "percentunit",
            now(_of_run("tokenstone_run_mfu_ratio")), size=SMALL, decimals=1,
        ),
        stats(
            "Is it valid?", "`valid`, or why the score is not: reason codes of docs/methodology.md.", "none",
            now(f"max by (run_id, validity) (tokenstone_run_info{{{RUN}}})", "{{validity}}"), size=SMALL, shows="name",
        ),
        stats(
            "Goodput: time in counted steps",
            "Share of allocated device-time that was neither start-up, recovery, checkpoint nor idle.", "percentunit",
            now(f"sum by (run_id) ({in_steps}) / sum by (run_id) ({_of_run(ledger, 'run_id, category')})"), size=(4, 4),
            decimals=1,
        ),
        stats(
            "Restarts and lost steps", "How often the training went on after its processes had died, and steps that were "
            "done again after that.", "none", now(_of_run("tokenstone_run_restarts"), "restarts"),
            now(_of_run("tokenstone_run_lost_steps"), "lost steps"), size=(4, 4), shows="value_and_name",
            steps=((None, "green"), (1, "orange")),
        ),
        stats(
            "Step time", "Mean over counted steps.", "s",
            now(f"avg by (run_id) ({_of_run('tokenstone_run_step_seconds', 'run_id, tenth')})"), size=(4, 4),
        ),
        stats(
            "Tokens per second, start-up included", "Tokens of counted steps / allocated time: what the invoice sees.",
            "none", now(_of_run("tokenstone_run_tokens_per_second")), size=(4, 4),
        ),
        stats(
            "Energy per token", "By the devices' own counters; absent unless every device of the run has one.", "joule",
            now(_of_run("tokenstone_run_joules_per_token")), size=(4, 4),
        ),
        stats(
            "Devices", "Devices that the run held.", "none", now(_of_run("tokenstone_run_devices")), size=(4, 4),
        ),
    ]  # fmt: skip
    where = [
        matrix_bars(
            "The ledger through the run",
            "Ten bars for ten equal parts of the run, first to last: how the device-time of each was spent. `compute` is "
            "not divided here into ideal work and the rest, because that is known of the run as a whole only.",
            "s",
            now(f"{stored('tokenstone_run_activity_device_seconds', 'tenth, category', RUN)} > {DUST}"),
            across="tenth", within="category", colors=COLORS,
        ),
        timeseries(
            "The ledger of this spec, run after run",
            "Shares of allocated device-time of the latest evaluated run of the same spec on the same cluster. A step is "
            "a new run: what has become worse since?",
            "percentunit",
            over_time(_of_spec("tokenstone_spec_ledger_ratio", "cluster, spec_id, category"), "{{category}}"),
            stacked="normal", most=1.0, colors=COLORS,
        ),
        bargauges(
            "The bill, in money", "Cost per million tokens by category of the ledger; the lines add up to the cost. "
            "Absent without a price.", "currencyUSD",
            now(f"sort_desc({_of_run(usd, 'category')} > {DUST})", "{{category}}"),
            steps=((None, "yellow"),),
        ),
        bargauges(
            "The bill, in device-time", "Device-time per million tokens by category; the lines add up to the total.", "s",
            now(
                f"sort_desc({_of_run('tokenstone_run_bill_device_seconds_per_million_tokens', 'category')} > {DUST})",
                "{{category}}",
            ),
            steps=((None, "yellow"),),
        ),
    ]  # fmt: skip
    steps = [
        matrix_bars(
            "Step time through the run",
            "Mean time of a counted step, in ten equal parts of the counted steps, first to last.", "s",
            now(stored("tokenstone_run_step_seconds", "tenth, run_id", RUN)), across="tenth", within="run_id",
            size=(12, 8), stacked="none",
        ),
        bargauges(
            "Parts of a step", "Mean over ranks and counted steps. Where two threads work at once, the parts are more "
            "than the step.", "s",
            now(f"sort_desc({_of_run('tokenstone_run_step_part_seconds', 'part')} > 0)", "{{part}}"), size=(12, 8),
            steps=((None, "blue"),),
        ),
    ]  # fmt: skip
    held = [
        stats(
            "Exposed communication", "Share of device-time in which communication ran and no computation: what overlap "
            "did not hide.", "percentunit", now(_of_run("tokenstone_run_exposed_communication_ratio")), size=(4, 7),
            decimals=1, steps=((None, "green"), (0.1, "orange"), (0.25, "red")),
        ),
        tables(
            "Collectives",
            "Waits of all ranks over the counted steps, hidden ones included, and NCCL's algbw: bytes a collective was "
            "called with / its time. Absent where the time without waiting for slower ranks is not known.",
            now(_of_run("tokenstone_run_collective_seconds", "collective")),
            now(_of_run("tokenstone_run_collective_bytes_per_second", "collective")),
            columns={
                "collective": ("Collective", "none"), "Value #A": ("Waited", "s"), "Value #B": ("algbw", "Bps"),
            },
            sort="Waited", size=(10, 7),
        ),
        stats(
            "Expert balance: MaxVio",
            "(largest expert load - mean) / mean, over the counted steps and of each step's batch, in the worst layer "
            "(arXiv 2408.15664). 0 is perfect balance; at 1 the fullest expert has twice the mean.",
            "none", now(_of_run("tokenstone_run_max_violation"), "whole run"),
            now(_of_run("tokenstone_run_max_violation_batch"), "mean of batches"), size=(6, 7), decimals=2,
            shows="value_and_name", steps=((None, "green"), (1, "orange"), (4, "red")),
        ),
        stats(
            "Dead experts", "Experts that no token of a counted step reached, in all layers together.", "none",
            now(_of_run("tokenstone_run_dead_experts")), size=(4, 7), steps=((None, "green"), (1, "red")),
        ),
    ]  # fmt: skip
    resources = [
        tables(
            "Resources against their capacity",
            "Mean and 95th percentile during the run, against the capacity named beside it. Compute is ideal work / "
            "allocated time. A share above 1 says that the stated capacity is wrong.",
            now(_of_run("tokenstone_run_resource_mean_ratio", "resource, capacity")),
            now(_of_run("tokenstone_run_resource_p95_ratio", "resource, capacity")),
            columns={
                "resource": ("Resource", "none"), "Value #A": ("Mean", "percentunit"), "Value #B": ("p95", "percentunit"),
                "capacity": ("Capacity", "none"),
            },
            sort="Mean", bars_of=("Mean", "p95"), size=(14, 9),
        ),
        tables(
            "Not measured, and why", "Resources of this run without a figure. Absent is not zero.",
            now(f"max by (resource, reason) (tokenstone_run_resource_absent{{{RUN}}})"),
            columns={"resource": ("Resource", "none"), "reason": ("Reason", "none")}, size=(10, 9),
        ),
    ]  # fmt: skip
    return board(
        "run", "Run", "Where the device-time of one training went, what it cost, and what held it back.",
        [job(), cluster(), run("training")],
        [("Figures", figures), ("Ledger and bill", where), ("Steps", steps), ("Communication and experts", held),
         ("Resource panel", resources)],
    )  # fmt: skip
