"""FP8 layers: exact where the format is, near fp32 elsewhere, and never quite fp32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workloads.moe.experts import looped_multiply
from workloads.training.precision.linear import Fp8GroupedMultiply, Fp8Linear
from workloads.training.precision.statistics import Statistics


def powers_of_two(*shape: int, seed: int) -> Tensor:
    """Whatever tile these fall into, e4m3 holds them exactly."""
    generator = torch.Generator().manual_seed(seed)
    exponent = torch.randint(-2, 3, shape, generator=generator).float()
    sign = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0
    return sign * 2.0**exponent


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear_results(layer: nn.Module, weight: Tensor, x: Tensor, dy: Tensor) -> list[Tensor]:
    """y, dx, dW."""
    x = x.clone().requires_grad_()
    weight.grad = None
    y = layer(x)
    y.backward(dy)
    assert x.grad is not None
    assert weight.grad is not None
    return [y.detach(), x.grad, weight.grad]


def grouped_results(fp8: bool, x: Tensor, weights: Tensor, dy: Tensor, load: Tensor) -> list[Tensor]:
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    y = (Fp8GroupedMultiply() if fp8 else looped_multiply)(x, weights, load)
    y.backward(dy)
    assert x.grad is not None
    assert weights.grad is not None
    return [y.detach(), x.grad, weights.grad]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.norm(found.double() - expected.double()) / torch.linalg.norm(expected.double()))


@settings(deadline=None, max_examples=30)
@given(tokens=st.integers(0, 300), inputs=st.integers(1, 300), outputs=st.integers(1, 300), seed=st.integers(0, 9))
def test_exact_on_what_the_format_holds(tokens: int, inputs: int, outputs: int, seed: int) -> None:
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.copy_(powers_of_two(outputs, inputs, seed=seed))
    x, dy = powers_of_two(tokens, inputs, seed=seed + 1), powers_of_two(tokens, outputs, seed=seed + 2)
    expected = linear_results(linear, linear.weight, x, dy)
    found = linear_results(Fp8Linear(linear), linear.weight, x, dy)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(
    loads=st.lists(st.integers(0, 200), min_size=1, max_size=5),
    inputs=st.integers(1, 40).map(lambda n: 4 * n), outputs=st.integers(1, 150), seed=st.integers(0, 9),
)  # fmt: skip
def test_experts_exact_on_what_the_format_holds(loads: list[int], inputs: int, outputs: int, seed: int) -> None:
    weights = powers_of_two(len(loads), inputs, outputs, seed=seed)
    x, dy = powers_of_two(sum(loads), inputs, seed=seed + 1), powers_of_two(sum(loads), outputs, seed=seed + 2)
    expected = grouped_results(False, x, weights, dy, torch.tensor(loads))
    found = grouped_results(True, x, weights, dy, torch.tensor(loads))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-3)


def test_output_and_gradients_are_near_fp32_and_not_equal() -> None:
    linear = nn.Linear(320, 200, bias=False)
    x, dy = normal(300, 320, seed=1), normal(300, 200, seed=2) * 1e-6  # gradients are small: their scale is their own
    expected = linear_results(linear, linear.weight, x, dy)
    found = linear_results(Fp8Linear(linear), linear.weight, x, dy)
    # Two operands, each off by at most 2**-4 and 2.6 % on average; the input of dW is quantised twice.
    for one, other, bound in zip(found, expected, (0.045, 0.045, 0.055), strict=True):
        assert 0.01 < relative_error(one, other) < bound


def test_experts_gradients_are_near_fp32_and_not_equal() -> None:
    loads = torch.tensor([100, 0, 3, 150])
    x, weights, dy = normal(253, 160, seed=1), normal(4, 160, 96, seed=2), normal(253, 96, seed=3)
    expected, found = (grouped_results(fp8, x, weights, dy, loads) for fp8 in (False, True))
    for one, other, bound in zip(found, expected, (0.045, 0.045, 0.055), strict=True):
        assert 0.01 < relative_error(one, other) < bound
    assert not found[2][1].any()  # nobody came: no gradient


def test_an_expert_does_not_feel_anothers_outlier() -> None:
    """Tiles along the tokens end where an expert's tokens end."""
    loads, weights, dy = torch.tensor([5, 7]), normal(2, 32, 32, seed=0), normal(12, 32, seed=1)
    x = normal(12, 32, seed=2)
    loud = x.clone()
    loud[4] *= 1e6  # the last token of the first expert
    quiet, beside = (grouped_results(True, rows, weights, dy, loads) for rows in (x, loud))
    assert torch.equal(quiet[2][1], beside[2][1])
    assert torch.equal(quiet[0][5:], beside[0][5:])


def test_the_weights_gradient_has_its_tiles_along_the_tokens() -> None:
    """So a loud gradient of one output drowns its own tokens, and no other output's gradient."""
    linear = nn.Linear(48, 32, bias=False)
    x, dy = normal(20, 48, seed=0), normal(20, 32, seed=1)
    loud = dy.clone()
    loud[4, 7] *= 1e6
    quiet, beside = (linear_results(Fp8Linear(linear), linear.weight, x, each)[2] for each in (dy, loud))
    others = torch.arange(32) != 7
    assert torch.equal(quiet[others], beside[others])


def test_bias_and_further_dimensions() -> None:
    linear = nn.Linear(64, 48)
    x = powers_of_two(2, 3, 64, seed=0)
    with torch.no_grad():
        linear.weight.copy_(powers_of_two(48, 64, seed=1))
    torch.testing.assert_close(Fp8Linear(linear)(x), linear(x), rtol=1e-5, atol=1e-4)


def test_bf16_activations_give_bf16_and_leave_the_weights_gradient_fp32() -> None:
    layer = Fp8Linear(nn.Linear(64, 48, bias=False))
    x = normal(10, 64, seed=0).bfloat16().requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert (y.dtype, x.grad.dtype, layer.weight.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


def test_what_is_kept_for_the_backward_pass_is_a_quarter_of_fp32() -> None:
    kept: list[Tensor] = []
    layer = Fp8Linear(nn.Linear(256, 512, bias=False))
    x = normal(1024, 256, seed=0).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    fp32_bytes = 4 * (1024 * 256 + 512 * 256)
    assert sum(t.numel() * t.element_size() for t in kept) < 0.27 * fp32_bytes


def test_no_gradient_where_none_is_asked() -> None:
    layer = Fp8Linear(nn.Linear(64, 48, bias=False))
    layer.weight.requires_grad_(False)
    x = normal(10, 64, seed=0).requires_grad_()
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None


def test_statistics_of_activations_weights_and_gradients() -> None:
    statistics = Statistics(enabled=True)
    layer = Fp8Linear(nn.Linear(256, 128, bias=False), statistics)
    x = torch.ones(4, 256)
    x[0, 0], x[1, 1] = -30.0, 1e-6  # the latter is far below 2**-10 / 448 of its tile's largest
    layer(x.requires_grad_()).backward(torch.full((4, 128), 0.25))
    statistics.enabled = False
    layer(x * 1000)
    figures = statistics.take()
    assert figures["activation"].amax == pytest.approx(30.0)
    assert figures["activation"].underflow_ratio == pytest.approx(1 / 1024)
    assert figures["weight"].amax == pytest.approx(float(layer.weight.detach().abs().max()))
    assert figures["gradient"] == pytest.approx((0.25, 0.0))
    assert statistics.take() == {}
