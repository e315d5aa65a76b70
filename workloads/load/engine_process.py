"""The reference engine in a process of its own, which the load then reaches over HTTP like any other endpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tokenstone.errors import OperationError, UsageError, WorkloadFailed
from workloads.progress import Progress

_STOP_SECONDS = 60.0


class EngineProcess:
    """Serves a spec while the block runs. `url` and `tokenizer_path` are there once it has begun."""

    def __init__(
        self, spec_path: Path, checkpoint: Path | None, *, threads: int | None, context: int, progress: Progress
    ) -> None:
        self._spec_path, self._checkpoint, self._threads, self._context = spec_path, checkpoint, threads, context
        self._progress = progress
        self.url = ""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="tokenstone-engine-")
        folder = Path(self._folder.name)
        self.tokenizer_path, self._record_path = folder / "tokenizer.json", folder / "record.json"
        arguments = ["serve", "--spec", str(self._spec_path), "--context", str(self._context), "--lifeline"]
        arguments += ["--record", str(self._record_path), "--tokenizer", str(self.tokenizer_path)]
        arguments += ["--threads", str(self._threads)] if self._threads else []
        arguments += ["--checkpoint", str(self._checkpoint)] if self._checkpoint else []
        command = [sys.executable, "-P", "-m", "workloads.main", *arguments]
        # Its stderr is ours. It ends when our end of its stdin closes, so it cannot outlive us.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ})
        try:
            self.url = self._wait_until_ready()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()

    def finish(self) -> Any:
        """End the server in order and return its record, a JSON object. Raises WorkloadFailed."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise WorkloadFailed("the engine does not end", where="serve") from None
        if code != 0 or not self._record_path.is_file():
            raise WorkloadFailed(f"the engine ended with code {code}", where="serve", hint="its log is with this one")
        return json.loads(self._record_path.read_text(encoding="utf-8"))

    def _wait_until_ready(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            match json.loads(line):
                case {"event": "phase", "name": str(name)}:
                    self._progress.phase(name)
                case {"event": "ready", "url": str(url)}:
                    return url
                case {"event": "error", "what": str(what), "where": where, "hint": hint}:
                    kind = UsageError if self._process.wait() == UsageError.exit_code else OperationError
                    raise kind(what, where=where, hint=hint)
        raise WorkloadFailed(f"the engine ended with code {self._process.wait()} before it was ready", where="serve")

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._folder.cleanup()
