"""Jobs as the kernel's control groups show them: which there are, what they use, which processes they have.

Slurm puts a job at system.slice/slurmstepd.scope/job_123, or from 26.05 on at a folder named after its SLUID
(slurm.schedmd.com/cgroup_v2.html); with several slurmd on a node the scope is NODE_slurmstepd.scope. The kubelet puts
a pod at kubepods.slice/.../kubepods-burstable-podUID.slice, or kubepods/burstable/podUID without systemd.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = "sys/fs/cgroup"
PODS = "var/log/pods"
_SLURM = re.compile(r"(?:^|/)(?:[^/]+_)?slurmstepd\.scope/(?:job_(\d+)|(s[0-9A-HJKMNP-TV-Z]{13}))(?=/|$)")
_SLURM_V1 = re.compile(r"(?:^|/)slurm(?:_[^/]+)?/uid_\d+/job_(\d+)(?=/|$)")
_POD = re.compile(r"(?:^|/)(?:kubepods[^/]*-)?pod([0-9a-f]{8}[-_][0-9a-f-_]{27})(?:\.slice)?(?=/|$)")


@dataclass(frozen=True, slots=True)
class JobCgroup:
    """One job's control group. `job` is Slurm's job number or SLUID, or a pod's UID; `path` is relative to the root."""

    manager: str
    job: str
    path: str


def job_of(path: str) -> tuple[str, str] | None:
    """Return manager and job of a process in the control group `path`, or None where it belongs to no job.

    >>> job_of("/system.slice/slurmstepd.scope/job_4711/step_0/user/task_0")
    ('slurm', '4711')
    >>> job_of("/system.slice/n1_slurmstepd.scope/s5K1KKYAYG5D00/step_batch")
    ('slurm', 's5K1KKYAYG5D00')
    """
    slurm = _SLURM.search(path) or _SLURM_V1.search(path)
    if slurm:
        return "slurm", next(group for group in slurm.groups() if group)
    pod = _POD.search(path)
    return ("kubernetes", pod[1].replace("_", "-")) if pod else None


def find_jobs(root: Path) -> Iterator[JobCgroup]:
    """Yield the jobs of the unified hierarchy (cgroup v2) below `root`."""
    base = root / ROOT
    patterns = (
        "system.slice/*slurmstepd.scope/*",
        "kubepods.slice/kubepods-pod*.slice",
        "kubepods.slice/kubepods-*.slice/kubepods-*-pod*.slice",
        "kubepods/pod*",
        "kubepods/*/pod*",
    )
    for pattern in patterns:
        for folder in sorted(base.glob(pattern)):
            path = str(folder.relative_to(base))
            found = job_of(path)
            if found and (folder / "cgroup.procs").exists():
                yield JobCgroup(*found, f"{ROOT}/{path}")


def pod_names(root: Path) -> dict[str, str]:
    """Return the pods of the node by UID, as namespace/name: so the kubelet names the folders of their logs."""
    try:
        folders = [path.name.split("_") for path in (root / PODS).iterdir()]
    except OSError:
        return {}
    return {uid: f"{namespace}/{name}" for namespace, name, uid in (parts for parts in folders if len(parts) == 3)}


def parse_flat(text: str) -> dict[str, int]:
    """Parse a flat keyed file (cpu.stat, memory.events) to numbers by key.

    >>> parse_flat("usage_usec 12\\nuser_usec 7\\n")
    {'usage_usec': 12, 'user_usec': 7}
    """
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def parse_io(text: str) -> tuple[int, int]:
    """Parse io.stat to the bytes read and written, all devices together.

    >>> parse_io("259:0 rbytes=4096 wbytes=8192 rios=1 wios=2\\n8:0 rbytes=1 wbytes=1\\n")
    (4097, 8193)
    """
    fields = [field.partition("=") for field in text.split()]
    totals = [
        sum(int(value) for name, _, value in fields if name == key and value.isdigit()) for key in ("rbytes", "wbytes")
    ]
    return totals[0], totals[1]
