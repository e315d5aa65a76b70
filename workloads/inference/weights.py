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


def join(first: nn.Linear, second: nn.Linear) -> Tensor:
    """The weights of two linear layers with the same input as one; theirs become views of it."""
    joined = torch.cat((first.weight.detach(), second.weight.detach()))
    first.weight.data, second.weight.data = joined.split((len(first.weight), len(second.weight)))
    return joined


class Norm:
    """RMSNorm in four operations, which is half of its time where there are few tokens:

    x / sqrt(mean(x²) + ε) = x · sqrt(D) / hypot(|x|, sqrt(D · ε))
    """

    def __init__(self, module: nn.RMSNorm) -> None:
        weight = module.weight.detach()
        assert module.eps is not None
        self._module = module
        self._fp32 = weight.dtype == torch.float32
        self._gain_D = weight * len(weight) ** 0.5
        self._least = torch.tensor((len(weight) * module.eps) ** 0.5, device=weight.device)

    def __call__(self, x_LD: Tensor) -> Tensor:
        """x_LD -> x_LD; in other formats than fp32 as torch does it."""
        if not self._fp32:
            return F.rms_norm(x_LD, self._gain_D.shape, self._module.weight, self._module.eps)
        length_L1 = torch.linalg.vector_norm(x_LD, dim=-1, keepdim=True).hypot_(self._least)
        return torch.div(x_LD, length_L1).mul_(self._gain_D)


class AttentionWeights:
    """Of one layer."""

    def __init__(self, module: LatentAttention, make: MakeLinear) -> None:
        a = self.shape = module.shape
        self.scale = module.scale
        self._query_norm: Norm | None = None
        if isinstance(module.query_down, nn.Sequential):
            down, norm = module.query_down
            assert isinstance(down, nn.Linear)
            assert isinstance(norm, nn.RMSNorm)
            self._query_norm = Norm(norm)
            self._widths = (a.query_rank or 0, a.kv_rank, a.rope_dim)
            self._down = make(join(down, module.latent_down))
        else:
            self._widths = (0, a.kv_rank, a.rope_dim)
            self._down = make(module.latent_down.weight.detach())
        self._latent_norm = Norm(module.latent_norm)
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
