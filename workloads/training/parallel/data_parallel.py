"""What ranks with different data agree on once per step: gradients, their norm, and the experts' load.

The loss of a step is the mean over the tokens of all data-parallel ranks, and each rank computed the gradient of the
mean over its own. For what every rank holds, the gradient is therefore the mean over the ranks. An expert has seen
the tokens of its whole expert-parallel group already: its gradients are summed over its replicas only, and divided
by the same number of ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from workloads.moe.router import Router
from workloads.training.parallel.communication import CommunicationLog, collective
from workloads.training.parallel.expert_parallel import sharded_parameters
from workloads.training.parallel.fsdp import local
from workloads.training.parallel.layout import Groups

BUCKET_BYTES = 25 * 2**20
"""Gradients are reduced in flat buckets of about this size, the default of torch's DistributedDataParallel."""


def reduce_gradients(module: nn.Module, groups: Groups, log: CommunicationLog) -> None:
    """Turn each rank's gradients into those of the mean loss, in place. A parameter without one counts as zero."""
    sharded = sharded_parameters(module)
    identities = {id(parameter) for parameter in sharded}
    replicated = [parameter for parameter in module.parameters() if id(parameter) not in identities]
    for parameters, group in ((replicated, groups.data), (sharded, groups.expert_replicas)):
        for bucket in _buckets([p for p in parameters if not isinstance(p, DTensor)]):  # fsdp has reduced those
            _reduce_bucket(bucket, group, groups.layout.data, log)


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    filled = 0
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        filled += parameter.grad.nbytes
        if filled >= BUCKET_BYTES:
            yield bucket
            bucket, filled = [], 0
    if bucket:
        yield bucket


def _reduce_bucket(gradients: list[Tensor], group: dist.ProcessGroup, divisor: int, log: CommunicationLog) -> None:
    if dist.get_world_size(group) == 1:
        for gradient in gradients:
            gradient.div_(divisor)
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    all_reduce(flat, group, log, "gradient_reduction")
    reduced = flat.div_(divisor).split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(like) for part, like in zip(reduced, gradients, strict=True)])


def all_reduce(x: Tensor, group: dist.ProcessGroup, log: CommunicationLog, name: str) -> None:
    """Replace `x` by its sum over the ranks of `group`."""
    ranks = dist.get_world_size(group)
    sent_bytes = 2 * (ranks - 1) * x.nbytes // ranks
    wait = log.waiting(name, "exposed_communication", sent_bytes=sent_bytes, buffer_bytes=x.nbytes)
    with wait, collective(name):
        dist.all_reduce(x, group=group)


def add_copies(parameter: nn.Parameter, groups: Groups, log: CommunicationLog) -> None:
    """Give the first and the last pipeline rank, which both hold `parameter`, the sum of their gradients."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    first, last = 0, groups.layout.pipeline - 1
    name, nbytes, group = "embedding_reduction", parameter.grad.nbytes, groups.pipeline
    with log.waiting(name, "exposed_communication", sent_bytes=nbytes), collective(name):
        if groups.pipeline_rank == last:
            dist.send(parameter.grad, group=group, group_dst=first)
            dist.recv(parameter.grad, group=group, group_src=first)
        else:
            others = torch.empty_like(parameter.grad)
            dist.recv(others, group=group, group_src=last)
            parameter.grad += others
            dist.send(parameter.grad, group=group, group_dst=last)


@torch.no_grad()
def clip_gradients(
    module: nn.Module,
    largest_norm: float,
    groups: Groups,
    log: CommunicationLog,
    copies: Collection[nn.Parameter] = (),
) -> Tensor:
    """Scale this rank's gradients so that the norm of the whole model's is at most `largest_norm`.

    Returns the norm before, in which `copies` do not count. Call it after `reduce_gradients`; every rank takes part.
    """
    uncounted = {id(parameter) for parameter in copies}
    sharded = {id(parameter) for parameter in sharded_parameters(module)}
    squares = torch.zeros(2, dtype=torch.float64, device=next(module.parameters()).device)
    for parameter in module.parameters():
        if parameter.grad is not None and id(parameter) not in uncounted:
            norm = torch.linalg.vector_norm(local(parameter.grad)).double()
            held_in_parts = id(parameter) in sharded or isinstance(parameter, DTensor)
            squares[int(held_in_parts)] += norm.square()
    replicated, parts = squares[0:1].clone(), squares[1:2].clone()
    fsdp = any(isinstance(parameter, DTensor) for parameter in module.parameters())
    all_reduce(parts, groups.data if fsdp else groups.experts_backward, log, "gradient_norm")
    total = replicated + parts
    all_reduce(total, groups.pipeline, log, "gradient_norm")
    norm = total.sqrt()[0]
    scale_down([local(p.grad) for p in module.parameters() if p.grad is not None], norm, largest_norm)
    return norm


def scale_down(gradients: list[Tensor], norm: Tensor, largest_norm: float) -> None:
    """Multiply so that `norm` becomes `largest_norm`, if it is larger."""
    if norm.device.type == "cpu" and norm <= largest_norm:
        return  # saves a pass over all gradients; an accelerator would have to be waited for to know
    scale = torch.clamp(largest_norm / (norm + 1e-6), max=1.0)
    torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))


def take_load(module: nn.Module, groups: Groups, log: CommunicationLog) -> Tensor:
    """Tokens of all data-parallel ranks that each expert has had since the last call, (expert layers, E).

    One all-reduce for all layers of this rank. The layers are in the order of `routers`.
    """
    counted = [router.take_load() for router in routers(module)]
    if not counted:  # a stage of dense layers only
        return torch.zeros(0, 0, dtype=torch.int64)
    load = torch.stack(counted)
    all_reduce(load, groups.data, log, "expert_load")
    return load


def routers(module: nn.Module) -> list[Router]:
    """The routers in `module`, in order of its layers."""
    return [part for part in module.modules() if isinstance(part, Router)]
