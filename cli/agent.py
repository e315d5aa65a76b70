"""`tokenstone agent`: the agent of one node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of settings. [default: /etc/tokenstone/agent.toml]")
    ] = None,
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
    replay: Annotated[
        Path | None, typer.Option("--replay", help="Folder of a recorded node to play instead of reading this one.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option("--speed", help="How many times as fast to play it. [default: 1]")
    ] = None,
    lifeline: Annotated[bool, typer.Option("--lifeline", hidden=True)] = False,
) -> None:
    """Sample this node's accelerators, network, storage, processor and memory. SIGUSR1 lets go of all drivers, so that
    a device can be reset or unbound; SIGUSR2 takes them again."""
    from cli.extras import needs  # noqa: PLC0415

    with needs("agent"):
        from collector.config import FILE_VARIABLE, load_settings  # noqa: PLC0415
        from collector.handover import become_agent  # noqa: PLC0415

    if config is not None:
        os.environ[FILE_VARIABLE] = str(config)
    if replay is not None and node is None:
        from collector.replay import read_index  # noqa: PLC0415

        node = read_index(replay)["node"]
    settings = load_settings(
        listen=listen,
        api=api,
        root=root,
        node=node,
        cluster=cluster,
        sample_seconds=sample_seconds,
        window_seconds=window_seconds,
        spool_dir=spool_dir,
        replay=replay,
        replay_speed=speed,
    )
    become_agent(settings, lifeline=lifeline)
