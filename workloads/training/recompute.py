"""Activation recomputation, put around the blocks of a model from outside.

What the backward pass needs of a block is computed again from the block's input rather than kept.

blocks: everything, but for the block's last matrix multiplication, whose result nobody needs again.
cheap: as DeepSeek-V3 does (arXiv 2412.19437, sections 3.2.3 and 3.3.3): norms, the up-projections of latent attention,
    and what is no matrix multiplication (rotary part, SwiGLU, sorting by expert). Results of all other matrix
    multiplications and of attention are kept.

Losses and gradients do not change, and each block is repeated once, also where a schedule splits the backward pass
(`repeat`). A repeated forward pass counts no tokens in the routers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tokenstone.flops import AttentionCount
from tokenstone.model import LatentAttention, ModelShape
from tokenstone.run import TrainingSpec
from workloads.moe import attention
from workloads.moe.router import Router, recomputing
from workloads.training.repeat import run_and_repeat

_aten = torch.ops.aten
_KEPT = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten._grouped_mm.default,
        _aten._scaled_mm.default,
        _aten._scaled_mm_v2.default,
        _aten._scaled_grouped_mm.default,
        _aten._scaled_grouped_mm_v2.default,
        torch.ops.tokenstone.attend_in_blocks.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
    }
)
_projecting_up: ContextVar[bool] = ContextVar("projecting_up", default=False)


class Recompute(StrEnum):
    """How much is computed again in the backward pass."""

    NONE = "none"
    CHEAP = "cheap"
    BLOCKS = "blocks"


def apply_recompute(blocks: nn.ModuleList, how: Recompute) -> None:
    """Wrap each of `blocks` in place, once; names in the state dict stay."""
    for i, block in enumerate(blocks):
        blocks[i] = recomputing_block(block, how)


def recomputing_block(block: nn.Module, how: Recompute) -> nn.Module:
    """`block`, wrapped unless nothing is to be computed again."""
    if how is Recompute.NONE:
        return block
    if how is Recompute.CHEAP:
        for module in block.modules():
            if isinstance(module, attention.LatentAttention):
                _mark(module.query_up)
                _mark(module.latent_up)
    repetitions = _Repetitions(how, dense=not any(isinstance(module, Router) for module in block.modules()))
    wrapped: Any = checkpoint_wrapper(block, checkpoint_fn=repetitions.run)  # torch's wrapper keeps the names
    wrapped.repetitions = repetitions
    return cast(nn.Module, wrapped)


def repeated_flops(module: nn.Module, spec: TrainingSpec, tokens: int) -> float:
    """FLOPs that recomputation has added since the last call, counted as they happened.

    `tokens`: how many each forward pass of a block has had, those of a micro-batch.
    """
    total = 0.0
    for part in module.modules() if spec.recompute != "none" else ():
        repetitions = getattr(part, "repetitions", None)
        if isinstance(repetitions, _Repetitions) and (count := repetitions.take()):
            total += count * tokens * _repeated_flops_per_token(spec.model, spec.sequence_length, repetitions)
    return total


def recomputed_flops(
    model: ModelShape, sequence_length: int, tokens: int, how: Recompute, attention_count: AttentionCount
) -> float:
    """FLOPs that one repetition of every block adds to a step of `tokens`, by the convention of tokenstone.flops
    without router.

    blocks: a forward pass, a third of training_flops, without the output head and the last multiplication of each
    block. cheap: 2 per weight of the up-projections and token; what is no matrix multiplication is not counted.
    """
    if how is Recompute.NONE:
        return 0.0
    layers = [_Repetitions(how, dense=layer < model.dense_layers) for layer in range(model.layers)]
    per_token = (_repeated_flops_per_token(model, sequence_length, layer, attention_count) for layer in layers)
    return sum(per_token) * tokens


def _repeated_flops_per_token(
    model: ModelShape,
    sequence_length: int,
    block: _Repetitions,
    attention_count: AttentionCount = AttentionCount.CAUSAL,
) -> float:
    """Of one block."""
    a = model.attention
    assert isinstance(a, LatentAttention)  # MoeConfig.of has refused any other
    if block.how is Recompute.CHEAP:
        query_in = model.dim if a.query_rank is None else a.query_rank
        return 2.0 * a.heads * (query_in * a.query_key_dim + a.kv_rank * (a.nope_dim + a.value_dim))
    context = sequence_length / 2 if attention_count is AttentionCount.CAUSAL else sequence_length
    scores = 2.0 * a.heads * (a.query_key_dim + a.value_dim) * context
    # Without each block's last multiplication, where only a sum follows: dense, or shared experts' down.
    if block.dense:
        weights = 3 * model.dim * model.ffn_dim - model.dim * model.ffn_dim
    else:
        assert model.experts is not None
        shared = model.experts.shared and (model.experts.shared_dim or model.experts.shared * model.experts.dim)
        weights = 3 * model.dim * (model.experts.active * model.experts.dim + shared) - model.dim * shared
    return 2.0 * (a.parameters(model.dim) + weights) + scores


class _Keeping(TorchDispatchMode):
    """Around a forward pass: keeps the results of `_KEPT` operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.results: list[Any] = []

    def __torch_dispatch__(
        self, operation: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        if _is_kept(operation):
            self.results.append(tree_map_only(Tensor, Tensor.detach, result))
        return result


class _Replaying(TorchDispatchMode):
    """Around a repeated forward pass: takes from `kept` what the first one has kept, in the same order."""

    def __init__(self, kept: _Keeping) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._results = iter(kept.results)  # a list's iterator sees what is appended later

    def __torch_dispatch__(
        self, operation: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if _is_kept(operation):
            return tree_map_only(Tensor, Tensor.detach, next(self._results))
        return operation(*args, **(kwargs or {}))


class _Repetitions:
    """Runs one block, and counts how often it was repeated; its repetitions do not overlap."""

    def __init__(self, how: Recompute, *, dense: bool) -> None:
        self.how, self.dense = how, dense
        self._count = 0

    def take(self) -> int:
        """Repetitions since the last call."""
        count, self._count = self._count, 0
        return count

    def run(self, block: nn.Module, *inputs: Tensor) -> Any:
        """Apply `block`, and again in the backward pass."""
        if self.how is Recompute.CHEAP:
            keeping = _Keeping()
            return run_and_repeat(block, *inputs, first=keeping, again=self._repeating(_Replaying(keeping)))
        return run_and_repeat(block, *inputs, first=nullcontext(), again=self._repeating(nullcontext()))

    @contextmanager
    def _repeating(self, inner: AbstractContextManager[Any]) -> Iterator[None]:
        self._count += 1
        token = recomputing.set(True)
        try:
            with inner:
                yield
        finally:
            recomputing.reset(token)


def _is_kept(operation: Any) -> bool:
    return operation in _KEPT and not _projecting_up.get()


def _mark(module: nn.Module) -> None:
    """Let the policy know when this module multiplies."""

    def begin(*_: Any) -> None:
        _projecting_up.set(True)

    def end(*_: Any) -> None:
        _projecting_up.set(False)

    module.register_forward_pre_hook(begin)
    # Even when torch stops a repeated forward pass by an exception, since it has all it needs.
    module.register_forward_hook(end, always_call=True)
