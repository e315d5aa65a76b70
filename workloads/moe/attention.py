"""Multi-head latent attention (MLA): arXiv 2405.04434, section 2.1.

Keys and values of all heads are expanded from one short latent per token, and only the latent is cached. Position
enters through a separate rotary part of the key, which all heads share. Two ways to compute the same thing:

expanded: make every head's keys and values from the latents; cheapest where many new tokens attend to each other
    (training, prefill).
absorbed: fold the key expansion into the query and the value expansion into the output, and attend over the
    latents themselves, as if all heads shared one key and value; reads H times less cache (decode).

Shape suffixes: B sequences, T new tokens, S context (cached and new), D model, H heads, N position-free and R
rotary part of a query or key, V value, C latent, M = C + R what is cached of a token.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from workloads.moe.causal import causal_attention
from workloads.moe.config import MoeConfig
from workloads.moe.fused import RMSNorm


class Cache(Protocol):
    """The latents of a batch's earlier tokens, wherever they are kept: in slots, in pages, ..."""

    positions_BT: Tensor
    """Position of each new token in its sequence."""
    visible_BTS: Tensor | None
    """Which of the context each new token may attend to. None: nothing was cached, the new tokens are all."""

    def extend(self, layer: int, latents_BTM: Tensor) -> Tensor:
        """Keep the new tokens' latents of one layer; return those of the whole context, latents_BSM."""


def rotary_angles(positions_BT: Tensor, rope_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine by which each pair is turned at each position, both (B, T, R/2), in fp32."""
    exponents = torch.arange(0, rope_dim, 2, device=positions_BT.device, dtype=torch.float32) / rope_dim
    angles = positions_BT[..., None].float() * theta**-exponents
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn neighbouring pairs (x0, x1), (x2, x3), ... of the last dimension. `rope` broadcasts against the pairs."""
    turned: Tensor = _Rotate.apply(x, *rope)  # type: ignore[no-untyped-call]
    return turned


class _Rotate(torch.autograd.Function):
    """The gradient of a rotation is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turn(x, cosine, sine)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turn(gradients[0], cosine, -sine), None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """As products of complex numbers: one pass over the rows, where halves with strides take six."""
    real = x.to(torch.promote_types(x.dtype, cosine.dtype))  # there are no complex numbers of 16 bits
    pairs = torch.view_as_complex(real.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(cosine, sine)).flatten(-2).to(x.dtype)


class LatentAttention(nn.Module):
    """Attention of layer `layer`: x_BTD -> y_BTD."""

    def __init__(self, config: MoeConfig, layer: int) -> None:
        super().__init__()
        a = self.shape = config.attention
        self.layer = layer
        self.scale = a.query_key_dim**-0.5
        query_in = config.dim
        self.query_down: nn.Module = nn.Identity()
        if a.query_rank is not None:
            self.query_down = nn.Sequential(
                nn.Linear(config.dim, a.query_rank, bias=False), RMSNorm(a.query_rank, config.norm_epsilon)
            )
            query_in = a.query_rank
        self.query_up = nn.Linear(query_in, a.heads * a.query_key_dim, bias=False)
        self.latent_down = nn.Linear(config.dim, a.cached_values_per_token, bias=False)
        self.latent_norm = RMSNorm(a.kv_rank, config.norm_epsilon)
        self.latent_up = nn.Linear(a.kv_rank, a.heads * (a.nope_dim + a.value_dim), bias=False)
        self.output = nn.Linear(a.heads * a.value_dim, config.dim, bias=False)

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], cache: Cache | None = None) -> Tensor:
        """Attend causally: within `x_BTD`, and to what `cache` holds of the same sequences."""
        q_nope_BTHN, q_rope_BTHR = self._queries(x_BTD, rope)
        latents_BTM = self._latents(x_BTD, rope)
        if cache is None:
            return self._expanded(q_nope_BTHN, q_rope_BTHR, latents_BTM)
        context_BSM = cache.extend(self.layer, latents_BTM)
        if cache.visible_BTS is None:
            return self._expanded(q_nope_BTHN, q_rope_BTHR, latents_BTM)
        return self._absorbed(q_nope_BTHN, q_rope_BTHR, context_BSM, cache.visible_BTS)

    def _queries(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a = self.shape
        q: Tensor = self.query_up(self.query_down(x_BTD))
        nope_BTHN, rope_BTHR = q.unflatten(-1, (a.heads, a.query_key_dim)).split((a.nope_dim, a.rope_dim), dim=-1)
        cosine, sine = rope
        return nope_BTHN, rotate(rope_BTHR, (cosine[..., None, :], sine[..., None, :]))

    def _latents(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        c_BTC, key_BTR = self.latent_down(x_BTD).split((self.shape.kv_rank, self.shape.rope_dim), dim=-1)
        return torch.cat((self.latent_norm(c_BTC), rotate(key_BTR, rope)), dim=-1)

    def _expanded(self, q_nope_BTHN: Tensor, q_rope_BTHR: Tensor, latents_BTM: Tensor) -> Tensor:
        a = self.shape
        c_BTC, key_BTR = latents_BTM.split((a.kv_rank, a.rope_dim), dim=-1)
        kv = self.latent_up(c_BTC).unflatten(-1, (a.heads, a.nope_dim + a.value_dim))
        k_nope_BTHN, v_BTHV = kv.split((a.nope_dim, a.value_dim), dim=-1)
        k_rope_BHTR = key_BTR[:, None].expand(-1, a.heads, -1, -1)
        q_BHTX = torch.cat((q_nope_BTHN.transpose(1, 2), q_rope_BTHR.transpose(1, 2)), dim=-1)
        k_BHTX = torch.cat((k_nope_BTHN.transpose(1, 2), k_rope_BHTR), dim=-1)
        o_BHTV = causal_attention(q_BHTX, k_BHTX, v_BTHV.transpose(1, 2), self.scale)
        return self._project(o_BHTV.transpose(1, 2))

    def _absorbed(self, q_nope_BTHN: Tensor, q_rope_BTHR: Tensor, context_BSM: Tensor, visible_BTS: Tensor) -> Tensor:
        a = self.shape
        up = self.latent_up.weight.unflatten(0, (a.heads, a.nope_dim + a.value_dim))
        key_up_HNC, value_up_HVC = up.split((a.nope_dim, a.value_dim), dim=1)
        q_BTHC = torch.einsum("bthn,hnc->bthc", q_nope_BTHN, key_up_HNC)
        q_BTHM = torch.cat((q_BTHC, q_rope_BTHR), dim=-1)
        scores_BTHS = torch.einsum("bthm,bsm->bths", q_BTHM, context_BSM).float() * self.scale
        scores_BTHS = scores_BTHS.masked_fill(~visible_BTS[:, :, None, :], float("-inf"))
        weights_BTHS = scores_BTHS.softmax(dim=-1).to(context_BSM.dtype)
        o_BTHC = torch.einsum("bths,bsc->bthc", weights_BTHS, context_BSM[..., : a.kv_rank])
        return self._project(torch.einsum("bthc,hvc->bthv", o_BTHC, value_up_HVC))

    def _project(self, o_BTHV: Tensor) -> Tensor:
        y_BTD: Tensor = self.output(o_BTHV.flatten(-2))
        return y_BTD
