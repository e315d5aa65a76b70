"""Whose devices are they? Which job holds which accelerator, and which ones are held and do nothing.

Slurm's prolog tells by files, Kubernetes by the kubelet's socket; where there is no prolog, the environment of a Slurm
job's processes tells, as it does of ranks. A job is joined to any other metric by the device, in
tokenstone_job_device_info{device="GPU-..."}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from collector.sources.base import Parts, Source, SourceUnavailable
from collector.sources.job_cgroups import ROOT, JobCgroup, find_jobs
from collector.sources.job_files import FOLDER, Job, read_jobs
from collector.sources.job_ranks import Rank, job_of, rank_of, read_environments
from collector.sources.kubernetes import PodResources
from tokenstone.sample import Absence, DeviceInfo, Reading, labels

EVERY_SECONDS = 10.0
_FIRST_LOOKS = 30
_MOST_JOBS = 256
_MOST_RANKS = 1024
_ALLOCATED, _IDLE = "accel_allocated_ratio", "accel_allocated_idle_ratio"
_JOB, _RANK = "tokenstone_job_device_info", "tokenstone_rank_device_info"
_BUSY = "accel_busy_ratio"

Environments = list[tuple[JobCgroup, list[dict[str, str]]]]
"""The jobs' control groups, with what the environments of their processes tell."""


class AttributionSource(Source):
    """Jobs and ranks by device. `accelerators` gives what the sources of accelerators found last."""

    name = "attribution"
    metrics = (_ALLOCATED, _IDLE, _JOB, _RANK)
    every_seconds = EVERY_SECONDS

    def __init__(self, root: Path, accelerators: Callable[[], Iterable[Parts]]) -> None:
        self._root, self._accelerators = root, accelerators
        self._pods = PodResources(root)
        self._looks = _FIRST_LOOKS

    def read(self) -> Parts:
        """Read who holds what. A node without Slurm's files and without a kubelet is no failure."""
        found = list(self._accelerators())
        devices = [device for parts in found for device in parts.devices]
        # Drivers are slower to answer than files: at the start, look again soon.
        self._looks = max(self._looks - 1, 0)
        self.every_seconds = EVERY_SECONDS if devices or not self._looks else 0.0
        environments = [(cgroup, list(read_environments(self._root, cgroup.path))) for cgroup in find_jobs(self._root)]
        jobs, why = self._jobs(environments)
        if jobs is None:
            return Parts(absences=tuple(Absence(metric, why) for metric in self.metrics))
        readings: list[Reading] = []
        absences: list[Absence] = []
        held: set[str] = set()
        for job in jobs[:_MOST_JOBS]:
            by = labels(manager=job.manager, job_id=job.id, user=job.user, account=job.account)
            ids = resolve(job.devices, devices)
            held |= set(ids)
            readings += [Reading(_JOB, 1.0, id, by) for id in ids]
        busy = _busy(found)
        for device in devices:
            readings.append(Reading(_ALLOCATED, float(device.id in held), device.id))
            if device.id in held and device.id in busy:
                readings.append(Reading(_IDLE, float(busy[device.id] == 0), device.id))
            elif device.id in held:
                absences.append(Absence(_IDLE, "nobody tells how busy the device is", device.id))
        readings += self._ranks(environments, jobs, devices)
        if not devices:
            absences += [Absence(metric, "no accelerator is known here") for metric in self.metrics]
        return Parts(tuple(readings), tuple(absences))

    def _jobs(self, found: Environments) -> tuple[list[Job] | None, str]:
        jobs: list[Job] = []
        slurm = [entry for entry in found if entry[0].manager == "slurm"]
        is_known = (self._root / FOLDER).is_dir()
        if is_known:
            jobs += read_jobs(self._root)
        elif slurm or any((self._root / ROOT).glob("system.slice/*slurmstepd.scope")):
            told = [_first_job(cgroup, environments) for cgroup, environments in slurm]
            # A job that cannot be asked may hold any device: then nobody knows which ones are free.
            is_known = None not in told
            jobs += [job for job in told if job is not None] if is_known else []
        if self._pods.is_there():
            try:
                jobs += self._pods.read()
                is_known = True
            except SourceUnavailable as error:
                if not is_known:
                    return None, str(error)
        if is_known:
            return jobs, ""
        if slurm:
            return None, f"no prolog writes to /{FOLDER}, and the jobs' environments cannot be read"
        return None, f"no job manager tells of devices: no /{FOLDER}, no kubelet"

    def _ranks(self, found: Environments, jobs: Sequence[Job], devices: Sequence[DeviceInfo]) -> list[Reading]:
        names = {alias: job for job in jobs for alias in (job.id, job.alias) if alias}
        readings: dict[tuple[str, str], Reading] = {}
        for cgroup, environments in found:
            job = names.get(cgroup.job)
            for rank in filter(None, map(rank_of, environments)):
                for id in resolve(_device_of(rank, job), devices):
                    by = labels(
                        job_id=job.id if job else cgroup.job,
                        launcher=rank.launcher,
                        rank=str(rank.rank),
                        world_size=str(rank.world_size),
                    )
                    # A rank's children have its environment too; the device and the rank are the same.
                    readings[id, str(rank.rank)] = Reading(_RANK, 1.0, id, by)
                    if len(readings) >= _MOST_RANKS:
                        return list(readings.values())
        return list(readings.values())

    def close(self) -> None:
        """Close the channel to the kubelet."""
        self._pods.close()


def resolve(names: Iterable[str], devices: Sequence[DeviceInfo]) -> list[str]:
    """Return the ids of the devices that `names` mean: ids, numbers, or names that end in a number (Ascend910-3).

    A name that means no known device is kept out: a label with a made-up device would join to nothing.
    """
    by_id = {device.id: device.id for device in devices}
    by_index = {str(device.index): device.id for device in devices}
    found = (by_id.get(name) or by_index.get(name) or by_index.get(name.rpartition("-")[2]) for name in names)
    return list(dict.fromkeys(id for id in found if id is not None))


def _first_job(cgroup: JobCgroup, environments: Iterable[dict[str, str]]) -> Job | None:
    jobs = [job for environment in environments if (job := job_of(environment, cgroup.job)) is not None]
    return next((job for job in jobs if job.devices), jobs[0] if jobs else None)


def _device_of(rank: Rank, job: Job | None) -> tuple[str, ...]:
    if not rank.device:
        return ()
    # Slurm confines a job to its devices, which its processes then number from 0.
    if job is not None and job.devices and rank.device.isdigit() and rank.device not in job.devices:
        return job.devices[int(rank.device) : int(rank.device) + 1]
    return (rank.device,)


def _busy(found: Iterable[Parts]) -> dict[str, float]:
    busy: dict[str, float] = {}
    for parts in found:
        for reading in (*parts.held, *parts.readings):
            if reading.metric == _BUSY:
                busy[reading.device] = max(reading.value, busy.get(reading.device, 0.0))
    return busy
