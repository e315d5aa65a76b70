"""Progress of long work on stderr: moving bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cli.output import stderr

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_BARS = 8
"""Finished stages that stay in sight."""


class Stages:
    """Shows what is going on, stage after stage."""

    def __init__(self) -> None:
        self._console = stderr()
        self._bars: Progress | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the stages while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        columns = (
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.description:<9}[/]"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}[/]"),
        )
        with Progress(*columns, console=self._console) as self._bars:
            yield

    @contextmanager
    def stage(self, name: str, note: str = "") -> Iterator[Stage]:
        """Show one stage. A stage that raises stays unfinished."""
        self._hide_oldest()
        stage = Stage(name, self._console, self._bars)
        stage.note(note)
        yield stage
        stage.finish()

    def _hide_oldest(self) -> None:
        """Bars that do not fit the terminal would hide the newest: keep the last few of those that are done."""
        if self._bars is not None:
            for task in [task for task in self._bars.tasks if task.finished and task.visible][:-_BARS]:
                self._bars.update(task.id, visible=False)


class Stage:
    """One stage: a bar, or lines."""

    def __init__(self, name: str, console: Any, bars: Progress | None) -> None:
        self._name, self._console, self._bars = name, console, bars
        self._began = time.monotonic()
        self._last_note = ""
        self._finished = False
        self._task: TaskID | None = bars.add_task(name, total=None, note="") if bars else None

    def note(self, text: str) -> None:
        """Say what is being done now."""
        if not text or text == self._last_note:
            return
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, note=text)
        elif not self._last_note:
            self._console.print(f"{self._name}: {text}")
        self._last_note = text

    def warn(self, text: str) -> None:
        """Say that something went wrong and the work goes on."""
        self._console.print(f"{self._name}: warning: {text}", markup=False, highlight=False)

    def progress(self, done: int, total: int, text: str) -> None:
        """Say how far it is."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, total=total)
        self.note(text)

    def finish(self, note: str = "") -> None:
        """The stage ended well; saying so twice is once."""
        if self._finished:
            return
        self._finished = True
        self._last_note = note or self._last_note
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, total=1, completed=1, note=self._last_note)
            self._bars.stop_task(self._task)
        else:
            seconds = time.monotonic() - self._began
            self._console.print(f"{self._name}: done in {seconds:.1f} s ({self._last_note})")
