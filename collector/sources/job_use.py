"""What each job on the node uses of the host, by its control group (cgroup v2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from collector.sources.base import Parts, Source
from collector.sources.files import Files
from collector.sources.job_cgroups import ROOT, JobCgroup, find_jobs, parse_flat, parse_io, pod_names
from collector.sources.job_files import read_jobs
from tokenstone.sample import HOST, Absence, Reading, labels

RESCAN_SECONDS = 5.0
_MOST_JOBS = 256
_CPU, _MEMORY, _OOM = "job_cpu_seconds_total", "job_memory_bytes", "job_memory_kills_total"
_READ, _WRITTEN = "job_disk_read_bytes_total", "job_disk_written_bytes_total"


class JobUseSource(Source):
    """Processor time, memory, disk traffic and kills for want of memory of each job."""

    name = "job_use"
    metrics = (_CPU, _MEMORY, _OOM, _READ, _WRITTEN)

    def __init__(self, root: Path, monotonic: Callable[[], float]) -> None:
        self._root, self._monotonic = root, monotonic
        self._files = Files(root)
        self._jobs: list[JobCgroup] = []
        self._scan_at = 0.0

    def read(self) -> Parts:
        """Read all jobs. A node without any is no failure."""
        now = self._monotonic()
        if now >= self._scan_at:
            self._jobs, self._scan_at = self._scan(), now + RESCAN_SECONDS
        readings: list[Reading] = []
        absences: list[Absence] = []
        for job in self._jobs:
            by = labels(manager=job.manager, job_id=job.job)
            for file, take in _FILES.items():
                try:
                    values = take(self._files.text(f"{job.path}/{file}"))
                except (OSError, ValueError):
                    continue  # it has just ended, or this controller is not enabled for it
                readings += [Reading(metric, value, HOST, by) for metric, value in values.items()]
        if not self._jobs:
            unified = (self._root / ROOT / "cgroup.controllers").exists()
            reason = "no Slurm job or Kubernetes pod runs here" if unified else "no unified control groups (cgroup v2)"
            absences = [Absence(metric, reason) for metric in self.metrics]
        return Parts(tuple(readings), tuple(absences))

    def _scan(self) -> list[JobCgroup]:
        try:
            names = {job.alias: job.id for job in read_jobs(self._root) if job.alias}
        except OSError:  # no prolog writes files here: a job goes by the name of its control group
            names = {}
        names |= pod_names(self._root)
        return [replace(job, job=names.get(job.job, job.job)) for job in islice(find_jobs(self._root), _MOST_JOBS)]

    def close(self) -> None:
        """Close the files."""
        self._files.close()
        self._scan_at = 0.0


def _cpu(text: str) -> dict[str, float]:
    values = parse_flat(text)
    return {_CPU: values["usage_usec"] / 1e6} if "usage_usec" in values else {}


def _memory(text: str) -> dict[str, float]:
    return {_MEMORY: float(int(text))}


def _kills(text: str) -> dict[str, float]:
    values = parse_flat(text)
    return {_OOM: float(values["oom_kill"])} if "oom_kill" in values else {}


def _io(text: str) -> dict[str, float]:
    read, written = parse_io(text)
    return {_READ: float(read), _WRITTEN: float(written)}


_FILES: dict[str, Callable[[str], dict[str, float]]] = {
    "cpu.stat": _cpu,
    "memory.current": _memory,
    "memory.events": _kills,
    "io.stat": _io,
}
