"""What a rank waited for slower ranks, told apart from what it waited for the link.

In a collective the last rank to come waits for the link alone, and the others for it as well. So of each wait, the
shortest rank's is communication, and what it is longer than that is load imbalance, at its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist

from workloads.training.parallel.communication import Span


def divide_waits(spans: Sequence[Span], group: dist.ProcessGroup, device: torch.device) -> list[Span]:
    """Return `spans` with those of a stream divided. A collective: every rank of `group` calls it after each step.

    The ranks have made the same calls in the same order in each stream, so their n-th waits belong together.
    """
    waits = sorted((span for span in spans if span.stream), key=lambda span: (span.stream, span.start))
    if not waits or dist.get_world_size(group) == 1:
        return list(spans)
    shortest = torch.tensor([span.seconds for span in waits], device=device)
    dist.all_reduce(shortest, op=dist.ReduceOp.MIN, group=group)
    divided = [span for span in spans if not span.stream]
    for span, seconds in zip(waits, shortest.tolist(), strict=True):
        others_came = max(span.start, span.end - seconds)
        if others_came > span.start:
            divided.append(replace(span, activity="load_imbalance", end=others_came, sent_bytes=0))
        divided.append(replace(span, start=others_came))
    return divided
