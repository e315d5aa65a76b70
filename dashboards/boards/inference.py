"""Inference: what requests waited, what tokens cost, and how the engine is doing now."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.frame import board, cluster, job, run
from dashboards.panels import bargauges, stats, tables, timeseries
from dashboards.queries import RUN, SERVICE, now, over_time, rate, stored

JOB = 'job=~"$job"'
TPOT = SERVICE + ',measure="tpot",statistic="p50"'
LATENCY = "tokenstone_run_latency_seconds"


def _of_run(metric: str, by: str = "run_id", more: str = "") -> str:
    return stored(metric, by, RUN + more)


def _cost(tokens: str) -> str:
    return _of_run("tokenstone_run_usd_per_million_tokens", more=f',tokens="{tokens}"')


def _quantile(q: float, histogram: str) -> str:
    return f"histogram_quantile({q}, sum by (le) ({rate(histogram + '_bucket', JOB)}))"


def _live(title: str, meaning: str, histogram: str, size: int) -> object:
    return timeseries(
        title, meaning, "s",
        *(over_time(_quantile(q, histogram), f"p{100 * q:.0f}") for q in (0.5, 0.95, 0.99)), size=(size, 7),
    )  # fmt: skip


def make() -> Dashboard:
    """Build the board."""
    figures = [
        stats(
            "Input, per M tokens", "Price x device-time that prefill caused / input tokens, cached ones included. Shared "
            "time is split between input and output by measured time, never counted twice.", "currencyUSD",
            now(_cost("input")), size=(4, 4),
        ),
        stats(
            "Output, per M tokens", "Price x device-time that decode caused / output tokens.", "currencyUSD",
            now(_cost("output")), size=(4, 4),
        ),
        stats(
            "Output within the objective, per M", "The output's cost borne only by tokens of requests that met the "
            "objective. Absent for a run without an objective, or where no request met it.", "currencyUSD",
            now(_cost("output within the objective")), size=(4, 4),
        ),
        stats(
            "Goodput", "Requests that met every limit of the objective / all requests; a failed one has missed it.",
            "percentunit", now(_of_run("tokenstone_run_goodput_ratio")), size=(4, 4), decimals=1,
            steps=((None, "red"), (0.9, "orange"), (0.99, "green")),
        ),
        stats(
            "Output tokens per second", "From the first arrival to the last end, all devices together.", "none",
            now(_of_run("tokenstone_run_output_tokens_per_second"), "all"),
            now(_of_run("tokenstone_run_goodput_tokens_per_second"), "within the objective"), size=(5, 4),
            shows="value_and_name",
        ),
        stats(
            "Is it valid?", "`valid`, or why the score is not: reason codes of docs/methodology.md.", "none",
            now(f"max by (run_id, validity) (tokenstone_run_info{{{RUN}}})", "{{validity}}"), size=(3, 4), shows="name",
        ),
    ]  # fmt: skip
    columns = {
        f"Value #{letter}": (name, "s")
        for letter, name in zip("ABCDE", ("Mean", "p50", "p90", "p95", "p99"), strict=True)
    }
    waits = [
        tables(
            "What requests waited",
            "Of requests that succeeded. TTFT: first token - arrival, where arrival is when the request was due. TPOT: (E2E "
            "- TTFT) / (tokens - 1). ITL: gaps between tokens. E2E: last token - arrival.",
            *(
                now(_of_run(LATENCY, "measure", f',statistic="{statistic}"'))
                for statistic in ("mean", "p50", "p90", "p95", "p99")
            ),
            columns={"measure": ("Latency", "none"), **columns}, size=(12, 7),
        ),
        tables(
            "Throughput against interactivity",
            "Every run that the service shows. Interactivity is 1 / median TPOT: the tokens per second that one user sees. "
            "More load buys throughput with it.",
            now(f"1 / {stored(LATENCY, 'cluster, run_id', TPOT)}"),
            now(
                f"{stored('tokenstone_run_output_tokens_per_second', 'cluster, run_id')} / "
                f"{stored('tokenstone_run_devices', 'cluster, run_id')}"
            ),
            now(stored("tokenstone_run_batch_requests", "cluster, run_id", SERVICE + ',statistic="mean"')),
            now(stored("tokenstone_run_usd_per_million_tokens", "cluster, run_id", SERVICE + ',tokens="output"')),
            columns={
                "cluster": ("Cluster", "none"), "run_id": ("Run", "none"), "Value #A": ("Tokens/s a user", "none"),
                "Value #B": ("Tokens/s a device", "none"), "Value #C": ("Mean batch", "none"),
                "Value #D": ("Output $/M", "currencyUSD"),
            },
            sort="Tokens/s a user", size=(12, 7),
        ),
    ]  # fmt: skip
    engine = [
        stats(
            "Batch", "Requests in an engine iteration: mean weighted by the iterations' time, and the largest.", "none",
            now(_of_run("tokenstone_run_batch_requests", "statistic"), "{{statistic}}"), size=(6, 4), decimals=1,
            shows="value_and_name",
        ),
        stats(
            "Cache in use", "Pages of the cache that requests hold / all pages, weighted by the iterations' time.",
            "percentunit", now(_of_run("tokenstone_run_cache_used_ratio", "statistic"), "{{statistic}}"), size=(6, 4),
            decimals=1, shows="value_and_name",
        ),
        stats(
            "Input found in the cache", "Input tokens that a shared prefix had already computed / all input tokens.",
            "percentunit", now(_of_run("tokenstone_run_cached_input_ratio")), size=(6, 4), decimals=1,
        ),
        stats(
            "Requests", "Requests of the run, and those that failed.", "none",
            now(_of_run("tokenstone_run_requests"), "all"),
            now(
                f"sum by (run_id) ({_of_run('tokenstone_run_request_errors', 'run_id, error')}) "
                f"or 0 * {_of_run('tokenstone_run_requests')}",
                "failed",
            ),
            size=(6, 4), shows="value_and_name",
        ),
        bargauges(
            "The ledger", "Share of allocated device-time by category.", "percentunit",
            now(
                f"sort_desc(sum by (category) ({_of_run('tokenstone_run_ledger_device_seconds', 'category')}) / on () "
                f"group_left () sum({_of_run('tokenstone_run_ledger_device_seconds', 'category')}) > 1e-9)",
                "{{category}}",
            ),
            steps=((None, "yellow"),), most=1.0, size=(12, 8),
        ),
        timeseries(
            "Cost per million tokens, run after run", "Of the run of each spec evaluated last, by what bears the cost.",
            "currencyUSD",
            over_time(
                stored("tokenstone_spec_usd_per_million_tokens", "cluster, preset, spec_id", SERVICE + ',kind="inference"'),
                "{{cluster}} {{preset}} {{spec_id}}",
            ),
            size=(12, 8),
        ),
    ]  # fmt: skip
    serving = "tokenstone_serving"
    live = [
        _live(
            "Time to first token, now", "From the arrival at the server to the first token; percentiles within a bucket "
            "of the histogram are interpolated.", f"{serving}_time_to_first_token_seconds", 8,
        ),
        _live("Between tokens, now", "Gaps between the tokens of an answer.", f"{serving}_inter_token_latency_seconds", 8),
        _live("Whole requests, now", "From the arrival to the last token.", f"{serving}_request_duration_seconds", 8),
        timeseries(
            "Tokens per second, now", "Input read, of it found in the cache, and output written, by all servers.", "none",
            over_time(f"sum({rate(serving + '_prompt_tokens_total', JOB)})", "input"),
            over_time(f"sum({rate(serving + '_cached_prompt_tokens_total', JOB)})", "of it cached"),
            over_time(f"sum({rate(serving + '_generation_tokens_total', JOB)})", "output"), size=(8, 7),
        ),
        timeseries(
            "Batch and queue, now", "Requests that engines compute, and that wait for a place.", "none",
            over_time(f"sum({serving}_requests_running{{{JOB}}})", "running"),
            over_time(f"sum({serving}_requests_waiting{{{JOB}}})", "waiting"), size=(8, 7),
        ),
        timeseries(
            "Cache in use, now", "Pages of the cache that requests hold / all pages, of each server.", "percentunit",
            over_time(f"{serving}_cache_usage_ratio{{{JOB}}}", "{{instance}} {{model}}"), most=1.0, size=(8, 7),
        ),
    ]  # fmt: skip
    return board(
        "inference", "Inference", "What requests waited, what tokens cost, and how the engine is doing.",
        [job(), cluster(), run("inference")],
        [("Cost and goodput", figures), ("Latency and throughput", waits), ("Engine", engine),
         ("Reference server, live", live)],
    )  # fmt: skip
