"""The names of torch that are not public yet, all in one place: its pipeline runtime and FSDP's collectives.

They were tried with torch 2.13. Another version may have renamed them; then this is the one file to change.
"""

from __future__ import annotations

import torch

from tokenstone.errors import WorkloadFailed

try:
    from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, Comm, ReduceScatter
    from torch.distributed.pipelining.schedules import (
        BACKWARD_INPUT,
        BACKWARD_WEIGHT,
        FORWARD,
        FULL_BACKWARD,
        OVERLAP_F_B,
        _Action,
        _PipelineContext,
        _PipelineScheduleRuntime,
    )
    from torch.distributed.pipelining.stage import _PipelineStageBase
except ImportError as error:
    raise WorkloadFailed(
        f"torch {torch.__version__} lacks {error.name or error} of torch.distributed",
        where="training on several ranks", hint="use torch 2.13, or one rank",
    ) from error  # fmt: skip

Action = _Action
PipelineContext = _PipelineContext
PipelineScheduleRuntime = _PipelineScheduleRuntime
PipelineStageBase = _PipelineStageBase

__all__ = [
    "BACKWARD_INPUT",
    "BACKWARD_WEIGHT",
    "FORWARD",
    "FULL_BACKWARD",
    "OVERLAP_F_B",
    "Action",
    "AllGather",
    "Comm",
    "PipelineContext",
    "PipelineScheduleRuntime",
    "PipelineStageBase",
    "ReduceScatter",
]
