"""`tokenstone calc`: the formulas by hand, each with the convention that its number follows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from cli.output import JsonFlag, print_json, print_pairs

app = typer.Typer(help="Calculate FLOPs, utilization, cache and cost by hand.", no_args_is_help=True)


class Attention(StrEnum):
    """How attention is counted (tokenstone.flops.AttentionCount, without importing it for --help)."""

    FULL = "full"
    CAUSAL = "causal"


Model = Annotated[str, typer.Option("--model", help="A built-in model, or a Hugging Face style config.json.")]
Seq = Annotated[int, typer.Option("--seq", help="Tokens in a sequence.")]
AttentionOption = Annotated[
    Attention,
    typer.Option("--attention", help="Count attention over the full sequence, or only below the causal mask."),
]
Dtype = Annotated[str, typer.Option("--dtype", help="Data type: bf16, fp8, fp16, fp32, ...")]


@app.command("flops")
def flops_command(
    model: Model, seq: Seq = 4096, attention: AttentionOption = Attention.CAUSAL, json: JsonFlag = False
) -> None:
    """FLOPs of training one token, and the model's parameters."""
    from tokenstone.model import load  # noqa: PLC0415

    result = _flops(model, seq, attention)
    if json:
        return print_json(result)
    return print_pairs(
        {
            "model": load(model).name,
            "FLOPs per token": f"{result['flops_per_token'] / 1e9:,.2f} GFLOP",
            "parameters, total": f"{result['parameters_total'] / 1e9:,.3f} B",
            "parameters, active": f"{result['parameters_active'] / 1e9:,.3f} B (embedding and router left out)",
            "... with router": f"{result['parameters_active_with_router'] / 1e9:,.3f} B",
            "... with embedding too": f"{result['parameters_active_with_router_and_embedding'] / 1e9:,.3f} B",
            "convention": result["convention"],
        }
    )


def _flops(model: str, seq: int, attention: Attention) -> dict[str, Any]:
    from tokenstone.flops import AttentionCount, training_flops  # noqa: PLC0415
    from tokenstone.model import load  # noqa: PLC0415

    counted = training_flops(load(model), seq, AttentionCount(attention.value))
    parameters = counted.parameters
    return {
        "model": model,
        "sequence_length": seq,
        "attention": attention.value,
        "flops_per_token": counted.flops_per_token,
        "matmul_flops_per_token": counted.matmul_flops_per_token,
        "attention_flops_per_token": counted.attention_flops_per_token,
        "parameters_total": parameters.total,
        "parameters_active": parameters.active,
        "parameters_active_with_router": parameters.active_with_router,
        "parameters_active_with_router_and_embedding": parameters.active_with_router_and_embedding,
        "convention": counted.convention,
    }


@app.command("mfu")
def mfu_command(
    model: Model,
    hardware: Annotated[str, typer.Option("--hardware", help="A name from `tokenstone hardware`.")],
    devices: Annotated[float, typer.Option("--devices", help="Accelerators at work.")],
    tokens_per_second: Annotated[float | None, typer.Option("--tokens-per-second", help="Of all devices.")] = None,
    tokens_per_day: Annotated[float | None, typer.Option("--tokens-per-day", help="Of all devices.")] = None,
    seq: Seq = 4096,
    attention: AttentionOption = Attention.CAUSAL,
    dtype: Dtype = "bf16",
    json: JsonFlag = False,
) -> None:
    """Model FLOPs utilization of a training rate."""
    from cli.numbers import positive  # noqa: PLC0415
    from tokenstone import hardware as catalogue  # noqa: PLC0415
    from tokenstone.errors import InvalidValue, UsageError  # noqa: PLC0415
    from tokenstone.flops import dtype_bytes, mfu  # noqa: PLC0415

    if (tokens_per_second is None) == (tokens_per_day is None):
        raise UsageError("give either --tokens-per-second or --tokens-per-day")
    if tokens_per_second is not None:
        rate = positive(tokens_per_second, "--tokens-per-second")
    else:
        rate = positive(tokens_per_day or 0.0, "--tokens-per-day") / 86_400
    positive(devices, "--devices", most=1e9)
    dtype_bytes(dtype)
    accelerator = catalogue.get(hardware)
    peak = accelerator.peak(dtype)
    counted = _flops(model, seq, attention)
    utilization = mfu(counted["flops_per_token"], rate, devices, peak.value)
    if utilization > 1:
        raise InvalidValue(
            f"this rate is {utilization:,.4g} times what {devices:,.6g} x {accelerator.name} can do in {dtype}",
            hint="check the rate, --devices and --dtype",
        )
    result = {
        "mfu_ratio": utilization,
        "flops_per_second_per_device": counted["flops_per_token"] * rate / devices,
        "peak_flops_per_second": peak.value,
        "tokens_per_second": rate,
        "devices": devices,
        "hardware": accelerator.name,
        "dtype": dtype,
        "flops_per_token": counted["flops_per_token"],
        "convention": counted["convention"],
        "peak_convention": f"{'dense' if peak.dense else 'sparse'} {dtype} per {peak.scope}",
        "peak_source": peak.source,
        "peak_verified": peak.verified,
    }
    if json:
        return print_json(result)
    return print_pairs(
        {
            "MFU": f"{utilization:.2%}",
            "FLOP/s per device": f"{result['flops_per_second_per_device'] / 1e12:,.1f} TFLOP/s",
            "peak": f"{peak.value / 1e12:,.1f} TFLOP/s {result['peak_convention']}"
            + ("" if peak.verified else " (unverified)"),
            "source": f"{peak.source}, {peak.date}",
            "FLOPs per token": f"{counted['flops_per_token'] / 1e9:,.2f} GFLOP",
            "convention": counted["convention"],
        }
    )


