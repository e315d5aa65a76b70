"""`tokenstone score`: a past job from a site's own Prometheus, without any agent of ours."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import Hardware, PriceBookFile, PricePerDeviceHour, PriceRow
from cli.output import JsonFlag, print_json, stderr, stdout

From = Annotated[str, typer.Option("--from", help="Start of the job: 2026-11-01T08:00:00Z, or Unix seconds.")]
To = Annotated[str, typer.Option("--to", help="And its end.")]
Job = Annotated[
    str | None,
    typer.Option("--job", help="Its name: hpc_job, exported_job, pod or job of the series. [default: every device]"),
]
Selector = Annotated[str, typer.Option("--selector", help="""More matchers of PromQL, such as 'cluster="a"'.""")]
Step = Annotated[
    float | None, typer.Option("--step", min=1, help="Length of a window, seconds. [default: 60, more of long jobs]")
]


def command(
    prometheus: Annotated[
        str, typer.Option("--prometheus", envvar="TOKENSTONE_PROMETHEUS", help="URL of the Prometheus.")
    ],
    start: From,
    end: To,
    job: Job = None,
    selector: Selector = "",
    tokens: Annotated[float | None, typer.Option("--tokens", help="Tokens that the job worked off.")] = None,
    flops_per_token: Annotated[
        float | None, typer.Option("--flops-per-token", help="Its work, for a score against the peak.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Data type of the peak.")] = "bf16",
    hardware: Hardware = None,
    price_per_device_hour: PricePerDeviceHour = None,
    price_book: PriceBookFile = None,
    price_row: PriceRow = None,
    step: Step = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Longest wait for one answer, seconds.")] = 60.0,
    json: JsonFlag = False,
) -> None:
    """Resource panel, energy and cost of a past job, from dcgm-exporter's and node_exporter's history.

    Says what such a history cannot tell. Prometheus learns who we are from TOKENSTONE_PROMETHEUS_TOKEN, or from
    ..._USER and ..._PASSWORD, each also from a file: ..._TOKEN_FILE.
    """
    from cli.extras import needs  # noqa: PLC0415
    from cli.numbers import count, positive  # noqa: PLC0415
    from cli.past import Span, describe, past_span  # noqa: PLC0415
    from cli.site import find_price  # noqa: PLC0415
    from tokenstone import hardware as catalogue  # noqa: PLC0415
    from tokenstone.run import JobSpec  # noqa: PLC0415

    price = find_price(price_per_device_hour, price_book, price_row)
    told = count(tokens, "--tokens") if tokens is not None else 0
    if flops_per_token is not None:
        positive(flops_per_token, "--flops-per-token")
    if hardware is not None:
        catalogue.get(hardware)
    span: Span = past_span(start, end)
    spec = JobSpec(preset=(job or "all devices")[:100], flops_per_token=flops_per_token, dtype=dtype)
    with needs("agent"):
        from collector.history.job import find_job  # noqa: PLC0415
        from collector.history.prometheus import Prometheus  # noqa: PLC0415
        from collector.history.windows import read_history  # noqa: PLC0415
    with Prometheus(prometheus, timeout=timeout) as server, stderr().status("asking Prometheus") as status:
        found = find_job(server, job, selector, span.start, span.end)
        length = step or span.step(len(found.devices))
        windows = span.windows(length)
        history = read_history(
            server, found, span.start, span.end, windows, progress=lambda name: status.update(f"reading {name}")
        )
    document = describe(found, history, span, windows, spec, told, hardware, price)
    if json:
        return print_json(document)
    from cli.past_view import print_past  # noqa: PLC0415

    return print_past(document, stdout())
