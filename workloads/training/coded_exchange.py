"""An exchange that sends fewer bytes: FP8 or BF16 on the way to the experts, BF16 on the way back."""

from __future__ import annotations

import math

import torch.distributed as dist
from torch import Tensor

from tokenstone.run import TrainingSpec
from workloads.device import torch_dtype
from workloads.training.parallel.communication import CommunicationLog
from workloads.training.parallel.exchange import AllToAll, Pass, Plan
from workloads.training.parallel.layout import Groups
from workloads.training.precision.dispatch import Cast, Codec, Fp8, bf16


class CodedAllToAll(AllToAll):
    """Rows travel as one uint8 message each, coded by one codec outward and another homeward, in both passes."""

    def __init__(
        self,
        forward: dist.ProcessGroup,
        backward: dist.ProcessGroup,
        log: CommunicationLog,
        *,
        outward: Codec,
        homeward: Codec,
        latency_seconds: float = 0.0,
        bytes_per_second: float = math.inf,
    ) -> None:
        super().__init__(forward, backward, log, latency_seconds=latency_seconds, bytes_per_second=bytes_per_second)
        self.outward, self.homeward = outward, homeward

    def dispatch(self, rows_PD: Tensor, plan: Plan, direction: Pass) -> Tensor:
        """Send rows out, coded."""
        message = self.outward.encode(rows_PD)
        arrived = self.transfer(message, plan.sent_R, plan.received_R, direction, "dispatch")
        return self.outward.decode(arrived, rows_PD.dtype)

    def combine(self, rows_QD: Tensor, plan: Plan, direction: Pass) -> Tensor:
        """Bring rows home, coded."""
        message = self.homeward.encode(rows_QD)
        arrived = self.transfer(message, plan.received_R, plan.sent_R, direction, "combine")
        return self.homeward.decode(arrived, rows_QD.dtype)


def make_exchange(spec: TrainingSpec, groups: Groups, log: CommunicationLog) -> AllToAll:
    """The exchange that `spec` asks for."""
    ends = (groups.experts_forward, groups.experts_backward, log)
    latency, rate = spec.simulated_latency_seconds, math.inf
    if spec.link_simulated and spec.link_bits_per_second is not None:
        rate = spec.link_bits_per_second / 8
    if spec.dispatch_precision == "dtype" and spec.combine_precision == "dtype":
        return AllToAll(*ends, latency_seconds=latency, bytes_per_second=rate)
    plain = Cast(spec.model.dim, torch_dtype(spec.dtype))
    codecs: dict[str, Codec] = {"dtype": plain, "bf16": bf16(spec.model.dim), "fp8": Fp8(spec.model.dim)}
    return CodedAllToAll(
        *ends,
        outward=codecs[spec.dispatch_precision],
        homeward=codecs[spec.combine_precision],
        latency_seconds=latency,
        bytes_per_second=rate,
    )
