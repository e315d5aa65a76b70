"""The model against Hugging Face's DeepseekV3ForCausalLM with the same weights: logits and gradients."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenstone.model import Experts, LatentAttention, ModelShape
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it warns of at import is its own business
    transformers = pytest.importorskip("transformers", reason="the comparison needs transformers: pip install it")


def shape(*, query_rank: int | None = 24, groups: int = 4, active_groups: int = 2, shared: int = 2) -> ModelShape:
    return ModelShape(
        name="compared", layers=3, dim=64, vocabulary=96, ffn_dim=80,
        attention=LatentAttention(heads=4, query_rank=query_rank, kv_rank=32, nope_dim=16, rope_dim=8, value_dim=12),
        experts=Experts(
            routed=16, shared=shared, active=3, dim=48, dense_layers=1, groups=groups, active_groups=active_groups,
            route_scale=2.5,
        ),
    )  # fmt: skip


def huggingface(model: MoeModel, shape: ModelShape) -> Any:
    """Their model with our weights. Both turn neighbouring pairs of the rotary part, so no row is permuted."""
    a, e = model.config.attention, model.config.experts
    config = transformers.DeepseekV3Config(
        vocab_size=shape.vocabulary, hidden_size=shape.dim, intermediate_size=shape.ffn_dim,
        moe_intermediate_size=e.dim, num_hidden_layers=shape.layers, num_attention_heads=a.heads,
        num_key_value_heads=a.heads, n_shared_experts=e.shared, n_routed_experts=e.routed,
        routed_scaling_factor=e.route_scale,
        kv_lora_rank=a.kv_rank, q_lora_rank=a.query_rank, qk_rope_head_dim=a.rope_dim, v_head_dim=a.value_dim,
        qk_nope_head_dim=a.nope_dim, n_group=e.groups, topk_group=e.active_groups, num_experts_per_tok=e.active,
        first_k_dense_replace=e.dense_layers, norm_topk_prob=True, rope_interleave=True,
        rms_norm_eps=model.config.norm_epsilon, num_mtp_layers=0, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": model.config.rope_theta},
    )  # fmt: skip
    theirs = transformers.DeepseekV3ForCausalLM(config)
    theirs.load_state_dict(translated(model))
    return theirs.eval()


_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attention.query_down.0.weight": "self_attn.q_a_proj.weight",
    "attention.query_down.1.weight": "self_attn.q_a_layernorm.weight",
    "attention.latent_down.weight": "self_attn.kv_a_proj_with_mqa.weight",
    "attention.latent_norm.weight": "self_attn.kv_a_layernorm.weight",
    "attention.latent_up.weight": "self_attn.kv_b_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "ffn.router.weight_ED": "mlp.gate.weight",
    "ffn.router.bias_E": "mlp.gate.e_score_correction_bias",
    "ffn.routed.gate_up_EDF": "mlp.experts.gate_up_proj",
    "ffn.routed.down_EFD": "mlp.experts.down_proj",
    "ffn.shared.down.weight": "mlp.shared_experts.down_proj.weight",
    "ffn.down.weight": "mlp.down_proj.weight",
}


def translated(model: MoeModel) -> dict[str, Tensor]:
    query_up = "q_b_proj" if model.config.attention.query_rank is not None else "q_proj"
    names = {**_NAMES, "attention.query_up.weight": f"self_attn.{query_up}.weight"}
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        layer, local = "", name
        if name.startswith("blocks."):
            _, index, local = name.split(".", 2)
            layer = f"model.layers.{index}."
        if local.endswith("gate_up.weight"):
            folder = "mlp.shared_experts." if "shared" in local else "mlp."
            gate, up = tensor.chunk(2)
            weights[f"{layer}{folder}gate_proj.weight"], weights[f"{layer}{folder}up_proj.weight"] = gate, up
        else:  # their experts' matrices are stored transposed
            weights[layer + names[local]] = tensor.transpose(1, 2) if "routed" in local else tensor
    return weights


def ours(shape: ModelShape) -> MoeModel:
    """With weights and biases so large that every part matters, and a wrong choice of experts is seen."""
    model = MoeModel(shape, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.1 if parameter.ndim > 1 else 0.3))
        for router in model.routers():
            router.bias_E.copy_(torch.randn(router.bias_E.shape, generator=generator) * 0.2)
    return model


def ids() -> Tensor:
    return torch.randint(96, (2, 24), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    "changes",
    [{}, {"groups": 1, "active_groups": 1}, {"query_rank": None}, {"shared": 1, "groups": 8, "active_groups": 3}],
    ids=["group-limited", "ungrouped", "full-rank-query", "eight-groups"],
)
def test_same_weights_same_logits(changes: dict[str, Any]) -> None:
    model = ours(shape(**changes))
    theirs = huggingface(model, shape(**changes))
    with torch.no_grad():
        torch.testing.assert_close(model(ids()), theirs(ids()).logits, rtol=1e-5, atol=1e-5)


def test_the_groups_and_the_bias_are_what_is_compared() -> None:
    """Without them their logits differ: the agreement above is not for want of a difference."""
    model = ours(shape())
    theirs = huggingface(model, shape())
    with torch.no_grad():
        agreed = theirs(ids()).logits
        for layer in theirs.model.layers[1:]:
            layer.mlp.gate.topk_group = 4
        ungrouped = theirs(ids()).logits
        for layer in theirs.model.layers[1:]:
            layer.mlp.gate.topk_group = 2
            layer.mlp.gate.e_score_correction_bias.zero_()
        unbiased = theirs(ids()).logits
    assert (ungrouped - agreed).abs().max() > 1e-2
    assert (unbiased - agreed).abs().max() > 1e-2


def test_same_weights_same_gradients() -> None:
    model = ours(shape())
    theirs = huggingface(model, shape())
    targets = ids().roll(-1, dims=1)
    for logits in (model(ids()), theirs(ids()).logits):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    for block, layer in zip(model.blocks[1:], theirs.model.layers[1:], strict=True):
        pairs = [
            (block.attention.latent_up.weight, layer.self_attn.kv_b_proj.weight),
            (block.ffn.router.weight_ED, layer.mlp.gate.weight),
        ]
        for mine, other in pairs:
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)
        expected = layer.mlp.experts.gate_up_proj.grad.transpose(1, 2)
        torch.testing.assert_close(block.ffn.routed.gate_up_EDF.grad, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.embedding.weight.grad, theirs.model.embed_tokens.weight.grad, rtol=1e-4, atol=1e-6)


def test_multi_token_prediction_is_theirs() -> None:
    """One depth against their MtpLayer, which joins the embedding before the hidden state."""
    from transformers.modeling_layers import MtpLayer  # noqa: PLC0415  only where transformers is
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek  # noqa: PLC0415

    model, mtp = ours(shape()), MultiTokenPrediction(shape(), seed=6)
    [mine] = mtp.depths
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in mtp.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    theirs = huggingface(model, shape())
    layer = MtpLayer(theirs.config, deepseek.DeepseekV3DecoderLayer, deepseek.DeepseekV3RMSNorm, 2)
    as_block = MoeModel(shape())
    as_block.blocks[2].load_state_dict(mine.block.state_dict())
    block = {
        name.removeprefix("model.layers.2."): tensor
        for name, tensor in translated(as_block).items()
        if name.startswith("model.layers.2.")
    }
    layer.mtp_block.load_state_dict(block)
    hidden_half, embedding_half = mine.project.weight.chunk(2, dim=1)
    layer.eh_proj.weight.data = torch.cat((embedding_half, hidden_half), dim=1)
    for norm, its in (
        (layer.hnorm, mine.hidden_norm),
        (layer.enorm, mine.embedding_norm),
        (layer.post_norm, mine.norm),
    ):
        norm.weight.data = its.weight
    with torch.no_grad():
        hidden = model.hidden(ids())
        [logits] = mtp(hidden, ids(), model.embedding, model.head)
        tokens = logits.shape[1]
        embedded = theirs.model.embed_tokens(ids()[:, 1 : 1 + tokens])
        positions = torch.arange(tokens)[None]
        expected = layer(
            embedded, hidden[:, :tokens], theirs.model.rotary_emb(embedded, positions),
            torch.full((tokens, tokens), float("-inf")).triu(1)[None, None], positions, None,
        )  # fmt: skip
        torch.testing.assert_close(logits, theirs.lm_head(expected), rtol=1e-5, atol=1e-5)
