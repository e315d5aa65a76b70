"""The shape of a model: what FLOPs, bytes and memory are counted from.

Two kinds of attention (latent as in DeepSeek-V2/V3, grouped-query as in Llama) and two kinds of feed-forward
(dense, and experts). Shapes come from the built-in table or from a Hugging Face style `config.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tokenstone.errors import InvalidFile, InvalidValue, UnknownName

Count = Annotated[int, Field(gt=0, le=10**9)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LatentAttention(_Shape):
    """Multi-head latent attention: low-rank query and key-value, a decoupled rotary part."""

    kind: Literal["latent"] = "latent"
    heads: Count
    query_rank: Count | None
    kv_rank: Count
    nope_dim: Count
    rope_dim: Count
    value_dim: Count

    @property
    def query_key_dim(self) -> int:
        """Length of one head's query and key."""
        return self.nope_dim + self.rope_dim

    @property
    def cached_values_per_token(self) -> int:
        """Numbers that one layer keeps for one token."""
        return self.kv_rank + self.rope_dim

    def parameters(self, dim: int) -> int:
        """Weights of one layer's attention, norms left out."""
        query_in = dim if self.query_rank is None else self.query_rank
        query = query_in * self.heads * self.query_key_dim
        if self.query_rank is not None:
            query += dim * self.query_rank
        key_value = dim * self.cached_values_per_token
        key_value += self.kv_rank * self.heads * (self.nope_dim + self.value_dim)
        return query + key_value + self.heads * self.value_dim * dim


class GroupedAttention(_Shape):
    """Grouped-query attention; multi-head when `kv_heads == heads`, multi-query when it is 1."""

    kind: Literal["grouped"] = "grouped"
    heads: Count
    kv_heads: Count
    head_dim: Count

    @model_validator(mode="after")
    def _groups_are_even(self) -> GroupedAttention:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")
        return self

    @property
    def query_key_dim(self) -> int:
        """Length of one head's query and key."""
        return self.head_dim

    @property
    def value_dim(self) -> int:
        """Length of one head's value."""
        return self.head_dim

    @property
    def cached_values_per_token(self) -> int:
        """Numbers that one layer keeps for one token."""
        return 2 * self.kv_heads * self.head_dim

    def parameters(self, dim: int) -> int:
        """Weights of one layer's attention, biases left out."""
        return 2 * dim * self.head_dim * (self.heads + self.kv_heads)


class Experts(_Shape):
    """Fine-grained routed experts and shared ones, in every layer after the first `dense_layers`."""

    routed: Count
    shared: Annotated[int, Field(ge=0)] = 0
    active: Count
    dim: Count
    shared_dim: Annotated[int, Field(ge=0)] | None = None
    dense_layers: Annotated[int, Field(ge=0)] = 0
    groups: Count = 1
    active_groups: Count = 1
    route_scale: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _choice_is_possible(self) -> Experts:
        if self.routed % self.groups:
            raise ValueError(f"{self.routed} routed experts do not divide into {self.groups} groups")
        if self.active_groups > self.groups:
            raise ValueError(f"cannot choose {self.active_groups} of {self.groups} groups")
        if self.active > self.routed // self.groups * self.active_groups:
            raise ValueError(f"{self.active} active experts do not fit in {self.active_groups} groups of {self.groups}")
        return self


class ModelShape(_Shape):
    """Everything about a model that decides how much work a token is."""

    name: str = Field(max_length=200)
    layers: Count
    dim: Count
    vocabulary: Count
    ffn_dim: Annotated[int, Field(ge=0)]
    """Width of a dense layer's feed-forward; 0 where there is no dense layer."""
    gated: bool = True
    """SwiGLU and its kin have three matrices a feed-forward, the classic form two."""
    tied_embedding: bool = False
    attention: Annotated[LatentAttention | GroupedAttention, Field(discriminator="kind")]
    experts: Experts | None = None

    @model_validator(mode="after")
    def _layers_add_up(self) -> ModelShape:
        if self.experts is not None and self.experts.dense_layers >= self.layers:
            raise ValueError(f"{self.experts.dense_layers} dense layers of {self.layers} leave none for experts")
        if self.dense_layers and not self.ffn_dim:
            raise ValueError("there are dense layers, so ffn_dim must be above 0")
        return self

    @property
    def dense_layers(self) -> int:
        """Layers without experts."""
        return self.layers if self.experts is None else self.experts.dense_layers

    @property
    def expert_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers


