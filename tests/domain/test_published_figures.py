"""The published figures that the formulas must reproduce to their printed digits."""

import pytest

from tokenstone import hardware
from tokenstone.cost import builtin_book, rental, serving_cost
from tokenstone.flops import AttentionCount, count_parameters, kv_bytes_per_token, mfu, training_flops
from tokenstone.model import DEEPSEEK_V3, LLAMA_3_1_8B

TOKENS_PER_DAY = 272.80e9
H800S = 2048


def printed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def test_deepseek_v3_parameters():
    parameters = count_parameters(DEEPSEEK_V3)
    assert printed(parameters.total / 1e9, 3) == "671.025"
    assert printed(parameters.active / 1e9, 3) == "36.518"
    assert printed(parameters.active_with_router / 1e9, 3) == "36.625"
    assert printed(parameters.active_with_router_and_embedding / 1e9, 3) == "37.551"


@pytest.mark.parametrize(
    ("attention", "gflops", "mfu_percent", "tflops"),
    [(AttentionCount.FULL, "280.51", "43.73", "432"), (AttentionCount.CAUSAL, "249.81", "38.94", "385")],
)
def test_deepseek_v3_training_step(attention, gflops, mfu_percent, tflops):
    flops = training_flops(DEEPSEEK_V3, 4096, attention).flops_per_token
    peak = hardware.get("h800-sxm").peak("bf16").value
    rate = TOKENS_PER_DAY / 86400
    assert printed(flops / 1e9, 2) == gflops
    assert printed(100 * mfu(flops, rate, H800S, peak), 2) == mfu_percent
    assert printed(flops * rate / H800S / 1e12, 0) == tflops


def test_router_is_counted_on_request_only():
    """torchtitan counts the router: 281.15 GF."""
    with_router = training_flops(DEEPSEEK_V3, 4096, AttentionCount.FULL, count_router=True)
    assert printed(with_router.flops_per_token / 1e9, 2) == "281.15"
    assert "router counted" in with_router.convention


def test_kv_cache_of_a_token():
    assert kv_bytes_per_token(DEEPSEEK_V3, "bf16") == 70_272
    # Llama 3.1 8B: 2 x 8 heads x 128 x 32 layers x 2 bytes.
    assert kv_bytes_per_token(LLAMA_3_1_8B, "bf16") == 131_072


def test_llama_parameters_by_the_same_count():
    assert printed(count_parameters(LLAMA_3_1_8B).total / 1e9, 2) == "8.03"


@pytest.mark.parametrize(
    ("thousand_hours", "million_dollars"), [(2664, "5.328"), (119, "0.238"), (5, "0.010"), (2788, "5.576")]
)
def test_training_cost_of_deepseek_v3(thousand_hours, million_dollars):
    price = builtin_book().resolve("h800-sxm/deepseek")
    assert printed(thousand_hours * 1e3 * price.usd_per_device_hour / 1e6, 3) == million_dollars


def test_serving_day_of_deepseek():
    cost = 226.75 * 8 * 24 * rental(2.0).usd_per_device_hour
    assert cost == pytest.approx(87_072, abs=0.5)
    income = (342e9 * 0.14 + (608e9 - 342e9) * 0.55 + 168e9 * 2.19) / 1e6
    assert income == pytest.approx(562_027, rel=2e-4)  # the published token counts are rounded
    assert printed(100 * (562_027 - cost) / cost, 0) == "545"
    shares = serving_cost(
        cost, input_tokens=int(608e9), cached_input_tokens=int(342e9), output_tokens=int(168e9), prefill_share=0.4
    )
    assert shares.usd_per_million_tokens == pytest.approx(87_072 / 776_000)
    assert shares.usd_per_million_input_tokens == pytest.approx(0.4 * 87_072 / 608_000)
    assert shares.usd_per_million_uncached_input_tokens == pytest.approx(0.4 * 87_072 / 266_000)
    assert shares.usd_per_million_output_tokens == pytest.approx(0.6 * 87_072 / 168_000)


def test_the_step_of_deepseek_v3_adds_up():
    """19.926 s = 1F 1.13 + bubble 2.06 + 1B 1.99 + 1W 0.48 + 1F1B 13.95 + optimizer 0.29 (+ 0.026 unlisted)."""
    assert pytest.approx(19.926) == 1.13 + 2.06 + 1.99 + 0.48 + 13.95 + 0.29 + 0.026
    tokens = 15360 * 4096
    assert tokens / 19.926 * 86400 == pytest.approx(TOKENS_PER_DAY, rel=5e-4)
