"""FLOPs, parameters and bytes of a token, each with the convention it was counted by.

Training, per token (PaLM's form, arXiv 2204.02311 appendix B, with the two head sizes of latent attention):

    6 N  +  3 · L · 2 · H · (d_qk + d_v) · S            attention over the full sequence
    6 N  +  3 · L · 2 · H · (d_qk + d_v) · S / 2        causal: a token attends to half of them on average

N are the parameters that multiply one token: without the embedding (a look-up), the router and the norms, with
the output head. Multi-token prediction and recomputation are not counted. For DeepSeek-V3 at S = 4096 this is
280.51 and 249.81 GFLOP, which with 272.80 B tokens a day on 2048 H800 gives the published 43.73 and 38.94 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.model import LatentAttention, ModelShape

DTYPE_BYTES: dict[str, float] = {
    "fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "fp4": 0.5,
}  # fmt: skip
"""Bytes of one stored number. Scales of block formats are not counted."""


def dtype_bytes(dtype: str) -> float:
    """Return the bytes of one number of `dtype`; raises UnknownName."""
    try:
        return DTYPE_BYTES[dtype]
    except KeyError:
        raise UnknownName("dtype", dtype, DTYPE_BYTES) from None


class AttentionCount(StrEnum):
    """Whether attention is counted over the whole sequence or only over what a causal mask leaves."""

    FULL = "full"
    CAUSAL = "causal"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters by part. Norm gains and gate biases are left out (0.0002 % of DeepSeek-V3)."""

    embedding: int
    output_head: int
    attention: int
    dense_ffn: int
    routed_experts: int
    active_routed_experts: int
    shared_experts: int
    router: int
    tied: bool

    @property
    def total(self) -> int:
        """All parameters that are stored."""
        head = 0 if self.tied else self.output_head
        parts = self.attention + self.dense_ffn + self.routed_experts + self.shared_experts + self.router
        return self.embedding + head + parts

    @property
    def active(self) -> int:
        """Parameters that multiply one token: no embedding, no router."""
        return self.output_head + self.attention + self.dense_ffn + self.active_routed_experts + self.shared_experts

    @property
    def active_with_router(self) -> int:
        """`active` and the router."""
        return self.active + self.router

    @property
    def active_with_router_and_embedding(self) -> int:
        """`active`, the router and the embedding table."""
        return self.active_with_router + (0 if self.tied else self.embedding)


def count_parameters(model: ModelShape) -> Parameters:
    """Count the parameters of `model` by part.

    >>> from tokenstone.model import DEEPSEEK_V3
    >>> p = count_parameters(DEEPSEEK_V3)
    >>> round(p.total / 1e9, 3), round(p.active / 1e9, 3)
    (671.025, 36.518)
    """
    matrices = 3 if model.gated else 2
    routed = active = shared = router = 0
    if model.experts is not None:
        expert = matrices * model.dim * model.experts.dim
        shared_width = model.experts.shared_dim or model.experts.dim * model.experts.shared
        routed = model.expert_layers * model.experts.routed * expert
        active = model.expert_layers * model.experts.active * expert
        shared = model.expert_layers * matrices * model.dim * shared_width if model.experts.shared else 0
        router = model.expert_layers * model.dim * model.experts.routed
    return Parameters(
        embedding=model.vocabulary * model.dim,
        output_head=model.vocabulary * model.dim,
        attention=model.layers * model.attention.parameters(model.dim),
        dense_ffn=model.dense_layers * matrices * model.dim * model.ffn_dim,
        routed_experts=routed,
        active_routed_experts=active,
        shared_experts=shared,
        router=router,
        tied=model.tied_embedding,
    )


@dataclass(frozen=True, slots=True)
class TokenFlops:
    """FLOPs of training one token and the convention they were counted by."""

    flops_per_token: float
    matmul_flops_per_token: float
    attention_flops_per_token: float
    sequence_length: int
    attention: AttentionCount
    router_counted: bool
    parameters: Parameters

    @property
    def convention(self) -> str:
        """One sentence that fixes what the number means."""
        return (
            f"forward and backward, 6N + attention over S={self.sequence_length} ({self.attention}); "
            f"router {'counted' if self.router_counted else 'not counted'}; embedding, norms, multi-token "
            "prediction and recomputation not counted; output head counted"
        )