DEEPSEEK_V3 = ModelShape(
    name="deepseek-v3", layers=61, dim=7168, vocabulary=129280, ffn_dim=18432,
    attention=LatentAttention(heads=128, query_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128),
    experts=Experts(
        routed=256, shared=1, active=8, dim=2048, dense_layers=3, groups=8, active_groups=4, route_scale=2.5
    ),
)  # fmt: skip
"""arXiv 2412.19437, section 4.2."""

LLAMA_3_1_8B = ModelShape(
    name="llama-3.1-8b", layers=32, dim=4096, vocabulary=128256, ffn_dim=14336,
    attention=GroupedAttention(heads=32, kv_heads=8, head_dim=128),
)  # fmt: skip
"""arXiv 2407.21783, table 3."""

LLAMA_3_1_70B = ModelShape(
    name="llama-3.1-70b", layers=80, dim=8192, vocabulary=128256, ffn_dim=28672,
    attention=GroupedAttention(heads=64, kv_heads=8, head_dim=128),
)  # fmt: skip
"""arXiv 2407.21783, table 3."""

CPU_TINY = ModelShape(
    name="cpu-tiny", layers=2, dim=128, vocabulary=512, ffn_dim=256,
    attention=LatentAttention(heads=4, query_rank=48, kv_rank=32, nope_dim=16, rope_dim=8, value_dim=16),
    experts=Experts(routed=16, shared=1, active=2, dim=64, groups=4, active_groups=2),
)  # fmt: skip

CPU_SMALL = ModelShape(
    name="cpu-small", layers=4, dim=256, vocabulary=2048, ffn_dim=512,
    attention=LatentAttention(heads=8, query_rank=96, kv_rank=64, nope_dim=32, rope_dim=16, value_dim=32),
    experts=Experts(routed=16, shared=1, active=2, dim=128, groups=4, active_groups=2),
)  # fmt: skip

MOE_16B = ModelShape(
    name="moe-16b", layers=27, dim=2048, vocabulary=102400, ffn_dim=10944,
    attention=LatentAttention(heads=16, query_rank=None, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128),
    experts=Experts(routed=64, shared=2, active=6, dim=1408, dense_layers=1),
)  # fmt: skip
"""The shape of DeepSeek-V2-Lite: arXiv 2405.04434, appendix B.1."""

MODELS: dict[str, ModelShape] = {
    shape.name: shape for shape in (DEEPSEEK_V3, LLAMA_3_1_8B, LLAMA_3_1_70B, MOE_16B, CPU_TINY, CPU_SMALL)
}


def load(name_or_path: str) -> ModelShape:
    """Return a built-in shape by name, or read a `config.json` (a file, or a folder that holds one).

    Raises UnknownName, or InvalidFile naming the keys that are missing or wrong.
    """
    if name_or_path in MODELS:
        return MODELS[name_or_path]
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return from_config_file(path)
    if path.suffix == ".json" or "/" in name_or_path:
        raise InvalidFile("no such file", where=name_or_path, hint="give a model's config.json or a built-in name")
    raise UnknownName("model", name_or_path, MODELS)


