"""Fully sharded data parallelism (FSDP2) in the place of averaging whole gradients: ZeRO-3, arXiv 1910.02054.

What every data-parallel rank would hold, weights, gradients and optimizer states, is sharded over them: torch gathers
a block's weights before it is needed and scatters its gradients, summed, as soon as they are there. Experts are
sharded over the ranks already; their replicas, where there are any, share them by FSDP in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from tokenstone.errors import InvalidValue
from workloads.training.parallel.communication import CommunicationLog, collective
from workloads.training.parallel.expert_parallel import ShardedExperts
from workloads.training.parallel.layout import Groups, Layout
from workloads.training.parallel.torch_private import AllGather, Comm, ReduceScatter


def check_fsdp(layout: Layout, micro_batches: int) -> None:
    """Raise InvalidValue for a layout in which weights cannot be sharded so."""
    if layout.pipeline > 1 or micro_batches > 1:
        raise InvalidValue(
            f"fsdp with {layout.pipeline} pipeline ranks and {micro_batches} micro-batches", where="data_parallel",
            hint="use ddp, or one pipeline rank and one micro-batch: fsdp would gather all weights for each of them",
        )  # fmt: skip


def shard_weights(
    stage: nn.Module, blocks: Iterable[nn.Module], groups: Groups, device: torch.device, log: CommunicationLog
) -> None:
    """Shard `stage`, block by block, in place. The parameters become DTensors; torch's hooks do the rest."""
    data = _mesh(groups.data, device)
    experts = [part for part in stage.modules() if isinstance(part, ShardedExperts)]
    if groups.layout.replicas > 1:
        replicas = _mesh(groups.expert_replicas, device)
        for part in experts:
            fully_shard(part, mesh=replicas)
            assert isinstance(part, FSDPModule)
            part.set_gradient_divide_factor(groups.layout.data)  # an expert has seen the tokens of its whole group
            part.set_force_sum_reduction_for_comms(True)  # and divide afterwards: gloo cannot do both at once
        whole: set[nn.Parameter] = set()
    else:
        whole = {parameter for part in experts for parameter in part.parameters()}
    for block in blocks:
        fully_shard(block, mesh=data, ignored_params=whole)
    fully_shard(stage, mesh=data, ignored_params=whole)
    for sharded in stage.modules():
        if isinstance(sharded, FSDPModule):
            sharded.set_custom_all_gather(_AllGather(log))
            sharded.set_custom_reduce_scatter(_ReduceScatter(log))


class _Measured(Comm):
    """Collectives of FSDP's whose waits are recorded. Without `async_op`, as here, the host waits for them on a CPU."""

    def __init__(self, log: CommunicationLog) -> None:
        self._log = log

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def _waiting(self, name: str, whole: Tensor, group: dist.ProcessGroup) -> AbstractContextManager[None]:
        ranks = dist.get_world_size(group)
        sent_bytes = whole.nbytes * (ranks - 1) // ranks
        return self._log.waiting(name, "exposed_communication", sent_bytes=sent_bytes)


class _AllGather(_Measured, AllGather):
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        with self._waiting("weight_gathering", output_tensor, group), collective("weight_gathering"):
            work: dist.Work | None = dist.all_gather_single(output_tensor, input_tensor, group=group, async_op=async_op)
            return work


class _ReduceScatter(_Measured, ReduceScatter):
    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: dist.ReduceOp | dist.ReduceOp.RedOpType,
        async_op: bool = False,
    ) -> dist.Work | None:
        with self._waiting("gradient_reduction", input_tensor, group), collective("gradient_reduction"):
            work: dist.Work | None = dist.reduce_scatter_single(
                output_tensor, input_tensor, group=group, op=op, async_op=async_op
            )
            return work


def _mesh(group: dist.ProcessGroup, device: torch.device) -> DeviceMesh:
    return DeviceMesh.from_group(group, device.type)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; another as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, a collective; another as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
