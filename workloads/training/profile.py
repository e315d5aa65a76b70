"""Some steps under torch's profiler, on request: a trace of every rank for Perfetto or Holistic Trace Analysis.

A profiled step is slower by a tenth or so, which the provenance says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from workloads.files import whole_file


@dataclass(frozen=True, slots=True)
class Profiling:
    """The first `steps` counted steps, into `folder`; 0 is none."""

    steps: int = 0
    folder: Path = Path()

    @contextmanager
    def session(self) -> Iterator[Callable[[int], None]]:
        """Around the loop. What it yields is called before each step with its number among the counted ones.

        Raises NotWritable for a folder that cannot be written.
        """
        running: list[torch.profiler.profile] = []
        left = self.steps

        def before(counted: int) -> None:
            nonlocal left
            if running and left == 0:
                self._write(running.pop())
            if counted >= 0 and left:
                if not running:
                    running.append(torch.profiler.profile())
                    running[0].start()
                left -= 1

        try:
            yield before
        finally:
            if running:
                self._write(running.pop())

    def _write(self, profile: torch.profiler.profile) -> None:
        profile.stop()
        rank = dist.get_rank() if dist.is_initialized() else 0
        path = self.folder / f"trace-rank{rank}.json"
        with whole_file(path) as temporary:
            self.folder.mkdir(parents=True, exist_ok=True)
            profile.export_chrome_trace(str(temporary))

    def provenance(self) -> dict[str, str]:
        """What a report should say."""
        return {"profiled_steps": str(self.steps)} if self.steps else {}
