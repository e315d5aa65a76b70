"""Block quantisation: how far off, where exact, and what happens at the corners."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workloads.training.precision.blocks import (
    COLUMN_TILE,
    FORMAT,
    SQUARE,
    TILE,
    count_lost,
    decode_e4m3,
    largest_magnitude,
    quantize,
)

BLOCKS = pytest.mark.parametrize("block", [TILE, COLUMN_TILE, SQUARE])
HALF_STEP = 2.0**-4  # e4m3 has 3 bits behind the point
SMALLEST = 2.0**-9  # below 2**-6 its numbers are this far apart


def per_value(scale: Tensor, block: tuple[int, int], x: Tensor) -> Tensor:
    """The scale of each value, spread out the long way."""
    spread = scale.repeat_interleave(block[0], dim=-2).repeat_interleave(block[1], dim=-1)
    return spread[..., : x.shape[-2], : x.shape[-1]]


def random_matrix(rows: int, columns: int, seed: int, spread: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    exponent = spread * torch.randn(rows, columns, generator=generator)
    return torch.randn(rows, columns, generator=generator) * torch.exp(exponent)


@BLOCKS
@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(1, 300), columns=st.integers(1, 300), seed=st.integers(0, 99), spread=st.sampled_from([0, 1, 4])
)
def test_error_is_half_a_step_of_the_blocks_own_scale(
    block: tuple[int, int], rows: int, columns: int, seed: int, spread: float
) -> None:
    x = random_matrix(rows, columns, seed, spread)
    quantized = quantize(x, block)
    allowed = torch.maximum(HALF_STEP * x.abs(), SMALLEST / 2 * per_value(quantized.scale, block, x))
    assert quantized.payload.shape == x.shape
    assert ((quantized.dequantize() - x).abs() <= allowed * (1 + 1e-5)).all()


@BLOCKS
@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 200), columns=st.integers(1, 200), seed=st.integers(0, 99))
def test_the_largest_value_of_a_block_is_kept_and_quantising_again_changes_nothing(
    block: tuple[int, int], rows: int, columns: int, seed: int
) -> None:
    x = random_matrix(rows, columns, seed)
    once = quantize(x, block)
    again = quantize(once.dequantize(), block)
    assert torch.equal(once.payload, again.payload)
    torch.testing.assert_close(once.scale, again.scale, rtol=3e-7, atol=0.0)
    largest = quantize(x, block).dequantize().abs().max()
    assert float(largest) == pytest.approx(float(x.abs().max()), rel=3e-7)


@BLOCKS
def test_what_the_format_holds_is_exact(block: tuple[int, int]) -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(FORMAT).float()
    numbers = numbers[numbers.isfinite()]
    x = numbers[torch.randint(len(numbers), (256, 256), generator=torch.Generator().manual_seed(0))]
    x[::2, ::2] = 448.0  # every block's scale is 1
    x[1::2, 1::2] = 448.0
    assert torch.equal(quantize(x, block).dequantize(), x)


def test_an_outlier_costs_only_its_own_tile() -> None:
    x = torch.full((2, 256), 1e-4)
    x[0, 3] = 1e4
    back = quantize(x, TILE).dequantize()
    assert not back[0, 4:128].any()
    torch.testing.assert_close(back[:, 128:], x[:, 128:])
    torch.testing.assert_close(back[1], x[1])


@BLOCKS
@pytest.mark.parametrize("shape", [(0, 16), (4, 0, 64), (3, 200, 130), (1, 1)])
def test_any_shape(shape: tuple[int, ...], block: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    back = quantize(x, block).dequantize()
    assert back.shape == x.shape
    torch.testing.assert_close(back, x, rtol=HALF_STEP, atol=0.02)


@BLOCKS
def test_a_stack_is_its_matrices_and_a_transpose_is_one(block: tuple[int, int]) -> None:
    stack = torch.randn(3, 140, 300, generator=torch.Generator().manual_seed(0))
    quantized = quantize(stack, block)
    for matrix, alone in zip(quantized.unbind(), stack, strict=True):
        assert torch.equal(matrix.dequantize(), quantize(alone, block).dequantize())
    assert torch.equal(quantized.transposed.dequantize(), quantized.dequantize().mT)
    turned = quantize(stack.mT, (block[1], block[0]))
    assert torch.equal(turned.payload, quantized.transposed.payload)


@BLOCKS
def test_zeros_stay_zeros_beside_other_blocks(block: tuple[int, int]) -> None:
    x = torch.zeros(256, 256)
    x[200, 200] = -3.0
    back = quantize(x, block).dequantize()
    torch.testing.assert_close(back, x)
    assert torch.equal(back == 0, x == 0)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_breaks_its_block_and_no_other(broken: float) -> None:
    x = torch.ones(2, 256)
    x[0, 5] = broken
    back = quantize(x, TILE).dequantize()
    assert back[0, :128].isnan().all()
    assert torch.equal(back[0, 128:], torch.ones(128))
    assert torch.equal(back[1], torch.ones(256))


@pytest.mark.parametrize(("magnitude", "error"), [(1e-44, 1.0), (1e-38, HALF_STEP), (1e-30, 1e-6), (3.4e38, 1e-6)])
def test_any_magnitude_of_fp32(magnitude: float, error: float) -> None:
    x = torch.tensor([[magnitude, -magnitude / 2, 0.0]])
    torch.testing.assert_close(quantize(x, TILE).dequantize(), x, rtol=error, atol=0.0)


def test_the_table_has_the_bits_of_torchs_own_conversion() -> None:
    payload = torch.arange(256, dtype=torch.uint8)
    table, torchs = decode_e4m3(payload), payload.view(FORMAT).float()
    numbers = ~torchs.isnan()
    assert torch.equal(table.isnan(), torchs.isnan())
    assert torch.equal(table[numbers].view(torch.int32), torchs[numbers].view(torch.int32))  # -0 is not 0


def test_other_dtypes_are_read_as_what_they_hold() -> None:
    x = torch.randn(4, 200, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(quantize(x, TILE).dequantize(), quantize(x.float(), TILE).dequantize())


def test_underflow_and_largest_magnitude() -> None:
    x = torch.zeros(2, 128)
    x[0, :4] = torch.tensor([448.0, 2.0**-9, 2.0**-11, -(2.0**-12)])
    x[1, :2] = torch.tensor([-7.0, 1.0])
    quantized = quantize(x, TILE)
    present, lost = count_lost(x, quantized)
    assert (int(present), int(lost)) == (6, 2)
    assert float(largest_magnitude(quantized)) == 448.0
