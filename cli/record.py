"""`tokenstone record`: make a recording of this node that `tokenstone agent --replay` plays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonFlag

if TYPE_CHECKING:
    from cli.progress import Stage


def command(
    folder: Annotated[Path, typer.Argument(help="New folder for the recording.")],
    seconds: Annotated[float, typer.Option("--seconds", min=0, max=86_400, help="How long to record.")] = 60.0,
    every: Annotated[float, typer.Option("--every", min=0.2, max=3600, help="Time between two instants.")] = 1.0,
    root: Annotated[Path | None, typer.Option("--root", help="Folder that stands for /. [default: /]")] = None,
    node: Annotated[str | None, typer.Option("--node", help="Name of this node. [default: its host name]")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy what the agent's sources read of this node: files, outputs of tools, readings of drivers.

    Environments of processes are kept only as far as they tell a rank. Ctrl-C ends the recording early. Look at the
    folder before you pass it on: names of hosts, mounts, jobs and users are in it.
    """
    from cli.extras import needs  # noqa: PLC0415

    with needs("agent"):
        from collector.clock import Clock  # noqa: PLC0415
        from collector.config import load_settings  # noqa: PLC0415
        from collector.recording import OpenedFiles, Recorder, recording_commands  # noqa: PLC0415
        from collector.registry import build_sources, commands_of  # noqa: PLC0415

    from cli.output import print_json  # noqa: PLC0415
    from cli.progress import Stages  # noqa: PLC0415

    settings = load_settings(root=root, node=node, sample_seconds=every, window_seconds=max(every, 10.0))
    outputs: dict[str, str] = {}
    opened = OpenedFiles(settings.root)
    sources = build_sources(settings, commands=recording_commands(commands_of(settings), outputs))[:-1]
    recorder = Recorder(folder, settings.root, settings.node, sources, opened, outputs)
    stages = Stages()
    try:
        with stages.shown(), stages.stage("record", f"{settings.node}, {seconds:g} s") as stage:
            wait = _waiter(stage, seconds)
            instants = recorder.record(Clock(), seconds=seconds, every_seconds=every, wait=wait)
    finally:
        opened.close()
        for source in sources:
            source.close()
    if as_json:
        print_json({"folder": str(folder), "node": settings.node, "instants": instants})
    else:
        typer.echo(f"{instants} instants of {settings.node} in {folder}; play it: tokenstone agent --replay {folder}")


def _waiter(stage: Stage, total: float) -> Callable[[float], bool]:
    """Return what waits and shows how far the recording is. Ctrl-C ends it early; what there is then is whole."""
    import time  # noqa: PLC0415

    began = time.monotonic()

    def wait(seconds: float) -> bool:
        try:
            time.sleep(seconds)
        except KeyboardInterrupt:
            return True
        passed = time.monotonic() - began
        stage.progress(int(passed), max(int(total), 1), f"{passed:.0f} of {total:g} s")
        return False

    return wait