def training_flops(
    model: ModelShape, sequence_length: int, attention: AttentionCount, *, count_router: bool = False
) -> TokenFlops:
    """FLOPs of one token's forward and backward pass (the formula on top of this file).

    >>> from tokenstone.model import DEEPSEEK_V3
    >>> round(training_flops(DEEPSEEK_V3, 4096, AttentionCount.CAUSAL).flops_per_token / 1e9, 2)
    249.81
    """
    if not 1 <= sequence_length <= 10**9:
        raise InvalidValue(f"a sequence of {sequence_length} tokens", where="--seq", hint="give 1 to 1,000,000,000")
    parameters = count_parameters(model)
    matmul = 6.0 * (parameters.active_with_router if count_router else parameters.active)
    a = model.attention
    scores = 3.0 * model.layers * 2 * a.heads * (a.query_key_dim + a.value_dim) * sequence_length
    if attention is AttentionCount.CAUSAL:
        scores /= 2
    return TokenFlops(matmul + scores, matmul, scores, sequence_length, attention, count_router, parameters)


def kv_bytes_per_token(model: ModelShape, dtype: str) -> float:
    """Bytes that the key-value cache keeps for one token.

    Latent: (kv_rank + rope) · L · bytes. Grouped: 2 · kv_heads · head_dim · L · bytes.

    >>> from tokenstone.model import DEEPSEEK_V3
    >>> kv_bytes_per_token(DEEPSEEK_V3, "bf16")
    70272.0
    """
    return float(model.attention.cached_values_per_token * model.layers * dtype_bytes(dtype))


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs to do and bytes to move, at the least, for one piece of inference."""

    flops: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


def inference_work(
    model: ModelShape,
    *,
    dtype: str,
    prefill: Sequence[tuple[int, int]] = (),
    decode_contexts: Sequence[int] = (),
    decode_tokens: Sequence[int] | None = None,
    activated_experts: int | None = None,
    sampled: int | None = None,
) -> Work:
    """FLOPs and bytes of one engine iteration, at the least.

    `prefill`: (new tokens, tokens already cached) of each sequence that prefills, so a cached prefix costs a read and
    no weights' FLOPs; `decode_contexts`: the context, new tokens included, of each sequence that decodes;
    `decode_tokens`: tokens that each of them gained, 1 but for accepted speculation (rejected guesses are no work);
    `activated_experts`: routed experts touched, summed over layers, where it was measured (else the most that the
    batch can touch); `sampled`: tokens drawn, where some prompts have not reached their end (else one of each prompt,
    and `decode_tokens`).

    FLOPs: 2 per active parameter and token, the output head only for tokens that are sampled from; attention causal
    in prefill, however it is cut into pieces (expanding cached latents again is an engine's choice, not work), and in
    decode over the whole context (absorbed, over the latent, where attention is latent).
    Bytes: activated weights once, the cache of the context read once, that of the new tokens written once.
    """
    size = dtype_bytes(dtype)
    p = count_parameters(model)
    gained = [1] * len(decode_contexts) if decode_tokens is None else decode_tokens
    new_tokens = sum(new for new, _ in prefill) + sum(gained)
    if not new_tokens:
        return Work(0.0, 0.0)
    drawn = len(prefill) + sum(gained) if sampled is None else sampled
    flops = 2.0 * (p.active - p.output_head) * new_tokens + 2.0 * p.output_head * drawn
    a = model.attention
    expanded = 2.0 * model.layers * a.heads * (a.query_key_dim + a.value_dim)
    absorbed = expanded
    if isinstance(a, LatentAttention):
        absorbed = 2.0 * model.layers * a.heads * (a.cached_values_per_token + a.kv_rank)
    flops += expanded * sum(new * cached + new * (new + 1) / 2 for new, cached in prefill)
    flops += absorbed * sum(
        tokens * context - tokens * (tokens - 1) / 2 for context, tokens in zip(decode_contexts, gained, strict=True)
    )

    weights = p.attention + p.dense_ffn + p.shared_experts + p.router + model.dim * new_tokens
    weights += p.output_head if drawn else 0
    if model.experts is not None:
        most = model.expert_layers * min(model.experts.routed, model.experts.active * new_tokens)
        touched = most if activated_experts is None else activated_experts
        weights += touched * (p.routed_experts // (model.expert_layers * model.experts.routed))
    context_read = sum(cached for _, cached in prefill)
    context_read += sum(context - tokens for context, tokens in zip(decode_contexts, gained, strict=True))
    kv = kv_bytes_per_token(model, dtype) * (context_read + new_tokens)
    return Work(flops, weights * size + kv)


def mfu(flops_per_token: float, tokens_per_second: float, devices: float, peak_flops_per_second: float) -> float:
    """Model FLOPs utilization: FLOPs that the model needs, done per second, against the peak of all devices."""
    return flops_per_token * tokens_per_second / devices / peak_flops_per_second
