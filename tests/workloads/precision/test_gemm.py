"""Products of quantised matrices: the emulation is exact, and hardware is only used where it agrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.training.precision import gemm
from workloads.training.precision.blocks import FORMAT, SQUARE, TILE, Quantized, quantize
from workloads.training.precision.gemm import engine_for, multiply_emulated, multiply_grouped_emulated

CPU = torch.device("cpu")


def values(matrix: Quantized) -> Tensor:
    """In fp64, by torch's own conversion, block after block."""
    rows, columns = matrix.block
    result = matrix.payload.view(FORMAT).double()
    for i in range(matrix.scale.shape[0]):
        for j in range(matrix.scale.shape[1]):
            result[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] *= matrix.scale[i, j].double()
    return result


def operands(block: tuple[int, int], m: int = 37, n: int = 200, k: int = 300) -> tuple[Quantized, Quantized]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
    return quantize(a, TILE), quantize(b, block)


@pytest.mark.parametrize("block", [TILE, SQUARE])
def test_emulation_is_the_product_of_the_quantised_operands(block: tuple[int, int]) -> None:
    a, b = operands(block)
    exact = values(a) @ values(b).T
    difference = torch.linalg.norm(multiply_emulated(a, b) - exact) / torch.linalg.norm(exact)
    assert float(difference) < 1e-6


@pytest.mark.parametrize("loads", [[3, 0, 130, 1], [0, 0, 0, 0]])
def test_experts_multiply_their_own_rows(loads: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    a = quantize(torch.randn(sum(loads), 136, generator=generator), TILE)
    b = quantize(torch.randn(4, 40, 136, generator=generator), SQUARE)
    found = multiply_grouped_emulated(a, b, torch.tensor(loads))
    rows = values(a).split(loads)
    exact = torch.cat([row @ values(weight).T for row, weight in zip(rows, b.unbind(), strict=True)])
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


def blockwise_hardware(wrong_by: float = 1.0) -> Callable[..., Tensor]:
    """What scaled_mm does on a device with FP8 units, as cuBLAS documents its layouts: refuses all others."""

    def scaled_mm(a: Tensor, b: Tensor, scale_a: Tensor, recipe_a: Any, scale_b: Tensor, recipe_b: Any,
                  *, output_dtype: torch.dtype) -> Tensor:  # fmt: skip
        (m, k), n = a.shape, b.shape[1]
        assert a.dtype == b.dtype == FORMAT
        assert a.is_contiguous()
        assert b.t().is_contiguous()
        assert not any(size % 16 for size in (m, n, k))
        assert recipe_a == F.ScalingType.BlockWise1x128
        assert (scale_a.shape, scale_a.stride()) == ((m, k // 128), (1, m))
        if recipe_b == F.ScalingType.BlockWise128x128:
            filled = -(-k // 512) * 4
            assert (scale_b.shape, scale_b.stride()) == ((filled, n // 128), (1, filled))
            b_scales = scale_b.t()[:, : k // 128].repeat_interleave(128, 0)
        else:
            assert recipe_b == F.ScalingType.BlockWise1x128
            assert (scale_b.shape, scale_b.stride()) == ((n, k // 128), (1, n))
            b_scales = scale_b
        left = a.float() * scale_a.repeat_interleave(128, 1)
        right = b.t().float() * b_scales.repeat_interleave(128, 1)
        return (left @ right.t() * wrong_by).to(output_dtype)

    return scaled_mm


@pytest.mark.parametrize("block", [TILE, SQUARE])
@pytest.mark.parametrize("sizes", [(37, 200, 300), (128, 128, 128), (1, 5, 7), (0, 8, 16)])
def test_hardware_gets_filled_up_operands_in_its_layout(
    sizes: tuple[int, int, int], block: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(F, "scaled_mm", blockwise_hardware())
    a, b = operands(block, *sizes)
    found = gemm.multiply_scaled(a, b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, multiply_emulated(a, b), rtol=1e-4, atol=1e-4)


def test_hardware_multiplies_experts_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "scaled_mm", blockwise_hardware())
    a = quantize(torch.randn(134, 136, generator=torch.Generator().manual_seed(0)), TILE)
    b = quantize(torch.randn(4, 40, 136, generator=torch.Generator().manual_seed(1)), SQUARE)
    loads = torch.tensor([3, 0, 130, 1])
    found, expected = gemm.multiply_grouped_scaled(a, b, loads), multiply_grouped_emulated(a, b, loads)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_device_without_fp8_units_says_so() -> None:
    engine = engine_for(CPU)
    assert engine.name == "fp8: emulated"
    assert engine.emulated
    assert engine.reason  # torch's own words


def test_hardware_is_used_where_it_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "scaled_mm", blockwise_hardware())
    engine = engine_for.__wrapped__(CPU)
    assert engine.name == "fp8: scaled_mm"
    assert not engine.emulated


@pytest.mark.parametrize("wrong_by", [1.05, float("nan")])
def test_hardware_that_multiplies_something_else_is_not_used(wrong_by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "scaled_mm", blockwise_hardware(wrong_by))
    engine = engine_for.__wrapped__(CPU)
    assert engine.emulated
    assert "differs" in engine.reason
