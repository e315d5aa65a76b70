"""From a model's shape to what its modules need."""

from __future__ import annotations

from dataclasses import dataclass

from tokenstone.errors import InvalidValue
from tokenstone.model import Experts, LatentAttention, ModelShape


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """Sizes of the modules, and the constants that a shape leaves open."""

    layers: int
    dim: int
    vocabulary: int
    ffn_dim: int
    attention: LatentAttention
    experts: Experts
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    initial_deviation: float = 0.02

    @property
    def shared_dim(self) -> int:
        """Width of all shared experts of a layer as one feed-forward."""
        return self.experts.shared and (self.experts.shared_dim or self.experts.shared * self.experts.dim)

    @classmethod
    def of(cls, shape: ModelShape) -> MoeConfig:
        """Read `shape`; raises InvalidValue for a model that is not of this family."""
        attention, experts = shape.attention, shape.experts
        if not isinstance(attention, LatentAttention) or experts is None:
            raise InvalidValue(
                "the reference workload is a mixture of experts with latent attention", where=shape.name,
                hint="use a DeepSeek-style shape such as cpu-small",
            )  # fmt: skip
        if not shape.gated or shape.tied_embedding:
            raise InvalidValue(
                "the reference workload has gated feed-forwards and an untied output head", where=shape.name,
                hint="set gated = true and tied_embedding = false",
            )  # fmt: skip
        if attention.rope_dim % 2:
            raise InvalidValue(
                f"rope_dim {attention.rope_dim} is odd", where=shape.name, hint="rotary embedding turns pairs"
            )
        return cls(shape.layers, shape.dim, shape.vocabulary, shape.ffn_dim, attention, experts)
