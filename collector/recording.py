"""A recorded node: a folder that stands for `/`, and what changed in it later.

What the sources open below /proc, /sys and /run is copied, and what vendors' tools print (tools/). What a driver's
library, an exporter or a file system's size answered cannot be copied as a file; the readings made of it are kept
instead (readings/NAME.json). `recording.json` says what there is, `changes.jsonl.gz` has a line for each later instant.

Of a process's environment only the variables that tell its rank are kept: it may hold secrets.
"""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from collector.clock import Clock
from collector.sources.base import Source, take
from collector.sources.job_ranks import parse_environ
from collector.sources.tool import Commands, output_name
from tokenstone.errors import Conflict
from tokenstone.sample import Sample

FORMAT = 1
INDEX, CHANGES, TOOLS, READINGS = "recording.json", "changes.jsonl.gz", "tools", "readings"
AS_READINGS = ("nvml", "amd", "moorethreads", "dcgm_exporter", "node_exporter", "filesystem")
"""Sources that ask something else than files and tools."""
_FOLDERS = ("proc", "sys", "run/tokenstone")
# Sources look whether these are there without opening them.
_PRESENCE = ("sys/block/*/device", "sys/class/net/*/device", "sys/class/drm/*/device/hwmon/*", "var/log/pods/*")
_LARGEST = 4 << 20


class OpenedFiles:
    """The files below a root that this process has opened or listed since this was made."""

    def __init__(self, root: Path) -> None:
        self._prefixes = tuple(f"{str(root).rstrip('/')}/{folder}/" for folder in _FOLDERS)
        self._skip = len(str(root).rstrip("/")) + 1
        self._guard = threading.Lock()
        self._seen: set[str] = set()
        self._is_on = True
        sys.addaudithook(self._hear)  # Python has no way to take one away again

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_on and event == "open" and isinstance(arguments[0], str | Path):
            path = str(arguments[0])
            if path.startswith(self._prefixes):
                with self._guard:
                    self._seen.add(path[self._skip :])

    def paths(self) -> list[str]:
        """Return them, relative to the root, in order."""
        with self._guard:
            return sorted(self._seen)

    def close(self) -> None:
        """Hear no more."""
        self._is_on = False


def recording_commands(run: Commands, outputs: dict[str, str]) -> Commands:
    """Return what runs a tool as `run` does and keeps what it printed in `outputs`, by the name of its file."""

    def keep(tool: str, arguments: Sequence[str]) -> str:
        text = run(tool, arguments)
        outputs[f"{TOOLS}/{output_name(tool, arguments)}"] = text
        return text

    return keep


def encode(sample: Sample) -> str:
    """Return what a source gave as JSON."""
    return json.dumps(
        {
            "error": sample.error,
            "readings": [[r.metric, r.value, r.device, dict(r.labels)] for r in (*sample.held, *sample.readings)],
            "absences": [[a.metric, a.reason, a.device] for a in sample.absences],
            "devices": [asdict(device) for device in sample.devices],
        }
    )


class Recorder:
    """Writes one node's recording. `sources` were made to run tools by `recording_commands(…, outputs)`."""

    def __init__(
        self,
        folder: Path,
        root: Path,
        node: str,
        sources: Sequence[Source],
        opened: OpenedFiles,
        outputs: dict[str, str],
    ) -> None:
        self._folder, self._root, self._node = folder, root, node
        self._sources, self._opened, self._outputs = sources, opened, outputs
        self._known: dict[str, str] = {}
        self._readings: dict[str, str] = {}
        self._due: dict[str, float] = {}

    def record(self, clock: Clock, *, seconds: float, every_seconds: float, wait: Callable[[float], bool]) -> int:
        """Read all sources now and each `every_seconds` for `seconds`; return the number of instants recorded.

        `wait` waits that long and returns whether to stop. Raises Conflict where the folder holds anything.
        """
        if self._folder.exists() and any(self._folder.iterdir()):
            raise Conflict("the folder is not empty", where=str(self._folder), hint="name a new one")
        (self._folder / TOOLS).mkdir(parents=True)
        start, unix = clock.monotonic(), clock.unix()
        names = [source.name for source in self._sources]
        index = {"format": FORMAT, "node": self._node, "unix_seconds": unix, "sources": names}
        instants = 0
        with gzip.open(self._folder / CHANGES, "wt", encoding="utf-8") as changes:
            while True:
                at = clock.monotonic() - start
                changed = self._changed(self._look(clock))
                if instants == 0:
                    self._write(changed)
                else:
                    changes.write(json.dumps({"seconds": round(at, 3), "files": changed}) + "\n")
                instants += 1
                due = start + instants * every_seconds
                if due - start > seconds + every_seconds / 2 or wait(max(0.0, due - clock.monotonic())):
                    break
        (self._folder / INDEX).write_text(json.dumps({**index, "seconds": round(at, 3)}, indent=2) + "\n")
        return instants

    def _look(self, clock: Clock) -> dict[str, str]:
        """Read every source and return the files that it opened, and what is kept instead of files."""
        now = clock.monotonic()
        for source in self._sources:
            if now < self._due.get(source.name, now):
                continue  # a tool is not run more often than the agent would
            self._due[source.name] = now + source.every_seconds
            sample = take(source, clock)
            if source.name in AS_READINGS:
                self._readings[f"{READINGS}/{source.name}.json"] = encode(sample)
        kept = dict(self._readings)
        for path in self._opened.paths():
            text = _copy(self._root / path)
            if text is not None:
                kept[path] = text
        return kept | self._outputs

    def _changed(self, now: dict[str, str]) -> dict[str, str | None]:
        changed: dict[str, str | None] = {path: text for path, text in now.items() if self._known.get(path) != text}
        changed |= dict.fromkeys(self._known.keys() - now.keys())
        self._known = now
        return changed

    def _write(self, files: dict[str, str | None]) -> None:
        for path, text in files.items():
            if text is not None:
                (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
                (self._folder / path).write_text(text, encoding="utf-8")
        for pattern in _PRESENCE:
            for found in self._root.glob(pattern):
                (self._folder / found.relative_to(self._root)).mkdir(parents=True, exist_ok=True)


def _copy(path: Path) -> str | None:
    try:
        data = path.read_bytes()[:_LARGEST]
    except OSError:
        return None
    if path.name == "environ":
        data = b"\0".join(f"{name}={value}".encode() for name, value in parse_environ(data).items())
    return data.decode("utf-8", "replace")
