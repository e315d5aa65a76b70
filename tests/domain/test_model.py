"""Model shapes from a Hugging Face style config.json: counted right, or refused with the key's name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstone.errors import InvalidFile, UnknownName
from tokenstone.flops import AttentionCount, count_parameters, inference_work, kv_bytes_per_token, training_flops
from tokenstone.model import CPU_SMALL, DEEPSEEK_V3, LLAMA_3_1_8B, load

DEEPSEEK_V3_CONFIG = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5, "moe_layer_freq": 1,
    "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280, "hidden_act": "silu",
    "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_CONFIG = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "hidden_act": "silu",
}  # fmt: skip


@pytest.fixture
def config_file(tmp_path):
    def write(config) -> str:
        path = tmp_path / "config.json"
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        return str(path)

    return write


@pytest.mark.parametrize(("config", "builtin"), [(DEEPSEEK_V3_CONFIG, DEEPSEEK_V3), (LLAMA_CONFIG, LLAMA_3_1_8B)])
def test_config_json_gives_the_built_in_shape(config_file, config, builtin):
    shape = load(config_file(config))
    assert shape.model_copy(update={"name": builtin.name}) == builtin
    assert training_flops(shape, 4096, AttentionCount.FULL) == training_flops(builtin, 4096, AttentionCount.FULL)


def test_a_folder_stands_for_its_config(config_file, tmp_path):
    config_file(LLAMA_CONFIG)
    assert load(str(tmp_path)).layers == 32


def test_mixtral_and_qwen_style_experts(config_file):
    """Mixtral 8x7B: 46.7 B parameters, 12.9 B at work; Qwen3-30B-A3B: 30.5 B and 3.3 B (their model cards)."""
    mixtral = {
        **LLAMA_CONFIG,
        "model_type": "mixtral",
        "vocab_size": 32000,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }
    counted = count_parameters(load(config_file(mixtral)))
    assert counted.total / 1e9 == pytest.approx(46.7, abs=0.05)
    assert counted.active_with_router_and_embedding / 1e9 == pytest.approx(12.9, abs=0.05)
    qwen = {
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "intermediate_size": 6144,
        "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936, "hidden_act": "silu", "decoder_sparse_step": 1,
    }  # fmt: skip
    counted = count_parameters(load(config_file(qwen)))
    assert counted.total / 1e9 == pytest.approx(30.5, abs=0.05)
    assert counted.active_with_router_and_embedding / 1e9 == pytest.approx(3.35, abs=0.05)


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "vocab_size", "kv_lora_rank", "qk_rope_head_dim", "num_experts_per_tok"]
)
def test_a_missing_key_is_named_and_not_guessed(config_file, key):
    config = {k: v for k, v in DEEPSEEK_V3_CONFIG.items() if k != key}
    if key == "kv_lora_rank":
        config[key] = None
    with pytest.raises(InvalidFile, match=key):
        load(config_file(config))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "JSON|read"),
        ({}, "hidden_size"),
        ({**LLAMA_CONFIG, "hidden_size": -4096}, "dim"),
        ({**LLAMA_CONFIG, "num_hidden_layers": "many"}, "layers"),
        ({**LLAMA_CONFIG, "num_key_value_heads": 5}, "evenly"),
        ({**DEEPSEEK_V3_CONFIG, "num_experts_per_tok": 500}, "do not fit"),
        ({**DEEPSEEK_V3_CONFIG, "moe_layer_freq": 2}, "moe_layer_freq"),
        ({k: v for k, v in LLAMA_CONFIG.items() if k not in {"hidden_act", "model_type"}}, "hidden_act"),
    ],
)
def test_bad_configs_are_refused_with_the_reason(config_file, content, message):
    path = config_file(content)
    with pytest.raises(InvalidFile, match=message) as caught:
        load(path)
    assert path in str(caught.value)


def test_unknown_models_list_what_there_is():
    with pytest.raises(UnknownName, match="deepseek-v3"):
        load("deepseek-v4")


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_attention_flops_grow_in_proportion_and_causal_is_half(short, long):
    full = [training_flops(CPU_SMALL, s, AttentionCount.FULL) for s in (short, long)]
    causal = training_flops(CPU_SMALL, short, AttentionCount.CAUSAL)
    assert causal.attention_flops_per_token * 2 == full[0].attention_flops_per_token
    assert full[0].attention_flops_per_token * long == full[1].attention_flops_per_token * short


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=64))
def test_a_decode_batch_reads_the_weights_once(contexts):
    """Two halves of a batch move the weights twice, the whole batch once; the FLOPs are the same."""
    experts = CPU_SMALL.expert_layers * CPU_SMALL.experts.routed
    whole = inference_work(CPU_SMALL, dtype="fp32", decode_contexts=contexts, activated_experts=experts)
    twice = whole + inference_work(CPU_SMALL, dtype="fp32", decode_contexts=contexts, activated_experts=experts)
    double = inference_work(CPU_SMALL, dtype="fp32", decode_contexts=contexts * 2, activated_experts=experts)
    assert double.flops == pytest.approx(twice.flops)
    assert double.bytes < twice.bytes
    kv = kv_bytes_per_token(CPU_SMALL, "fp32") * sum(contexts)
    assert whole.bytes > kv


def test_a_chunked_prefill_does_the_same_attention():
    """Prefill in one piece and in two are the same work but for the head, which runs once a piece."""
    one = inference_work(CPU_SMALL, dtype="fp32", prefill=[(100, 0)])
    two = inference_work(CPU_SMALL, dtype="fp32", prefill=[(60, 0)]) + inference_work(
        CPU_SMALL, dtype="fp32", prefill=[(40, 60)]
    )
    assert two.flops - one.flops == pytest.approx(2 * CPU_SMALL.vocabulary * CPU_SMALL.dim)


def test_accepted_guesses_are_the_flops_of_as_many_steps_and_read_the_cache_once() -> None:
    together = inference_work(
        CPU_SMALL, dtype="fp32", decode_contexts=[102], decode_tokens=[2], activated_experts=10
    )  # fmt: skip
    one, other = (
        inference_work(CPU_SMALL, dtype="fp32", decode_contexts=[context], activated_experts=10)
        for context in (101, 102)
    )  # fmt: skip
    assert together.flops == one.flops + other.flops
    weights = inference_work(CPU_SMALL, dtype="fp32", decode_contexts=[1], activated_experts=10).bytes
    kv = kv_bytes_per_token(CPU_SMALL, "fp32")
    assert together.bytes == weights + 101 * kv + 4 * CPU_SMALL.dim  # one more embedding, 102 latents in all


def test_a_piece_of_a_prompt_that_does_not_end_it_needs_no_head() -> None:
    piece = inference_work(CPU_SMALL, dtype="fp32", prefill=[(60, 0)], sampled=0)
    whole = inference_work(CPU_SMALL, dtype="fp32", prefill=[(60, 0)])
    head = CPU_SMALL.vocabulary * CPU_SMALL.dim
    assert (whole.flops - piece.flops, whole.bytes - piece.bytes) == (2 * head, 4 * head)
