"""Multiplication of block-quantised matrices: by the hardware's FP8 units where there are any, else emulated.

Emulated means: the same quantised operands, decoded and multiplied in fp32. Two e4m3 numbers and their product are
exact in fp32, so what differs from hardware is fp32's own rounding: of the scales' products and of the sums, whose
order differs. It costs more time than fp32 itself and is there to learn, on any machine, what FP8 does to a model.

Which one a device gets is found out by trying, once per device, and by comparing the results: an engine that runs
but multiplies something else (another layout of the scales, say) is not used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.moe.experts import choose_multiply
from workloads.training.precision.blocks import BLOCK, FORMAT, SQUARE, TILE, Quantized, quantize

MatrixProduct = Callable[[Quantized, Quantized], Tensor]
"""(a_MK in TILE, b_NK in TILE or SQUARE) -> fp32, a · bᵀ, (M, N)."""

GroupedProduct = Callable[[Quantized, Quantized, Tensor], Tensor]
"""(a_PK in TILE, b_ENK in SQUARE, load_E) -> fp32, (P, N): expert e's rows of a · b_eᵀ."""

_LARGEST_DIFFERENCE = 1e-2
"""Of the hardware's result from the emulation's, relative: far above rounding, far below a wrong scale."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What multiplies, for provenance: "fp8: scaled_mm" or "fp8: emulated", and why not the other."""

    name: str
    product: MatrixProduct
    grouped_product: GroupedProduct
    reason: str = ""

    @property
    def emulated(self) -> bool:
        """Whether figures of speed say nothing about FP8."""
        return self.product is multiply_emulated


def _emulated(reason: str) -> Engine:
    return Engine("fp8: emulated", multiply_emulated, multiply_grouped_emulated, reason)


def multiply_emulated(a_MK: Quantized, b_NK: Quantized) -> Tensor:
    """Decode, then multiply in fp32."""
    return a_MK.dequantize() @ b_NK.dequantize().mT


def multiply_scaled(a_MK: Quantized, b_NK: Quantized) -> Tensor:
    """torch.nn.functional.scaled_mm; sizes that are not multiples of 128 are filled up with zeros."""
    rows, columns = a_MK.payload.shape[0], b_NK.payload.shape[0]
    if rows == 0:
        return torch.zeros(0, columns, device=a_MK.payload.device)
    square = b_NK.block == SQUARE
    product = F.scaled_mm(
        _padded_payload(a_MK).view(FORMAT),
        _padded_payload(b_NK).view(FORMAT).t(),
        _tile_scales(a_MK),
        F.ScalingType.BlockWise1x128,
        _square_scales(b_NK) if square else _tile_scales(b_NK),
        F.ScalingType.BlockWise128x128 if square else F.ScalingType.BlockWise1x128,
        output_dtype=torch.float32,
    )
    return product[:rows, :columns]


def multiply_grouped_emulated(a_PK: Quantized, b_ENK: Quantized, load_E: Tensor) -> Tensor:
    """Decode, then all experts in one grouped multiplication in fp32."""
    a, b_EKN = a_PK.dequantize(), b_ENK.dequantize().mT
    return choose_multiply(a, b_EKN)(a, b_EKN, load_E)


def multiply_grouped_scaled(a_PK: Quantized, b_ENK: Quantized, load_E: Tensor) -> Tensor:
    """One expert after the other: torch has no grouped multiplication with these blocks."""
    sizes = load_E.tolist()
    blocks = zip(a_PK.payload.split(sizes), a_PK.scale.split(sizes), b_ENK.unbind(), strict=True)
    return torch.cat([multiply_scaled(Quantized(payload, scale, TILE), b_NK) for payload, scale, b_NK in blocks])


@functools.cache
def engine_for(device: torch.device) -> Engine:
    """The engine of `device`."""
    try:
        difference = _difference(device)
    except (RuntimeError, ValueError, NotImplementedError) as refusal:
        return _emulated(str(refusal).partition("\n")[0])
    if not difference < _LARGEST_DIFFERENCE:  # NaN too
        return _emulated(f"scaled_mm differs from the emulation by {difference:.2g}")
    return Engine("fp8: scaled_mm", multiply_scaled, multiply_grouped_scaled)


def _difference(device: torch.device) -> float:
    """Largest relative difference between scaled_mm and the emulation: both recipes, sizes that need filling up."""
    generator = torch.Generator().manual_seed(0)
    # Magnitudes that change from block to block, so that scales in the wrong place show.
    a, b = (
        torch.randn(size, 600, generator=generator) * torch.logspace(-2, 2, 600) * torch.logspace(-1, 1, size)[:, None]
        for size in (200, 328)
    )
    a_MK = quantize(a.to(device), TILE)
    differences = []
    for block in (SQUARE, TILE):
        b_NK = quantize(b.to(device), block)
        expected, found = multiply_emulated(a_MK, b_NK), multiply_scaled(a_MK, b_NK)
        differences.append(float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected)))
    return max(differences)


def _padded_payload(matrix: Quantized) -> Tensor:
    """Row-major, both sizes multiples of 128."""
    rows, columns = matrix.payload.shape
    return F.pad(matrix.payload, (0, -columns % BLOCK, 0, -rows % BLOCK)).contiguous()


def _tile_scales(matrix: Quantized) -> Tensor:
    """(rows filled up to 128, tiles)."""
    return _column_major(F.pad(matrix.scale, (0, 0, 0, -matrix.scale.shape[0] % BLOCK)))


def _square_scales(matrix: Quantized) -> Tensor:
    """(blocks along the sum filled up to 4, blocks of rows)."""
    return _column_major(F.pad(matrix.scale, (0, -matrix.scale.shape[1] % 4)).t())


def _column_major(scales: Tensor) -> Tensor:
    """With a column's values next to each other in memory, as cuBLAS reads scales."""
    # Not t().contiguous().t(): torch leaves the strides of a single column as they are, and scaled_mm checks them.
    return torch.empty_strided(scales.shape, (1, scales.shape[0]), device=scales.device).copy_(scales)
