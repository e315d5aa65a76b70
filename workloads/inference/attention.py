"""Latent attention over the cache; the arithmetic of workloads.moe.attention, laid out for serving.

Decode is absorbed: queries are folded into the space of the latents, and all sequences of the window attend in two
batched multiplications. A prompt is expanded where that needs fewer FLOPs than absorbed attention, which is where it
is long or little of it is cached (`plan.expands`).

Shape suffixes as in workloads.moe.attention, and L new tokens of all sequences one after the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.inference.cache import DecodeWindow, PagedCache
from workloads.inference.plan import Decoding, ForwardPlan, Prefilling
from workloads.inference.weights import AttentionWeights


def rotate_pairs(x: Tensor, turns: Tensor) -> Tensor:
    """Turn neighbouring pairs of the last dimension: a multiplication of complex numbers."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def attend(
    w: AttentionWeights, layer: int, x_LD: Tensor, plan: ForwardPlan, cache: PagedCache, window: DecodeWindow
) -> Tensor:
    """x_LD -> y_LD. The new tokens' latents are kept in `cache`, and in `window` where they decode."""
    a = w.shape
    q, c_LC, key_LR = w.project_down(x_LD)
    q_LHK = w.query_up(q).unflatten(-1, (a.heads, a.query_key_dim))
    q_nope_LHN, q_rope_LHR = q_LHK.split((a.nope_dim, a.rope_dim), dim=-1)
    q_rope_LHR = rotate_pairs(q_rope_LHR, plan.turns_L1R)
    latents_LM = torch.cat((c_LC, rotate_pairs(key_LR, plan.turns_LR)), dim=-1)
    cache.write(layer, plan.rows_L, latents_LM)
    parts = []
    if plan.decoding is not None:
        tokens = plan.decoding.tokens
        window.write(layer, plan.decoding.places_L, latents_LM[:tokens])
        parts.append(_decode(w, layer, q_nope_LHN[:tokens], q_rope_LHR[:tokens], plan.decoding, window))
    for part in plan.prefilling:
        here = slice(part.start, part.start + part.sequences * part.new)
        parts.append(_prefill(w, layer, q_nope_LHN[here], q_rope_LHR[here], latents_LM[here], part, cache))
    if not parts:  # nothing to do here, but other ranks wait for this one
        return torch.zeros_like(x_LD)
    return w.output(parts[0] if len(parts) == 1 else torch.cat(parts))


def _absorb(w: AttentionWeights, q_nope_LHN: Tensor, q_rope_LHR: Tensor) -> Tensor:
    """Queries in the space of what is cached, q_LHM."""
    q_LHC = torch.bmm(q_nope_LHN.transpose(0, 1), w.key_up_HNC).transpose(0, 1)
    return torch.cat((q_LHC, q_rope_LHR), dim=-1)


def _value(w: AttentionWeights, o_LHC: Tensor) -> Tensor:
    """From the space of the latents to the heads' values, side by side: o_LX, X = H · V."""
    return torch.bmm(o_LHC.transpose(0, 1), w.value_up_HCV).transpose(0, 1).flatten(1)


def _decode(
    w: AttentionWeights, layer: int, q_nope_LHN: Tensor, q_rope_LHR: Tensor, part: Decoding, window: DecodeWindow
) -> Tensor:
    q_LHM = _absorb(w, q_nope_LHN, q_rope_LHR)
    q_BQM = q_LHM.view(part.sequences, -1, q_LHM.shape[-1])  # Q: the heads of all its new tokens
    latents_BSM = window.read(layer, part.first, part.sequences, part.context)
    if part.contexts is None:
        o_BQC = _attend_absorbed(w, q_BQM, latents_BSM, part.bias_BQS)
        return _value(w, o_BQC.view(len(q_LHM), -1, w.shape.kv_rank))
    outputs = []
    for slot, context in enumerate(part.contexts):
        one = slice(slot, slot + 1)
        outputs.append(_attend_absorbed(w, q_BQM[one], latents_BSM[one, :context], part.bias_BQS[one, :, :context]))
    return _value(w, torch.cat(outputs).view(len(q_LHM), -1, w.shape.kv_rank))


def _attend_absorbed(w: AttentionWeights, q_BQM: Tensor, latents_BSM: Tensor, bias_BQS: Tensor) -> Tensor:
    """o_BQC: weighted latents. Softmax in fp32."""
    if q_BQM.dtype == torch.float32:
        scores_BQS = torch.baddbmm(bias_BQS, q_BQM, latents_BSM.mT, alpha=w.scale)
    else:
        scores_BQS = torch.bmm(q_BQM, latents_BSM.mT).float() * w.scale + bias_BQS
    return torch.bmm(scores_BQS.softmax(dim=-1).to(q_BQM.dtype), latents_BSM[..., : w.shape.kv_rank])


def _prefill(
    w: AttentionWeights,
    layer: int,
    q_nope_LHN: Tensor,
    q_rope_LHR: Tensor,
    latents_LM: Tensor,
    part: Prefilling,
    cache: PagedCache,
) -> Tensor:
    if part.rows_S is None:  # nothing is cached: sequences of one length, each on its own
        latents_BSM = latents_LM.unflatten(0, (part.sequences, part.new))
    else:
        latents_BSM = cache.read(layer, part.rows_S)[None]
    if part.bias_QS is not None and not part.expands:
        q_LHM = _absorb(w, q_nope_LHN, q_rope_LHR)
        o_BQC = _attend_absorbed(w, q_LHM.flatten(0, 1)[None], latents_BSM, part.bias_QS[None])
        return _value(w, o_BQC.view(len(q_LHM), -1, w.shape.kv_rank))
    return _expanded(w, torch.cat((q_nope_LHN, q_rope_LHR), dim=-1), latents_BSM, part)


def _expanded(w: AttentionWeights, q_LHK: Tensor, latents_BSM: Tensor, part: Prefilling) -> Tensor:
    a = w.shape
    c_BSC, key_BSR = latents_BSM.split((a.kv_rank, a.rope_dim), dim=-1)
    kv_BSHX = w.latent_up(c_BSC).unflatten(-1, (a.heads, a.nope_dim + a.value_dim))
    k_nope_BSHN, v_BSHV = kv_BSHX.split((a.nope_dim, a.value_dim), dim=-1)
    k_rope_BSHR = key_BSR[:, :, None, :].expand(-1, -1, a.heads, -1)
    q_BHTK = q_LHK.unflatten(0, (part.sequences, part.new)).transpose(1, 2)
    k_BHSK = torch.cat((k_nope_BSHN, k_rope_BSHR), dim=-1).transpose(1, 2)
    # torch's fused kernels want values as wide as keys; the zeros are cut off again below.
    v_BHSK = F.pad(v_BSHV, (0, max(0, a.query_key_dim - a.value_dim))).transpose(1, 2)
    causal = part.visible_TS is None
    o_BHTV = F.scaled_dot_product_attention(
        q_BHTK, k_BHSK, v_BHSK, attn_mask=part.visible_TS, is_causal=causal, scale=w.scale
    )[..., : a.value_dim]
    return o_BHTV.transpose(1, 2).flatten(0, 1).flatten(1)
