"""Rows as messages of fewer bytes: FP8 on the way to the experts, BF16 on the way back.

arXiv 2412.19437, section 3.3.3: what goes out (activations before the experts; backward, gradients of the combined
rows) is FP8; what comes home and is added up (outputs; backward, gradients of the dispatched rows) is BF16.

A message is one uint8 tensor (P, bytes per row), since collectives carry bytes everywhere and float8 nowhere safely,
and one message costs one latency. Row p holds all that is needed to decode row p, so rows can be split, sent and
gathered in any way. Layout 1 of an FP8 row of D values, T = ceil(D / 128) tiles, in the byte order of the machine:

    bytes  0 ... 4T                fp32 scale of each tile
    bytes 4T ... 4T + D            e4m3 payload
           then up to 3 zero bytes, so that the next row's scales are aligned

A BF16 row holds its D values and nothing else. At D = 7168 a row is 7,392 bytes in FP8, 14,336 in BF16, 28,672 in fp32.

Shape suffixes: P rows, D model, T tiles of a row, X bytes of a row's message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tokenstone.errors import InvalidValue
from workloads.training.precision.blocks import BLOCK, TILE, Quantized, quantize

LAYOUT = 1
"""Version of the FP8 layout above. Ranks of one run have the same; it is not sent."""


class Codec(Protocol):
    """Turns rows of `dim` values into messages and back."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's message."""

    def encode(self, rows_PD: Tensor) -> Tensor:
        """rows_PD of any floating dtype -> message_PX, contiguous uint8."""

    def decode(self, message_PX: Tensor, dtype: torch.dtype) -> Tensor:
        """message_PX -> rows_PD in `dtype`."""


@dataclass(frozen=True, slots=True)
class Fp8:
    """e4m3 with an fp32 scale per 128 values. Not finite values make their tile NaN; see `blocks`."""

    dim: int

    @property
    def tiles(self) -> int:
        """Scales of a row."""
        return -(-self.dim // BLOCK)

    @property
    def row_bytes(self) -> int:
        """4 per tile, 1 per value, filled up to a multiple of 4."""
        return 4 * self.tiles + self.dim + self._fill

    @property
    def _fill(self) -> int:
        return -self.dim % 4

    def encode(self, rows_PD: Tensor) -> Tensor:
        """Quantise, then lay scales and payload side by side."""
        rows = quantize(_checked(rows_PD, self.dim), TILE)
        parts = (rows.scale.view(torch.uint8), rows.payload, rows.payload.new_zeros(len(rows_PD), self._fill))
        return torch.cat(parts, dim=1)

    def decode(self, message_PX: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The rows as they were quantised."""
        return self.quantized(message_PX).dequantize().to(dtype)

    def quantized(self, message_PX: Tensor) -> Quantized:
        """The rows still in FP8, for a multiplication that takes them so; its payload is a view."""
        message_PX = _checked(message_PX, self.row_bytes)
        scales, payload, _ = message_PX.split((4 * self.tiles, self.dim, self._fill), dim=1)
        return Quantized(payload, scales.contiguous().view(torch.float32), TILE)


@dataclass(frozen=True, slots=True)
class Cast:
    """Rows in another format without scales."""

    dim: int
    format: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Those of its values."""
        return self.dim * self.format.itemsize

    def encode(self, rows_PD: Tensor) -> Tensor:
        """Round to the format."""
        return _checked(rows_PD, self.dim).detach().to(self.format).contiguous().view(torch.uint8)

    def decode(self, message_PX: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The rounded values."""
        return _checked(message_PX, self.row_bytes).contiguous().view(self.format).to(dtype)


def bf16(dim: int) -> Cast:
    """What DeepSeek-V3 combines in."""
    return Cast(dim, torch.bfloat16)


def fp32(dim: int) -> Cast:
    """Lossless: the baseline."""
    return Cast(dim, torch.float32)


def _checked(matrix: Tensor, columns: int) -> Tensor:
    if matrix.ndim != 2 or matrix.shape[1] != columns:
        raise InvalidValue(f"a tensor of {tuple(matrix.shape)}", where="codec", hint=f"rows of {columns} were expected")
    return matrix
