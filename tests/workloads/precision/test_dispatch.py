"""Messages: what they hold, that they are as small as promised, and where their gradients go."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenstone.errors import InvalidValue
from workloads.training.precision.blocks import TILE, quantize
from workloads.training.precision.dispatch import Cast, Fp8, bf16, fp32


def rows_of(count: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.logspace(-6, 6, max(count, 1))[:count, None]  # every row has a scale of its own
    return torch.randn(count, dim, generator=generator) * magnitude


@settings(deadline=None, max_examples=50)
@given(count=st.integers(0, 40), dim=st.integers(1, 300), seed=st.integers(0, 9))
def test_fp8_messages_decode_to_the_quantised_rows(count: int, dim: int, seed: int) -> None:
    rows = rows_of(count, dim, seed)
    if count > 1:
        rows[1] = 0.0
    message = Fp8(dim).encode(rows)
    assert message.dtype == torch.uint8
    assert message.is_contiguous()
    assert message.shape == (count, Fp8(dim).row_bytes)
    assert torch.equal(Fp8(dim).decode(message), quantize(rows, TILE).dequantize())


@settings(deadline=None, max_examples=50)
@given(splits=st.lists(st.integers(0, 9), min_size=1, max_size=6), dim=st.integers(1, 300))
def test_rows_can_be_split_and_shuffled_on_the_way(splits: list[int], dim: int) -> None:
    rows = rows_of(sum(splits), dim, seed=0)
    codec = Fp8(dim)
    pieces = codec.encode(rows).split(splits)
    arrived = torch.cat(pieces[::-1])
    expected = torch.cat(codec.decode(codec.encode(rows)).split(splits)[::-1])
    assert torch.equal(codec.decode(arrived), expected)


@pytest.mark.parametrize(
    ("codec", "row_bytes"),
    [(Fp8(7168), 7392), (Fp8(256), 264), (Fp8(130), 140), (Fp8(1), 8), (bf16(7168), 14336), (fp32(256), 1024)],
)
def test_bytes_per_row_are_as_documented(codec: Fp8 | Cast, row_bytes: int) -> None:
    assert codec.row_bytes == row_bytes
    assert codec.encode(torch.ones(3, codec.dim)).nbytes == 3 * row_bytes


def test_layout_1() -> None:
    """Spelt out byte by byte: whoever changes it changes the version."""
    row = torch.zeros(1, 130)
    row[0, 0], row[0, 129] = 448.0, -896.0
    message = Fp8(130).encode(row)[0]
    assert message[:8].view(torch.float32).tolist() == [1.0, 2.0]
    assert message[8].item() == 0b0_1111_110  # 448
    assert message[8 + 129].item() == 0b1_1111_110  # -448, times 2
    assert message[138:].tolist() == [0, 0]
    assert not message[9:137].any()


def test_rows_that_are_not_finite_arrive_as_such() -> None:
    rows = torch.ones(3, 256)
    rows[1, 200] = float("inf")
    arrived = Fp8(256).decode(Fp8(256).encode(rows))
    assert arrived[1, 128:].isnan().all()
    assert arrived.isnan().sum() == 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_casts_arrive_rounded_and_fp32_whole(dtype: torch.dtype) -> None:
    rows = rows_of(5, 24, seed=0).to(dtype)
    assert torch.equal(bf16(24).decode(bf16(24).encode(rows), dtype), rows.bfloat16().to(dtype))
    assert torch.equal(fp32(24).decode(fp32(24).encode(rows), dtype), rows)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(InvalidValue, match="128 were expected"):
        Fp8(128).encode(torch.ones(2, 256))
    with pytest.raises(InvalidValue, match="132 were expected"):
        Fp8(128).decode(torch.zeros(2, 128, dtype=torch.uint8))
