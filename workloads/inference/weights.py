"""The model's weights as serving uses them: joined where one multiplication does for two, split by head for
absorbed attention. Nothing is copied twice: the model's own parameters become views of the joined ones.

Shape suffixes as in workloads.moe.attention and workloads.moe.experts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.moe.attention import LatentAttention

Linear = Callable[[Tensor], Tensor]
MakeLinear = Callable[[Tensor], Linear]
"""From a weight (O, I) to the multiplication by it: in the weight's format, or in FP8."""


def plain(weight_OI: Tensor) -> Linear:
    """Multiply in the weight's own format."""
    return partial(F.linear, weight=weight_OI)


def join(layers: list[nn.Module]) -> Tensor:
    """The weights of linear layers with the same input as one; theirs become views of it."""
    weights = [layer.weight for layer in layers]
    joined = torch.cat([weight.detach() for weight in weights])  # type: ignore[attr-defined]
    for weight, part in zip(weights, joined.split([len(weight) for weight in weights]), strict=True):
        weight.data = part  # type: ignore[union-attr]
    return joined


class AttentionWeights:
    """Of one layer."""

    def __init__(self, module: LatentAttention, make: MakeLinear) -> None:
        a = self.shape = module.shape
        self.scale = module.scale
        self._query_norm: nn.RMSNorm | None = None
        if isinstance(module.query_down, nn.Sequential):
            down, norm = module.query_down
            assert isinstance(norm, nn.RMSNorm)
            self._query_norm = norm
            self._widths = (a.query_rank or 0, a.kv_rank, a.rope_dim)
            self._down = make(join([down, module.latent_down]))
        else:
            self._widths = (0, a.kv_rank, a.rope_dim)
            self._down = make(module.latent_down.weight.detach())
        self._latent_norm = module.latent_norm
        self.query_up = make(module.query_up.weight.detach())
        self.latent_up = make(module.latent_up.weight.detach())
        self.output = make(module.output.weight.detach())
        up = module.latent_up.weight.detach().unflatten(0, (a.heads, a.nope_dim + a.value_dim))
        self.key_up_HNC, value_up_HVC = up.split((a.nope_dim, a.value_dim), dim=1)
        self.value_up_HCV = value_up_HVC.mT

    def project_down(self, x_LD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What queries are made of, the latents, and the rotary part of the key, which is not turned yet."""
        q, c_LC, key_LR = self._down(x_LD).split(self._widths, dim=-1)
        if self._query_norm is None:
            return x_LD, self._latent_norm(c_LC), key_LR
        return self._query_norm(q), self._latent_norm(c_LC), key_LR
