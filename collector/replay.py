"""A recorded node played back through the same sources, at any speed.

The recording is copied to a folder of its own, in which files are replaced when their time comes; the agent reads it
as its root, by a clock that runs `speed` times as fast and begins when the recording did.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from collector.clock import Clock
from collector.loop import Stop
from collector.recording import CHANGES, FORMAT, INDEX, TOOLS
from tokenstone.errors import InvalidFile


def read_index(folder: Path) -> dict[str, Any]:
    """Return what a recording says of itself; raises InvalidFile where the folder is none."""
    path = folder / INDEX
    try:
        index: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidFile(
            f"cannot be read: {error.strerror}", where=str(path), hint="`tokenstone record` makes a recording"
        ) from None
    except ValueError:
        raise InvalidFile("is not JSON", where=str(path), hint="`tokenstone record` makes a recording") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT or not {"node", "unix_seconds"} <= index.keys():
        raise InvalidFile(f"is not a recording of format {FORMAT}", where=str(path), hint="record the node again")
    return dict(index)


class _Faster:
    """A stop that is waited for `speed` times as short."""

    def __init__(self, stop: threading.Event, speed: float) -> None:
        self._stop, self._speed = stop, speed

    def wait(self, timeout: float) -> bool:
        return self._stop.wait(timeout / self._speed)


class Replay:
    """Plays `folder` while it is entered. `stop` is set when the recording ends."""

    def __init__(self, folder: Path, speed: float, stop: threading.Event) -> None:
        self._index = read_index(folder)
        self._folder, self._speed, self._ended = folder, speed, stop
        self._begun = time.monotonic()
        self.clock = Clock(self._seconds, lambda: float(self._index["unix_seconds"]) + self._seconds(), lambda: 0.0)
        self.stop: Stop = _Faster(stop, speed)
        self.root = Path()

    def _seconds(self) -> float:
        return (time.monotonic() - self._begun) * self._speed

    def __enter__(self) -> Self:
        self.root = Path(tempfile.mkdtemp(prefix="tokenstone-replay-"))
        shutil.copytree(self._folder, self.root, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CHANGES))
        (self.root / TOOLS).mkdir(exist_ok=True)  # so that no tool of this machine is run
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._play, name="tokenstone-replay", daemon=True)
        self._thread.start()
        return self

    def _play(self) -> None:
        try:
            with gzip.open(self._folder / CHANGES, "rt", encoding="utf-8") as lines:
                for line in lines:
                    change = json.loads(line)
                    if self._ended.wait(max(0.0, change["seconds"] - self._seconds()) / self._speed):
                        return
                    self._apply(change["files"])
        except FileNotFoundError:
            return  # a machine that was written by hand stands still, and is played until it is stopped
        self._ended.wait(1.0 / self._speed)
        self._ended.set()

    def _apply(self, files: dict[str, str | None]) -> None:
        for name, text in files.items():
            path = self.root / name
            if text is None:
                path.unlink(missing_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(path.name + ".new")
            beside.write_text(text, encoding="utf-8")
            beside.replace(path)  # at once: no source sees half a file

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        shutil.rmtree(self.root, ignore_errors=True)
