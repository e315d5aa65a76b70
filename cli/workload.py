"""Runs a reference workload in a process of its own and brings its result back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from cli.processes import Child
from cli.progress import Stage
from tokenstone.errors import TokenstoneError, UsageError, WorkloadFailed


def run_workload(
    command: Literal["probe", "train", "infer"],
    arguments: list[str],
    out: Path,
    *,
    stage: Stage,
    log_dir: Path,
    alive: Callable[[], None] = lambda: None,
    processes: int = 1,
    max_restarts: int = 0,
    launcher: Sequence[str] = (),
) -> Any:
    """Run `workloads.main command`, show its progress, and return the JSON document that it wrote to `out`.

    `alive` is called about once a second while it runs. More than one process are started by torchrun, and so is one
    that may be restarted; `launcher` goes before the command line. Raises what the workload says went wrong, in its
    last attempt.
    """
    out.unlink(missing_ok=True)
    given = [command, *arguments, "--out", str(out), "--lifeline", "--launched", repr(time.monotonic())]
    module = "workloads.main"
    if processes > 1 or max_restarts:
        torchrun = ["--standalone", "--nproc-per-node", str(processes), "--max-restarts", str(max_restarts)]
        module, given = "torch.distributed.run", [*torchrun, "--module", "workloads.main", *given]
    figures, error = "", None
    with Child(command, module, given, log_dir, launcher=launcher, PYTHONSAFEPATH="1") as child:
        while True:
            try:
                message = child.next_message(timeout=1.0)
            except EOFError:
                break
            alive()
            if message is not None:
                error = _error(message, child, error)
                if error is not None and not max_restarts:
                    break
                figures = _show(message, stage) or figures
        code = child.wait(30)
    if error is not None and code != 0:
        raise error
    if code != 0 or not out.is_file():
        raise WorkloadFailed(
            f"{command} ended with code {code}: {child.last_words()}", hint=f"its log is {child.log_path}"
        )
    if figures:
        stage.finish(figures)
    return json.loads(out.read_text(encoding="utf-8"))


def _error(message: dict[str, Any], child: Child, before: TokenstoneError | None) -> TokenstoneError | None:
    """The first error of this attempt; a new attempt begins with the import of torch and has none yet."""
    match message:
        case {"event": "phase", "name": "import"}:
            return None
        case {"event": "error", "what": str(what)} if before is None:
            where, hint = str(message.get("where", "")), str(message.get("hint", ""))
            kind: type[TokenstoneError] = WorkloadFailed
            if message.get("exit_code") == UsageError.exit_code:
                kind = UsageError
            return kind(what, where=where or child.name, hint=hint)
        case _:
            return before


def _show(message: dict[str, Any], stage: Stage) -> str:
    """Show a message; return its figures, if it has any."""
    match message:
        case {"event": "phase", "name": str(name)}:
            stage.note(name)
        case {"event": "progress", "done": int(done), "total": int(total)}:
            figures = _figures(message)
            stage.progress(done, total, figures)
            return figures
        case {"event": "warning", "what": str(what)}:
            stage.warn(what)
        case _:
            pass
    return ""


def _figures(message: dict[str, Any]) -> str:
    """The figures of a progress message, in words."""
    texts = [f"{message['done']}/{message['total']}"]
    if "tokens_per_second" in message:
        texts.append(f"{message['tokens_per_second']:,.0f} tokens/s")
    if "loss" in message:
        texts.append(f"loss {message['loss']:.2f}")
    return ", ".join(texts)
