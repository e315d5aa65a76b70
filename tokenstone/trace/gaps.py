"""Why a device ran nothing: the cause of each gap between two of its busy intervals.

input          the host was fetching data
synchronise    the host waited for the device before it launched on, so it was not ahead
launch         the host launched the kernel that ends the gap only after the gap had begun
dependency     it had been launched before, and waited on the device: for an event, a stream, its own start
unknown        the trace does not say who launched it
"""

from __future__ import annotations

import numpy as np

from tokenstone.trace.intervals import Floats, Intervals, covered_until

CAUSES = ("input", "synchronise", "launch", "dependency", "unknown")


def gap_causes(
    busy: Intervals, starts: Floats, launches: Floats, synchronisations: Intervals, inputs: Intervals
) -> dict[str, float]:
    """Divide the idle time by cause, microseconds; the parts add up to it.

    `starts`, `launches`: of each device event, its start and that of the host's call (nan where unknown).
    """
    gaps = busy.gaps()
    order = np.argsort(starts, kind="stable")
    ending = order[np.searchsorted(starts[order], gaps.ends)]  # the event that ends each gap
    launched = launches[ending]
    length = gaps.ends - gaps.starts
    fetched = covered_until(inputs, gaps.ends) - covered_until(inputs, gaps.starts)
    rest = length - fetched
    late = launched >= gaps.starts
    # A wait of the host that ended inside the gap, before the launch, is what made the launch late.
    waits = np.searchsorted(synchronisations.ends, launched, side="right") - 1
    waited = late & (waits >= 0)
    if len(synchronisations.ends):
        waited &= synchronisations.ends[np.maximum(waits, 0)] >= gaps.starts
    unknown = np.isnan(launched)
    parts = {
        "input": float(fetched.sum()),
        "synchronise": float(rest[waited].sum()),
        "launch": float(rest[late & ~waited].sum()),
        "dependency": float(rest[~late & ~unknown].sum()),
        "unknown": float(rest[unknown].sum()),
    }
    return {cause: parts[cause] for cause in CAUSES}
