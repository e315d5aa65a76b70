"""`tokenstone compare A B`: which of two is worth the money, and where the difference lies."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cli import options
from cli.output import JsonFlag, print_json, stdout
from cli.write_document import Form, Output

_SIDE = "Run ids (a,b,c), a cluster, result files (a.json,b.json), or published:KEY."


def command(
    a: Annotated[str, typer.Argument(metavar="A", help=_SIDE)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same. Ratios are B over A.")],
    api: options.Api = "http://127.0.0.1:8470",
    spec: Annotated[
        str | None,
        typer.Option("--spec", help="Of a cluster, the runs of this spec. [default: the one both have most runs of]"),
    ] = None,
    kind: Annotated[
        Literal["training", "inference"] | None, typer.Option("--kind", help="Of a bench, this part.")
    ] = None,
    form: Form = None,
    output: Output = None,
    json: JsonFlag = False,
) -> None:
    """Compare B with A: the verdict, the difference itemised, the break-even price, and what cannot be said.

    Only runs of one spec are judged. The service is asked for runs and clusters; files need none.
    """
    import shlex  # noqa: PLC0415
    import time  # noqa: PLC0415

    from cli.sides import choose, gather  # noqa: PLC0415
    from cli.write_document import check_form, deliver  # noqa: PLC0415
    from tokenstone.client import Client  # noqa: PLC0415
    from tokenstone.compare import compare_sides  # noqa: PLC0415

    check_form(form, output, json=json)
    with Client(api) as client:
        left, right = gather(a, client, "A"), gather(b, client, "B")
    side_a, side_b = choose(left, right, spec, kind)
    again = ["tokenstone", "compare", a, b]
    again += ["--spec", spec] if spec else []
    again += ["--kind", kind] if kind else []
    comparison = compare_sides(
        side_a,
        side_b,
        facts=left.facts | right.facts,
        output_seconds=left.output_seconds | right.output_seconds,
        created_unix_seconds=time.time(),
        reproduce=[shlex.join(again)],
    )
    if json:
        return print_json(comparison.model_dump(mode="json"))
    if form is not None or output is not None:
        return deliver(comparison, form, output)
    from cli.compare_view import print_comparison  # noqa: PLC0415

    print_comparison(comparison, stdout())
    return None