@app.command("kv")
def kv_command(model: Model, dtype: Dtype = "bf16", json: JsonFlag = False) -> None:
    """Bytes that the key-value cache keeps for one token."""
    from tokenstone.flops import kv_bytes_per_token  # noqa: PLC0415
    from tokenstone.model import load  # noqa: PLC0415

    shape = load(model)
    size = kv_bytes_per_token(shape, dtype)
    kind = "latent: kv rank + rope" if shape.attention.kind == "latent" else "keys and values of the key-value heads"
    if json:
        return print_json(
            {
                "model": model,
                "dtype": dtype,
                "kv_bytes_per_token": size,
                "layers": shape.layers,
                "values_per_layer": shape.attention.cached_values_per_token,
                "convention": f"{kind}, all layers, scales of block formats not counted",
            }
        )
    return print_pairs(
        {
            "key-value cache": f"{size / 1e3:,.3f} KB per token (KB = 1000 bytes)",
            "per layer": f"{shape.attention.cached_values_per_token} values of {dtype} in {shape.layers} layers",
            "convention": kind,
        }
    )


@app.command("cost")
def cost_command(
    devices: Annotated[float, typer.Option("--devices", help="Devices held; a mean may be fractional.")],
    hours: Annotated[float, typer.Option("--hours", help="Hours for which they were held.")],
    price_per_device_hour: Annotated[float, typer.Option("--price-per-device-hour", help="Dollars.")],
    training_tokens: Annotated[float | None, typer.Option("--training-tokens", help="Tokens trained.")] = None,
    input_tokens: Annotated[
        float | None, typer.Option("--input-tokens", help="Tokens read, cached ones included.")
    ] = None,
    cached_input_tokens: Annotated[
        float, typer.Option("--cached-input-tokens", help="Of these, from the cache.")
    ] = 0.0,
    output_tokens: Annotated[float | None, typer.Option("--output-tokens", help="Tokens written.")] = None,
    prefill_share: Annotated[
        float | None, typer.Option("--prefill-share", help="Share (0..1) of device time spent on prefill.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Cost of training or serving, in all and per million tokens."""
    from cli.numbers import positive  # noqa: PLC0415
    from tokenstone.cost import rental  # noqa: PLC0415
    from tokenstone.score.bottleneck import money  # noqa: PLC0415

    price = rental(price_per_device_hour)
    device_hours = positive(devices, "--devices", most=1e9) * positive(hours, "--hours", most=1e9)
    cost = device_hours * price.usd_per_device_hour
    result: dict[str, Any] = {"cost_usd": cost, "device_hours": device_hours}
    result |= _cost_of_tokens(cost, training_tokens, input_tokens, cached_input_tokens, output_tokens, prefill_share)
    if json:
        return print_json(result)
    rows = {"cost": f"${cost:,.0f}" if cost >= 1000 else money(cost), "device-hours": f"{device_hours:,.1f}"}
    rows |= {
        key.removeprefix("usd_").replace("_", " "): money(value)
        for key, value in result.items()
        if key.startswith("usd_per_") and value is not None
    }
    if "split" in result:
        rows["split"] = result["split"]
    return print_pairs(rows)


def _cost_of_tokens(
    cost: float,
    training_tokens: float | None,
    input_tokens: float | None,
    cached_input_tokens: float,
    output_tokens: float | None,
    prefill_share: float | None,
) -> dict[str, Any]:
    from cli.numbers import count, ratio  # noqa: PLC0415
    from tokenstone.cost import MILLION, serving_cost  # noqa: PLC0415
    from tokenstone.errors import InvalidValue, UsageError  # noqa: PLC0415

    serving = input_tokens is not None or output_tokens is not None
    if training_tokens is not None:
        if serving or cached_input_tokens or prefill_share is not None:
            raise UsageError("--training-tokens goes without the options of serving", hint="one calculation at a time")
        trained = count(training_tokens, "--training-tokens")
        if trained == 0:
            raise InvalidValue("no tokens to bear the cost", where="--training-tokens", hint="give 1 or more")
        return {"training_tokens": trained, "usd_per_million_tokens": cost / trained * MILLION}
    if not serving:
        if cached_input_tokens or prefill_share is not None:
            raise UsageError("--cached-input-tokens and --prefill-share need --input-tokens and --output-tokens")
        return {"usd_per_million_tokens": None}
    shares = serving_cost(
        cost,
        input_tokens=count(input_tokens or 0.0, "--input-tokens"),
        cached_input_tokens=count(cached_input_tokens, "--cached-input-tokens"),
        output_tokens=count(output_tokens or 0.0, "--output-tokens"),
        prefill_share=None if prefill_share is None else ratio(prefill_share, "--prefill-share"),
    )
    return shares.model_dump(exclude={"cost_usd"})
