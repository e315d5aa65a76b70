"""`tokenstone infer`: a load on the reference engine or on any OpenAI-compatible endpoint, and what its tokens cost."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.output import JsonFlag, print_json, stdout


class Api(StrEnum):
    """Routes of an endpoint."""

    COMPLETIONS = "completions"
    CHAT = "chat"


def command(
    preset: options.Preset = "cpu-small",
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            help="URL of an OpenAI-compatible endpoint. A key comes from TOKENSTONE_ENDPOINT_API_KEY. [default: the reference engine]",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Name under which the endpoint serves.")] = None,
    api: Annotated[
        Api | None, typer.Option("--api", help="Route. [default: completions, or chat where there is no such]")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            help="tokenizer.json of the endpoint's model, for prompts of exact length. [default: words; the endpoint counts]",
        ),
    ] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", min=1, help="Devices on which the endpoint runs; without, no cost.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Number format of the endpoint, to tell runs apart.")
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Open loop: requests a second, Poisson.")] = None,
    burstiness: Annotated[
        float | None,
        typer.Option(
            "--burstiness", min=0.001, max=1000, help="With --rate: shape of gamma gaps; below 1 comes in bursts."
        ),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Closed loop: clients. [default: the preset's batch]")
    ] = None,
    traffic: Annotated[
        str | None,
        typer.Option("--traffic", help="Lengths: chat, long-context, reasoning or rollout. [default: all the same]"),
    ] = None,
    scale: Annotated[
        float, typer.Option("--scale", min=0.0001, max=100, help="Factor on the lengths of --traffic.")
    ] = 1.0,
    requests: Annotated[int | None, typer.Option("--requests", min=1, help="Requests.")] = None,
    input_tokens: Annotated[int | None, typer.Option("--input-tokens", min=1, help="Tokens of each prompt.")] = None,
    output_tokens: Annotated[int | None, typer.Option("--output-tokens", min=1, help="Tokens of each answer.")] = None,
    shared_prefix: Annotated[
        int, typer.Option("--shared-prefix", min=0, help="First tokens of each prompt that requests share.")
    ] = 0,
    prefix_groups: Annotated[int, typer.Option("--prefix-groups", min=1, help="Different shared prefixes.")] = 1,
    turns: Annotated[int, typer.Option("--turns", min=1, help="Requests of one conversation.")] = 1,
    trace: Annotated[Path | None, typer.Option("--trace", help="JSONL file of requests to replay.")] = None,
    slo: Annotated[
        str | None, typer.Option("--slo", help="Objective: ttft=2s,tpot=80ms, or mlperf-r1 and its kin.")
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=2, help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of arrivals, lengths and prompts.")] = None,
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", min=1, help="Reference engine: sequences at once.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Reference engine: trained model. [default: untrained]")
    ] = None,
    request_timeout: Annotated[
        float, typer.Option("--request-timeout", min=0.001, help="Seconds after which a request has failed.")
    ] = 120.0,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", min=0.1, help="Seconds after which the load is ended.")
    ] = 3600.0,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Many loads: the frontier of throughput and interactivity, and the highest rate within --slo.",
        ),
    ] = False,
    data: options.Data = Path("tokenstone-data"),
    report: options.Report = None,
    price_per_device_hour: options.PricePerDeviceHour = None,
    price_book: options.PriceBookFile = None,
    price_row: options.PriceRow = None,
    hardware: options.Hardware = None,
    cluster: options.Cluster = "local",
    threads: options.Threads = None,
    json: JsonFlag = False,
) -> None:
    """Make requests, measure what they wait, and say what a token of input and of output costs.

    Starts the service and an agent in the background, and the reference engine behind HTTP unless there is an --endpoint.
    """
    from cli.extras import needs  # noqa: PLC0415
    from cli.infer_plan import Wanted, endpoint_devices, make_spec, workload_arguments  # noqa: PLC0415
    from cli.session import Session, run_session  # noqa: PLC0415
    from cli.site import make_site  # noqa: PLC0415

    with needs("workloads"):
        import aiohttp  # noqa: F401, PLC0415
        import tokenizers  # noqa: F401, PLC0415  light, unlike torch, and installed along with it
    wanted = Wanted(
        preset=preset, endpoint=endpoint, model=model, api=None if api is None else api.value, tokenizer=tokenizer,
        devices=devices, dtype=dtype, rate=rate, burstiness=burstiness, concurrency=concurrency, traffic=traffic,
        scale=scale, requests=requests, input_tokens=input_tokens, output_tokens=output_tokens,
        shared_prefix=shared_prefix, prefix_groups=prefix_groups, turns=turns, trace=trace, slo=slo,
        temperature=temperature, seed=seed, max_batch=max_batch, request_timeout=request_timeout,
        max_seconds=max_seconds,
    )  # fmt: skip
    spec = make_spec(wanted)
    site = make_site(
        data=data, report_path=report, price_per_device_hour=price_per_device_hour, price_book=price_book,
        price_row=price_row, hardware=hardware, cluster=cluster, threads=threads,
    )  # fmt: skip
    remote = None if endpoint is None else endpoint_devices(endpoint, devices, hardware)
    arguments = workload_arguments(wanted)
    if sweep:
        from cli.sweep import run_sweep  # noqa: PLC0415

        run_sweep(site, spec, remote, arguments, checkpoint, json=json)
        return

    def work(session: Session) -> list[str]:
        probe = session.probe(spec.dtype) if remote is None else None
        return [session.run("infer", spec, probe, checkpoint=checkpoint, arguments=arguments, devices=remote)]

    result = run_session(site, "infer", work)
    [section] = result.sections
    if json:
        from cli.infer_document import infer_document  # noqa: PLC0415

        print_json(infer_document(result, site.report_path))
    else:
        from cli.infer_view import print_load  # noqa: PLC0415
        from cli.terminal import print_report  # noqa: PLC0415

        print_report(result, stdout())
        print_load(section, stdout())
        typer.echo(f"\nReport: {site.report_path}")
    evaluation = section.evaluation
    if evaluation.requests and sum((evaluation.errors or {}).values()) == evaluation.requests:
        raise typer.Exit(1)  # reported all the same, but nothing of it worked
