"""`tokenstone serve-model`: the reference engine behind OpenAI's HTTP protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.output import JsonFlag


def command(
    preset: options.Preset = "cpu-small",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            help="Trained model, as `bench` and `train` leave it in their data folder. [default: untrained weights]",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--model-name", help="What clients call the model. [default: the preset's]")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port; 0 is any free one.")] = 8000,
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", min=1, help="Requests computed at once. [default: the preset's]")
    ] = None,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", min=0, help="Requests that may wait; more are told 429.")
    ] = 256,
    context: Annotated[
        int, typer.Option("--context", min=2, max=1_048_576, help="Tokens of a request, prompt and answer.")
    ] = 2048,
    token_budget: Annotated[
        int | None, typer.Option("--token-budget", min=1, help="Tokens of one iteration. [default: 512, or the batch]")
    ] = None,
    pages: Annotated[
        int | None,
        typer.Option("--pages", min=1, help="Pages of the cache, 16 tokens each. [default: enough for a full batch]"),
    ] = None,
    prefix_caching: Annotated[
        bool, typer.Option("--prefix-caching/--no-prefix-caching", help="Keep what prompts begin with.")
    ] = True,
    chunked_prefill: Annotated[
        bool, typer.Option("--chunked-prefill/--no-chunked-prefill", help="Prompts in parts, beside decoding.")
    ] = True,
    speculative_depth: Annotated[
        int,
        typer.Option(
            "--speculative-depth",
            min=0,
            max=1,
            help="Tokens guessed ahead; needs a model trained with --prediction-depths 1.",
        ),
    ] = 0,
    max_body_bytes: Annotated[
        int, typer.Option("--max-body-bytes", min=1024, help="Longest request body.")
    ] = 16_777_216,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of untrained weights.")] = 0,
    threads: options.Threads = None,
    lifeline: Annotated[bool, typer.Option("--lifeline", hidden=True)] = False,
    json: JsonFlag = False,
) -> None:
    """Serve the reference model to any OpenAI client: /v1/completions, /v1/chat/completions, /v1/models, /metrics, /health."""
    import os  # noqa: PLC0415

    from cli.extras import needs  # noqa: PLC0415
    from cli.processes import end_with_stdin  # noqa: PLC0415
    from workloads.presets import inference_spec  # noqa: PLC0415

    spec = inference_spec(preset)
    if lifeline:
        end_with_stdin()
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as workloads.main does, and before torch is imported
    with needs("workloads"):
        from workloads.serving.server import ServingOptions, serve_model  # noqa: PLC0415
    assert spec.model is not None  # noqa: S101  presets have one
    serving = ServingOptions(
        shape=spec.model, dtype=spec.dtype, checkpoint=checkpoint, max_batch=max_batch or spec.max_batch,
        context=context, max_waiting=max_waiting, token_budget=token_budget, pages=pages,
        prefix_caching=prefix_caching, chunked_prefill=chunked_prefill, body_bytes=max_body_bytes, name=name, speculative_depth=speculative_depth,
        threads=threads, seed=seed,
    )  # fmt: skip

    def ready(url: str) -> None:
        called = serving.name or serving.shape.name
        if json:
            typer.echo(f'{{"url": "{url}", "model": "{called}"}}')
        else:
            typer.echo(f"Serving {called} on {url}/v1", err=True)

    serve_model(serving, host=host, port=port, on_ready=ready)
