"""`tokenstone trace`: from any job's profiler traces to a ledger and a bill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Hardware, PriceBookFile, PricePerDeviceHour, PriceRow
from cli.output import JsonFlag, print_json, stderr, stdout

if TYPE_CHECKING:
    from tokenstone.ledger import Ledger
    from tokenstone.roofline import Roofline
    from tokenstone.trace.job import JobTrace

Files = Annotated[
    list[Path], typer.Argument(help="Traces of PyTorch's profiler, .json or .json.gz, one a rank.", show_default=False)
]
Communication = Annotated[
    list[str] | None,
    typer.Option("--communication", help="Pattern (regular expression) of kernels that communicate; repeatable."),
]
Tokens = Annotated[
    float | None, typer.Option("--tokens", help="Tokens that the given ranks trained in the traced time.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="A built-in model or a config.json; with --tokens it splits compute at the peak."),
]
Flops = Annotated[
    float | None,
    typer.Option("--flops", help="Instead of --model: model FLOPs of the given ranks in the traced time."),
]
Seq = Annotated[int, typer.Option("--seq", help="Tokens in a sequence.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Data type of the peak.")]


def command(
    files: Files,
    communication: Communication = None,
    tokens: Tokens = None,
    model: Model = None,
    flops: Flops = None,
    seq: Seq = 4096,
    dtype: Dtype = "bf16",
    hardware: Hardware = None,
    price_per_device_hour: PricePerDeviceHour = None,
    price_book: PriceBookFile = None,
    price_row: PriceRow = None,
    json: JsonFlag = False,
) -> None:
    """Read profiler traces of any PyTorch job into a ledger and a bill."""
    from cli.extras import needs  # noqa: PLC0415
    from cli.numbers import count  # noqa: PLC0415
    from cli.site import find_price  # noqa: PLC0415
    from cli.trace_view import document, print_trace  # noqa: PLC0415
    from tokenstone.cost import make_bill  # noqa: PLC0415

    price = find_price(price_per_device_hour, price_book, price_row)
    trained = count(tokens, "--tokens") if tokens is not None else 0
    with needs("trace"):
        from tokenstone.trace.job import read_job  # noqa: PLC0415
    with stderr().status("reading") as status:
        job = read_job(
            files, communication=communication or (), progress=lambda path: status.update(f"reading {path.name}")
        )
    roofline, ledger = _ledger(job, trained, model, flops, seq, dtype, hardware)
    bill = make_bill(ledger.seconds, trained, "trained", price)
    if json:
        return print_json(document(job, ledger, bill, roofline))
    return print_trace(job, ledger, bill, roofline, stdout())


def _ledger(
    job: JobTrace, tokens: int, model: str | None, flops: float | None, seq: int, dtype: str, hardware: str | None
) -> tuple[Roofline | None, Ledger]:
    """The ledger; compute is split only where the work and the hardware's peak are known."""
    from cli.numbers import positive  # noqa: PLC0415
    from tokenstone import hardware as catalogue  # noqa: PLC0415
    from tokenstone.errors import UsageError  # noqa: PLC0415
    from tokenstone.flops import AttentionCount, training_flops  # noqa: PLC0415
    from tokenstone.ledger import training_ledger  # noqa: PLC0415
    from tokenstone.model import load  # noqa: PLC0415
    from tokenstone.roofline import catalogue_roofline  # noqa: PLC0415

    if model is not None and flops is not None:
        raise UsageError("give either --model or --flops")
    if model is not None and not tokens:
        raise UsageError("--model needs --tokens", hint="say how many tokens the given ranks trained in that time")
    name = hardware or (catalogue.identify(job.device_name) if job.device_name else None)
    published = catalogue_roofline(name, dtype) if name is not None else None
    if model is not None:
        flops = training_flops(load(model), seq, AttentionCount.CAUSAL).flops_per_token * tokens
    if flops is None:
        return None, training_ledger(job.facts(tokens), 0.0, None)
    return published, training_ledger(job.facts(tokens), positive(flops, "--flops"), published)
