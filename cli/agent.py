"""`tokenstone agent`: the agent of one node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import threading


def command(
    listen: Annotated[
        str | None, typer.Option("--listen", help="HOST:PORT of /metrics, or none. [default: :9478]")
    ] = None,
    api: Annotated[str | None, typer.Option("--api", help="URL of the service, or none. [default: none]")] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Folder that stands for /. [default: /]")] = None,
    node: Annotated[str | None, typer.Option("--node", help="Name of this node. [default: its host name]")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="Name of its cluster. [default: default]")] = None,
    sample_seconds: Annotated[
        float | None, typer.Option("--sample-seconds", help="Time between readings. [default: 1]")
    ] = None,
    window_seconds: Annotated[
        float | None,
        typer.Option("--window-seconds", help="Length of a window. [default: 10; 1 while a run is active]"),
    ] = None,
    spool_dir: Annotated[
        Path | None, typer.Option("--spool", help="Folder where batches wait for the service.")
    ] = None,
    lifeline: Annotated[bool, typer.Option("--lifeline", hidden=True)] = False,
) -> None:
    """Sample this node's accelerators, network, storage, processor and memory."""
    from cli.extras import needs  # noqa: PLC0415

    with needs("agent"):
        from collector.agent import run_agent  # noqa: PLC0415
        from collector.config import load_settings  # noqa: PLC0415

    from cli.processes import end_with_stdin  # noqa: PLC0415
    from tokenstone.client import Client  # noqa: PLC0415

    settings = load_settings(
        listen=listen,
        api=api,
        root=root,
        node=node,
        cluster=cluster,
        sample_seconds=sample_seconds,
        window_seconds=window_seconds,
        spool_dir=spool_dir,
    )
    stop = _stop_on_signals()
    if lifeline:
        end_with_stdin()
    if settings.api is None:
        run_agent(settings, None, stop)
        return
    key = settings.api_key.get_secret_value() if settings.api_key else None
    with Client(settings.api, api_key=key) as client:
        run_agent(settings, client, stop)


def _stop_on_signals() -> threading.Event:
    import signal  # noqa: PLC0415
    import threading  # noqa: PLC0415

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
