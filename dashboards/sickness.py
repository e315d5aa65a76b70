"""What makes a node sick, as one expression: a series for each trouble, with the labels problem and detail."""

from __future__ import annotations

from dashboards.queries import SERVICE, stored

WHERE = 'job=~"$job",cluster=~"$cluster"'
STALE_SECONDS = 600
NOT_THERE = "no .+ is installed.*"
"""Why a source is rightly down: its maker's devices are not on this node."""


def _trouble(expression: str, problem: str, detail: str) -> str:
    named = f'label_replace({expression}, "detail", "$1", "{detail}", "(.*)")'
    return f'max by (cluster, node, device, problem, detail) (label_replace({named}, "problem", "{problem}", "", ""))'


_TROUBLES = (
    (f"accel_healthy_ratio{{{WHERE}}} == 0", "the driver calls the device unhealthy", "none"),
    (f'accel_recovery_action_ratio{{{WHERE},action!="none"}} == 1', "the driver asks for recovery", "action"),
    (f'tokenstone_metric_absent{{{WHERE},metric="accel_busy_ratio",reason=~".*lost.*"}}', "a device is lost", "reason"),
    (f"accel_remap_failed_ratio{{{WHERE}}} == 1", "a row of memory could not be replaced", "none"),
    (f'accel_throttled_ratio{{{WHERE},reason=~"hardware_.*|.*thermal"}} == 1', "the clock is held down", "reason"),
    (
        f"tokenstone_source_up{{{WHERE}}} == 0 unless on (cluster, node, source) "
        f'tokenstone_metric_absent{{{WHERE},reason=~"{NOT_THERE}"}}',
        "a source cannot be read",
        "source",
    ),
    (f"increase(tokenstone_spool_dropped_batches_total{{{WHERE}}}[1h]) > 0", "the spool dropped batches", "none"),
    (
        f"time() - {stored('tokenstone_node_seen_timestamp_seconds', 'cluster, node', SERVICE)} > {STALE_SECONDS}",
        "the agent is silent",
        "none",
    ),
)

SICK = "\nor ".join(_trouble(*trouble) for trouble in _TROUBLES)
_AGENTS = f"count(count by (cluster, node) (tokenstone_source_up{{{WHERE}}}))"
COUNT_SICK_NODES = f"count(count by (cluster, node) ({SICK}))\nor 0 * {_AGENTS}"
"""0 where agents are there and nothing is wrong; nothing where there is no agent."""
