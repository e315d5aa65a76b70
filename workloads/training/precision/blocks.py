"""Block quantisation to float8 e4m3: one fp32 scale per tile, so that an outlier only costs its own tile.

arXiv 2412.19437, section 3.3.2: activations and gradients in tiles of 1 x 128 along the dimension that is summed
over, weights in blocks of 128 x 128. A block's scale is its largest magnitude / 448, the format's largest number.
Sizes need not be multiples of 128: the last block of a row or column is smaller.

Defined corners: a block of zeros decodes to zeros; a block that holds a NaN or an infinity decodes to NaN
throughout, so that a broken step shows in its loss; blocks whose largest magnitude is below 448 * 2^-126 lose
small values gradually, as fp32 itself does there.

Payloads are uint8, never float8: torch moves, gathers and sends bytes everywhere, float8 only in places.

Shape suffixes: R rows, C columns (the last two dimensions), any number of dimensions before them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FORMAT = torch.float8_e4m3fn
LARGEST = 448.0
"""Largest finite number of e4m3."""
BLOCK = 128
TILE = (1, BLOCK)
"""Rows and columns of an activation's block: along a row."""
COLUMN_TILE = (BLOCK, 1)
"""The same along a column, for a product that sums over rows (the weight gradient)."""
SQUARE = (BLOCK, BLOCK)
"""Of a weight's block."""

_SMALLEST_SCALE = torch.finfo(torch.float32).tiny
# Every byte's value. float8 -> fp32 is slow in torch on CPUs; looking 256 numbers up is several times faster.
_VALUES = torch.arange(256, dtype=torch.uint8).view(FORMAT).float()


class Quantized(NamedTuple):
    """A matrix, or a stack of them, in e4m3."""

    payload: Tensor
    """uint8, (..., R, C): bits of e4m3."""
    scale: Tensor
    """fp32, (..., blocks of R, blocks of C): what a block's payload is multiplied with."""
    block: tuple[int, int]
    """Rows and columns of a block."""

    @property
    def transposed(self) -> Quantized:
        """The transposed matrices; views."""
        rows, columns = self.block
        return Quantized(self.payload.transpose(-2, -1), self.scale.transpose(-2, -1), (columns, rows))

    def unbind(self) -> list[Quantized]:
        """The matrices of a stack, one by one; views."""
        pairs = zip(self.payload.unbind(0), self.scale.unbind(0), strict=True)
        return [Quantized(payload, scale, self.block) for payload, scale in pairs]

    def dequantize(self) -> Tensor:
        """The values, fp32, (..., R, C)."""
        values, factors = _blocked(decode_e4m3(self.payload), self.block), _spread(self.scale)
        return _unblocked(values.mul_(factors), self.payload.shape)


def quantize(x: Tensor, block: tuple[int, int]) -> Quantized:
    """Quantise `x` (..., R, C) of any floating dtype in blocks of `block` rows and columns."""
    x = x.detach().float()
    blocked = _blocked(x, block)
    scale = (_largest_magnitude(blocked) / LARGEST).clamp_min(_SMALLEST_SCALE)
    payload = (blocked * _spread(scale.reciprocal())).to(FORMAT).view(torch.uint8)
    return Quantized(_unblocked(payload, x.shape), scale, block)


def decode_e4m3(payload: Tensor) -> Tensor:
    """The value of each byte, fp32; the same bits as torch's own conversion."""
    if payload.device.type != "cpu":
        return payload.view(FORMAT).float()
    indices = payload.to(torch.int32, memory_format=torch.contiguous_format)
    return torch.index_select(_VALUES, 0, indices.view(-1)).view(payload.shape)


def largest_magnitude(quantized: Quantized) -> Tensor:
    """The largest magnitude that was quantised, a scalar; from the scales alone, so that it costs next to nothing."""
    return quantized.scale.amax() * LARGEST


def count_lost(x: Tensor, quantized: Quantized) -> tuple[Tensor, Tensor]:
    """(values that were not zero, those of them that became zero): underflow; two scalars on the device."""
    kept = torch.count_nonzero(quantized.payload & 0x7F)  # without the sign
    present = torch.count_nonzero(x)
    return present, present - kept


def _effective(block: tuple[int, int], x: Tensor) -> tuple[int, int]:
    """A block that is cut to a matrix smaller than it: saves the padding."""
    return max(1, min(block[0], x.shape[-2])), max(1, min(block[1], x.shape[-1]))


def _blocked(x: Tensor, block: tuple[int, int]) -> Tensor:
    """(..., R, C) -> (..., blocks of R, rows, blocks of C, columns), with zeros where a block is not full."""
    rows, columns = _effective(block, x)
    missing = -x.shape[-2] % rows, -x.shape[-1] % columns
    if any(missing):
        x = F.pad(x, (0, missing[1], 0, missing[0]))
    blocks = x.shape[-2] // rows, rows, x.shape[-1] // columns, columns
    return x.reshape(*x.shape[:-2], *blocks)


def _unblocked(blocked: Tensor, shape: torch.Size) -> Tensor:
    """Back to (..., R, C), without what was filled up."""
    return blocked.flatten(-4, -3).flatten(-2)[..., : shape[-2], : shape[-1]].contiguous()


def _largest_magnitude(blocked: Tensor) -> Tensor:
    """That of each block. Down the columns first, which torch vectorises best; no abs(), which would copy it all."""
    rows = (-3,) if blocked.shape[-3] > 1 else ()
    largest, smallest = blocked, blocked
    for dim in (*rows, -1):
        largest, smallest = largest.amax(dim, keepdim=True), smallest.amin(dim, keepdim=True)
    return torch.maximum(largest, -smallest).squeeze(-1).squeeze(-2)


def _spread(factor: Tensor) -> Tensor:
    """A number per block, shaped to be multiplied with blocks."""
    return factor[..., :, None, :, None]