def from_config_file(path: Path) -> ModelShape:
    """Read a Hugging Face style `config.json`."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidFile(f"cannot be read: {error}", where=str(path)) from error
    except ValueError as error:
        raise InvalidFile(f"is not JSON: {error}", where=str(path)) from error
    if not isinstance(config, dict):
        raise InvalidFile("is not a JSON object", where=str(path), hint="give a model's config.json")
    try:
        return from_config(config, name=str(config.get("_name_or_path") or path.parent.name or path.stem))
    except InvalidValue as error:
        raise InvalidFile(error.what, where=str(path), hint=error.hint) from error


_PLAIN_FEED_FORWARD = {"gpt_neox", "opt", "falcon", "phi", "starcoder2", "bloom", "gptj"}
_GATED_ACTIVATIONS = {"silu", "swish", "swiglu", "geglu"}
_GATED_FAMILIES = {"gemma", "gemma2", "gemma3", "gemma3_text", "llama", "mistral", "mixtral", "qwen2", "qwen2_moe",
                   "qwen3", "qwen3_moe", "olmo", "olmo2", "olmoe", "phi3", "deepseek_v2", "deepseek_v3"}  # fmt: skip


def from_config(config: dict[str, Any], *, name: str) -> ModelShape:
    """Translate the keys of a Hugging Face config. Nothing is guessed: a key that decides the count must be there."""
    read = _Keys(config)
    shape: dict[str, Any] = {
        "name": name,
        "layers": read.need("num_hidden_layers"),
        "dim": read.need("hidden_size"),
        "vocabulary": read.need("vocab_size"),
        "tied_embedding": bool(config.get("tie_word_embeddings", False)),
        "gated": _is_gated(config, read),
    }
    heads = read.need("num_attention_heads")
    if "kv_lora_rank" in config:
        shape["attention"] = {
            "kind": "latent",
            "heads": heads,
            "query_rank": config.get("q_lora_rank"),
            "kv_rank": read.need("kv_lora_rank"),
            "nope_dim": read.need("qk_nope_head_dim"),
            "rope_dim": read.need("qk_rope_head_dim"),
            "value_dim": read.need("v_head_dim"),
        }
        if "q_lora_rank" not in config:
            read.missing.append("q_lora_rank")
    else:
        head_dim = config.get("head_dim")
        if head_dim is None and isinstance(heads, int) and isinstance(shape["dim"], int) and heads > 0:
            head_dim = shape["dim"] // heads
        kv_heads = config.get("num_key_value_heads")
        shape["attention"] = {
            "kind": "grouped",
            "heads": heads,
            "kv_heads": heads if kv_heads is None else kv_heads,
            "head_dim": head_dim,
        }
    shape["experts"] = _experts(config, read, shape)
    all_experts = shape["experts"] is not None and shape["experts"]["dense_layers"] == 0
    shape["ffn_dim"] = config.get("intermediate_size", 0) if all_experts else read.need("intermediate_size")
    if read.missing:
        raise InvalidValue(
            f"lacks the keys {', '.join(sorted(set(read.missing)))}",
            where=name,
            hint="they decide the count, so they are not guessed",
        )
    try:
        return ModelShape.model_validate(shape)
    except ValidationError as error:
        raise InvalidValue(_first_problem(error), where=name, hint="check the config's numbers") from error


class _Keys:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.missing: list[str] = []

    def need(self, key: str) -> Any:
        if self.config.get(key) is None:
            self.missing.append(key)
        return self.config.get(key)


def _is_gated(config: dict[str, Any], read: _Keys) -> bool:
    family = config.get("model_type")
    if family in _PLAIN_FEED_FORWARD:
        return False
    if family in _GATED_FAMILIES or "kv_lora_rank" in config or config.get("hidden_act") in _GATED_ACTIVATIONS:
        return True
    read.missing.append("hidden_act (silu) or model_type")
    return False


def _experts(config: dict[str, Any], read: _Keys, shape: dict[str, Any]) -> dict[str, Any] | None:
    routed = config.get("n_routed_experts") or config.get("num_local_experts") or config.get("num_experts")
    if not routed:
        return None
    for key in ("moe_layer_freq", "decoder_sparse_step"):
        if config.get(key, 1) != 1:
            raise InvalidValue(f"{key} = {config[key]!r} is not supported", where=shape["name"], hint="only 1 is")
    mixtral = "num_local_experts" in config and "moe_intermediate_size" not in config
    shared_width = config.get("shared_expert_intermediate_size")
    return {
        "routed": routed,
        "shared": config.get("n_shared_experts") or (1 if shared_width else 0),
        "active": read.need("num_experts_per_tok"),
        "dim": read.need("intermediate_size" if mixtral else "moe_intermediate_size"),
        "shared_dim": shared_width,
        "dense_layers": config.get("first_k_dense_replace", 0),
        "groups": config.get("n_group") or 1,
        "active_groups": config.get("topk_group") or 1,
        "route_scale": config.get("routed_scaling_factor") or 1.0,
    }


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
