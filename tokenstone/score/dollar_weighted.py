"""Dollar-weighted utilization: how busy is the average dollar of hardware?

    sum over resources of (share of the hourly cost) x (utilization)

A balanced cluster scores high; one that overbuys network or accelerators does not. The shares are those of the
owned price's components that buy a resource; what buys none (support, facility, staff, capital, losses) is spread
over them in proportion, which leaves the shares unchanged. A resource that costs money and was not measured makes
the result absent, never zero.

Worked example: accelerators $1.50 at 40 %, network $0.30 at 20 %, hosts $0.20 at 10 %: the shares are 0.75, 0.15
and 0.10, the result is 0.75·0.4 + 0.15·0.2 + 0.10·0.1 = 0.34.
"""

from __future__ import annotations

from collections.abc import Mapping

COMPONENT_RESOURCE: dict[str, str] = {
    "accelerators": "accelerator compute",
    "network": "network",
    "storage": "storage",
    "control_plane": "host CPU",
    "power": "power",
}
"""What each component of an owned price buys, by the panel's names."""


def dollar_weighted_utilization(
    components: Mapping[str, float] | None, utilization: Mapping[str, float | None]
) -> tuple[float | None, str]:
    """Return (ratio, "") or (None, why). `components`: dollars per device-hour; `utilization`: by panel resource.

    >>> dollar_weighted_utilization({"accelerators": 3, "network": 1}, {"accelerator compute": 0.5, "network": 0.25})
    (0.4375, '')
    >>> dollar_weighted_utilization({"accelerators": 1.5}, {"accelerator compute": None})
    (None, 'accelerator compute was not measured')
    """
    if components is None:
        return None, "needs an owned price by component"
    costs = {r: components[c] for c, r in COMPONENT_RESOURCE.items() if components.get(c, 0.0) > 0}
    if not costs:
        return None, "no component of the price buys a resource"
    result = 0.0
    for resource, cost in costs.items():
        used = utilization.get(resource)
        if used is None:
            return None, f"{resource} was not measured"
        result += cost / sum(costs.values()) * used
    return result, ""
