"""Activation recomputation, put around the blocks of a model from outside.

What the backward pass needs of a block is computed again from the block's input rather than kept.

blocks: everything, but for the block's last matrix multiplication, whose result nobody needs again.
cheap: as DeepSeek-V3 does (arXiv 2412.19437, sections 3.2.3 and 3.3.3): norms, the up-projections of latent attention,
    and what is no matrix multiplication (rotary part, SwiGLU, sorting by expert). Results of all other matrix
    multiplications and of attention are kept.

Losses and gradients do not change. A repeated forward pass counts no tokens in the routers. A schedule that splits the
backward pass (ZBVZeroBubble, some of DualPipeV's) repeats the forward pass for each half.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from enum import StrEnum
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tokenstone.flops import AttentionCount, count_parameters, training_flops
from tokenstone.model import LatentAttention, ModelShape
from workloads.moe import attention
from workloads.moe.router import recomputing

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
    contexts = _keep_all_but_cheap if how is Recompute.CHEAP else _keep_nothing
    return checkpoint_wrapper(block, context_fn=contexts, preserve_rng_state=False)  # nothing here is random


def recomputed_flops(
    model: ModelShape, sequence_length: int, tokens: int, how: Recompute, attention_count: AttentionCount
) -> float:
    """FLOPs that recomputation adds to a step of `tokens`, by the convention of tokenstone.flops without router.

    For one repetition; the second one of a split backward pass is not counted.

    blocks: a forward pass, a third of training_flops, without the output head and the last multiplication of each
    block. cheap: 2 per weight of the up-projections and token; what is no matrix multiplication is not counted.
    """
    if how is Recompute.NONE:
        return 0.0
    if how is Recompute.CHEAP:
        return 2.0 * _up_projection_weights(model) * tokens
    forward = training_flops(model, sequence_length, attention_count).flops_per_token / 3
    return (forward - 2.0 * count_parameters(model).output_head - 2.0 * _last_weights(model)) * tokens


def _up_projection_weights(model: ModelShape) -> int:
    a = model.attention
    assert isinstance(a, LatentAttention)  # MoeConfig.of has refused any other
    query_in = model.dim if a.query_rank is None else a.query_rank
    return model.layers * a.heads * (query_in * a.query_key_dim + a.kv_rank * (a.nope_dim + a.value_dim))


def _last_weights(model: ModelShape) -> int:
    """Weights of each block's last multiplication, where only a sum follows: dense, or shared experts' down."""
    last = model.dense_layers * model.ffn_dim
    if model.experts is not None and model.experts.shared:
        last += model.expert_layers * (model.experts.shared_dim or model.experts.shared * model.experts.dim)
    return last * model.dim


class _Keeping(TorchDispatchMode):
    """Around a forward pass: keeps the results of `_KEPT` operations.

    In the place of torch's selective checkpointing, which allows one backward pass only, while zero-bubble schedules
    split it in two.
    """

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
        self._kept = kept
        self._results: Iterator[Any] = iter(())

    def __enter__(self) -> Self:
        self._results = iter(self._kept.results)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self, operation: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if _is_kept(operation):
            return tree_map_only(Tensor, Tensor.detach, next(self._results))
        return operation(*args, **(kwargs or {}))


class _Repeating:
    """Around a repeated forward pass, once or, where a schedule splits the backward pass, twice."""

    def __init__(self, inner: AbstractContextManager[Any]) -> None:
        self._inner = inner
        self._tokens: list[Token[bool]] = []

    def __enter__(self) -> None:
        self._tokens.append(recomputing.set(True))
        self._inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)
        recomputing.reset(self._tokens.pop())


def _keep_nothing() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _Repeating(nullcontext())


def _keep_all_but_cheap() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    keeping = _Keeping()
    return keeping, _Repeating(_Replaying(keeping))


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
