"""Traces of one job's ranks together: figures by rank and in all, and the facts from which its ledger is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenstone.errors import InvalidFile, UsageError
from tokenstone.trace.columns import FileColumns, read_columns
from tokenstone.trace.device import DeviceTrace, analyse_file
from tokenstone.trace.kernels import Classifier
from tokenstone.trace.waiting import find_waiting
from tokenstone.wire import Activity, DevicePhases, Phase, TrainingFacts

SUMMED = (
    "span_us", "busy_us", "compute_us", "copy_only_us", "communication_us", "overlap_us", "exposed_communication_us",
    "idle_us",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class JobTrace:
    """All devices of a job. `notes` say what is missing or odd; nothing is made up for it."""

    devices: list[DeviceTrace]
    files: list[FileColumns]
    notes: list[str]

    @property
    def device_name(self) -> str | None:
        """As the driver calls the devices; None where the traces do not say, or differ."""
        names = {file.device_name for file in self.files}
        return names.pop() if len(names) == 1 else None

    def totals(self) -> dict[str, float]:
        """Sums over the devices, in device-microseconds."""
        return {name: sum(getattr(device, name) for device in self.devices) for name in SUMMED}

    def straggler(self) -> tuple[str, float] | None:
        """The device that waited least for the others, and how much longer the others waited on average, in us."""
        waits = {device.name: device.waiting_us for device in self.devices if device.waiting_us is not None}
        if len(waits) < 2 or len(waits) < len(self.devices):
            return None
        slowest = min(waits, key=lambda name: waits[name])
        others = [wait for name, wait in waits.items() if name != slowest]
        return slowest, sum(others) / len(others) - waits[slowest]

    def facts(self, tokens: int = 0) -> TrainingFacts:
        """The traced time as one step of each device. `tokens`: trained meanwhile by all of them; 0 is unknown."""
        first = min(device.start_us for device in self.devices)
        return TrainingFacts(
            started_unix_seconds=max(0.0, first / 1e6) if first < 1e17 else 0.0,
            allocated_seconds=max(device.span_us for device in self.devices) / 1e6,
            devices=[DevicePhases(device=device.name, phases=[_phase(device)]) for device in self.devices],
            tokens=tokens,
        )


def read_job(
    paths: Sequence[Path],
    *,
    communication: Sequence[str] = (),
    progress: Callable[[Path], None] = lambda _path: None,
) -> JobTrace:
    """Read the traces of one job, a file a rank. `communication`: patterns of kernels that communicate, beside the
    known ones. `progress` is told each file before it is read.

    Raises InvalidFile for a file that is no trace, UsageError for ranks that do not belong together.
    """
    classifier = Classifier(communication)
    files: list[FileColumns] = []
    for path in paths:
        progress(path)
        files.append(read_columns(path, classifier))
    _check_together(files)
    devices = [device for number, file in enumerate(files) for device in analyse_file(file, number)]
    if not all(device.span_us > 0 for device in devices):
        raise InvalidFile("nothing in it lasted", where=str(files[0].path), hint="profile at least one whole step")
    sizes = {file.world_size for file in files if file.world_size is not None}
    notes = [f"{file.path.name}: {file.truncated}; what came before was read" for file in files if file.truncated]
    notes += [
        f"{file.path.name}: {file.unreadable:,} events without a readable time were left out"
        for file in files if file.unreadable
    ]  # fmt: skip
    notes += [
        f"{device.name}: no device events; from the host's operators, whose time is not the device's"
        for device in devices if device.basis == "host"
    ]  # fmt: skip
    if reason := find_waiting(devices, sizes.pop() if sizes else None):
        notes.append(reason)
    notes += _clocks(devices)
    return JobTrace(devices, files, notes)


def _check_together(files: Sequence[FileColumns]) -> None:
    """Ranks of different jobs make no ledger."""
    seen: dict[int, Path] = {}
    for file in files:
        if file.rank is not None and file.rank in seen:
            raise UsageError(
                f"{seen[file.rank].name} and {file.path.name} are both rank {file.rank}", where="trace",
                hint="give one file a rank, of one job and the same steps",
            )  # fmt: skip
        if file.rank is not None:
            seen[file.rank] = file.path
        if file.world_size != files[0].world_size:
            raise UsageError(
                f"{files[0].path.name} is of a job of {files[0].world_size} ranks, {file.path.name} of "
                f"{file.world_size}", where="trace", hint="give the ranks of one job",
            )  # fmt: skip


def _clocks(devices: Sequence[DeviceTrace]) -> list[str]:
    starts = [device.start_us for device in devices]
    apart = max(starts) - min(starts)
    if apart <= max(device.span_us for device in devices):
        return []
    return [
        f"the ranks' traces begin {apart / 1e6:,.3f} s apart, longer than any lasts: their clocks disagree, or they "
        "are of different steps"
    ]


def _phase(device: DeviceTrace) -> Phase:
    waiting = device.waiting_us or 0.0
    fetching = device.idle_by_cause_us.get("input", 0.0)
    seconds: dict[Activity, float] = {
        "compute": device.compute_us,
        "exposed_communication": device.exposed_communication_us - waiting,
        "load_imbalance": waiting,
        "input_stall": fetching,
        "host_overhead": device.idle_us - fetching,
    }
    return Phase(
        kind="step",
        start_seconds=0.0,
        duration_seconds=device.span_us / 1e6,
        activity_seconds={name: max(0.0, value) / 1e6 for name, value in seconds.items()},
        steps=1,
    )
