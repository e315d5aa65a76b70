"""Slurm's scripts under the environment that Slurm gives them; the batch script with real processes on this machine.

Not shown: a real slurmctld. `srun` here starts a command once a node with the variables that srun sets, and `scontrol`
prints the nodes.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e_support import eventually

from api import examples
from cli.job_run import run_devices
from cli.workload_files import read_spec
from collector.sources.job_files import Job, read_jobs
from tokenstone.client import Client
from tokenstone.errors import TokenstoneError
from tokenstone.run import TrainingSpec

FOLDER = Path(__file__).parents[2] / "deploy/slurm"
SCRIPTS = ["deploy/slurm/prolog", "deploy/slurm/epilog", "deploy/slurm/train.sbatch", "deploy/compose/setup",
           "deploy/docker/make-keys"]  # fmt: skip
BIN = Path(sys.executable).parent
PROBE = {
    "device_id": "host", "device_name": "some processor", "device_type": "cpu", "dtype": "fp32", "repetitions": 3,
    "gemm_flops_per_second": 1e12, "gemm_spread_ratio": 0.1, "memory_bytes_per_second": 1e11,
    "memory_spread_ratio": 0.1,
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(root, script):
    result = subprocess.run(
        [BIN / "shellcheck", root / script], check=False, capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 0, result.stdout


def run(script: str, root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # slurmd gives a prolog nothing but Slurm's own variables: no PATH, no HOME.
    told = environment | {"TOKENSTONE_ROOT": str(root)}
    return subprocess.run([FOLDER / script], check=False, env=told, cwd="/", capture_output=True, text=True, timeout=20)


JOB = {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_UID": "1000", "SLURM_JOB_USER": "alice", "SLURM_JOB_ACCOUNT": "physics lab",
    "SLURM_JOB_GPUS": "0,2-3", "SLURM_CLUSTER_NAME": "lab", "SLURMD_NODENAME": "n1", "SLURM_JOB_NODELIST": "n[1-2]",
}  # fmt: skip


def test_what_the_prolog_writes_the_agent_reads_and_the_epilog_takes_away(tmp_path):
    assert run("prolog", tmp_path, **JOB).returncode == 0
    assert run("prolog", tmp_path, **JOB | {"SLURM_JOB_ID": "4712", "SLURM_JOB_GPUS": "1"}).returncode == 0
    assert list(read_jobs(tmp_path)) == [
        Job("slurm", "4711", "alice", "physics lab", ("0", "2", "3")),
        Job("slurm", "4712", "alice", "physics lab", ("1",)),
    ]
    assert run("epilog", tmp_path, **JOB).returncode == 0
    assert [job.id for job in read_jobs(tmp_path)] == ["4712"]
    assert run("epilog", tmp_path, **JOB).returncode == 0, "a second epilog is no failure"


def test_a_job_by_sluid_is_told_by_it(tmp_path):
    run("prolog", tmp_path, **JOB, SLURM_JOB_SLUID="s5K1KKYAYG5D00")
    assert [job.alias for job in read_jobs(tmp_path)] == ["s5K1KKYAYG5D00"]


@pytest.mark.parametrize("script", ["prolog", "epilog"])
@pytest.mark.parametrize("id", [{}, {"SLURM_JOB_ID": "../../etc/passwd"}], ids=["none", "path"])
def test_an_odd_job_number_writes_nothing_and_drains_no_node(script, id, tmp_path):
    result = run(script, tmp_path, **id)
    assert (result.returncode, list(tmp_path.iterdir())) == (0, [])


def test_a_prolog_that_cannot_write_says_so_and_drains_no_node(tmp_path):
    (tmp_path / "run").write_text("a file where a folder should be")
    result = run("prolog", tmp_path, **JOB)
    assert result.returncode == 0
    assert "job 4711 is not told to the agent" in result.stderr


SRUN = """#!/bin/bash
# Starts the command once a node, as srun --ntasks-per-node=1 does. A probe is not what is tried here: it is at hand.
while [[ $1 == --* ]]; do shift; done
[[ "$1 $2" == "tokenstone probe" ]] && exec cat "$HOME/measured.json"
for ((rank = 0; rank < SLURM_JOB_NUM_NODES; rank++)); do
  SLURM_PROCID=$rank SLURM_NODEID=$rank SLURM_LOCALID=0 SLURM_NTASKS=$SLURM_JOB_NUM_NODES "$@" &
done
code=0
for job in $(jobs -p); do wait "$job" || code=1; done
exit $code
"""
SCONTROL = """#!/bin/sh
[ "$1 $2" = "show hostnames" ] && printf 'localhost\\n127.0.0.1\\n'
"""


@pytest.fixture
def slurm(tmp_path):
    """The environment of a batch script on two nodes, which both are this machine."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "measured.json").write_text(json.dumps(PROBE))
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 10_000), "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2", "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_CLUSTER_NAME": "lab", "SLURM_NTASKS_PER_NODE": "1",
    }  # fmt: skip


@pytest.fixture(scope="module")
def service(serve):
    """URL of a service for this file's runs."""
    with tempfile.TemporaryDirectory(prefix="tokenstone-") as folder, serve(Path(folder)) as url:
        yield url


@pytest.mark.slow
def test_the_batch_script_trains_on_two_nodes_and_the_service_scores_it(slurm, service):
    told = slurm | {"TOKENSTONE_API": service, "TOKENSTONE_CLUSTER": "lab"}
    command = ["bash", FOLDER / "train.sbatch", "--preset", "cpu-tiny", "--steps", "4"]
    result = subprocess.run(command, check=False, env=told, cwd="/", capture_output=True, text=True, timeout=150)
    assert result.returncode == 0, result.stderr
    with Client(service) as client:
        run = client.run(f"slurm-{slurm['SLURM_JOB_ID']}")
        score = client.score(run.run_id)
    assert (run.state, run.cluster) == ("complete", "lab")
    assert [(device.node, device.id) for device in run.devices] == [("localhost", "host"), ("127.0.0.1", "host")]
    assert score.validity == ["valid"]
    assert 0 < score.score < 100
    assert "Score" in result.stdout


def test_without_a_service_the_batch_script_only_runs(slurm, tmp_path):
    """srun is replaced by what prints its command: the script's own part, without the seconds of a training."""
    (tmp_path / "bin/srun").write_text('#!/bin/sh\necho "$@"\n')
    result = subprocess.run(
        ["bash", FOLDER / "train.sbatch", "--preset", "gpu-8"], env=slurm | {"SLURM_GPUS_ON_NODE": "8"},
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    work = tmp_path / f"tokenstone-{slurm['SLURM_JOB_ID']}"
    assert "--nnodes 2 --nproc-per-node 8" in result.stdout
    assert f"--rdzv-endpoint localhost:{20_000 + int(slurm['SLURM_JOB_ID']) % 10_000}" in result.stdout
    assert f"--out {work}/facts.json" in result.stdout
    layout = json.loads((work / "spec.json").read_text())["layout"]
    assert layout["experts"] * layout["pipeline"] * layout.get("data", 1) == 16


@pytest.fixture
def job(service, tmp_path):
    """`tokenstone job` for one CPU node: (exit code, stderr, the run as the service has it)."""
    (tmp_path / "probe.json").write_text(json.dumps(PROBE))
    (tmp_path / "spec.json").write_text(json.dumps(examples.RUN["spec"]))

    def run_it(run_id: str, *launcher: str):
        command = [sys.executable, "-P", "-m", "cli", "job", "--api", service, "--run-id", run_id]
        for name in ("spec", "facts", "probe"):
            command += [f"--{name}", str(tmp_path / f"{name}.json")]
        result = subprocess.run([*command, "--", *launcher], check=False, capture_output=True, text=True, timeout=60)
        with Client(service) as client:
            return result.returncode, result.stderr, client.run(run_id)

    return run_it


@pytest.mark.slow
def test_a_job_that_fails_is_a_failed_run_with_its_exit_code(job):
    code, _, run = job("fails", "sh", "-c", "exit 7")
    assert (code, run.state, run.reason) == (7, "failed", "sh ended with code 7")


@pytest.mark.slow
def test_a_job_without_facts_says_where_they_should_be(job):
    code, err, run = job("no-facts", "true")
    assert (code, run.state) == (1, "failed")
    assert "left no facts" in err
    assert "a file system that this node sees" in err


@pytest.mark.slow
def test_a_job_that_is_cancelled_takes_its_processes_along_and_is_a_failed_run(service, job, tmp_path):
    with ThreadPoolExecutor() as pool:
        # What it starts waits for nothing: it ends because `tokenstone job` is told to, as Slurm tells at a time limit.
        script = f"echo $PPID > {tmp_path}/parent; exec sleep 300"
        ended = pool.submit(job, "cancelled", "sh", "-c", script)
        with Client(service) as client:
            assert eventually(lambda: any(run.state == "running" for run in client.runs()))
        assert eventually(lambda: (tmp_path / "parent").is_file() and (tmp_path / "parent").read_text().strip())
        os.kill(int((tmp_path / "parent").read_text()), signal.SIGTERM)
        code, _, run = ended.result(timeout=60)
    assert (code, run.state, run.reason) == (130, "failed", "interrupted")


NODE = examples.BATCH["node"]


@pytest.fixture
def gpus(service):
    """A client of a service that knows a node with one GPU more than it has ranks."""
    devices = [
        {"id": f"GPU-{n}", "kind": "accelerator", "vendor": "NVIDIA", "model": "NVIDIA H100 80GB HBM3", "index": n}
        for n in (2, 0, 1)
    ]
    host = {"id": "host", "kind": "host", "vendor": "", "model": "some host"}
    with Client(service) as client:
        batch = examples.BATCH | {"cluster": "gpus", "devices": [host, *devices], "epoch": "gpus"}
        client.push_windows(gzip.compress(json.dumps(batch).encode()))
        yield client


def spec_of(ranks: int) -> TrainingSpec:
    spec = TrainingSpec.model_validate(examples.RUN["spec"])
    return spec.model_copy(update={"layout": spec.layout.model_copy(update={"experts": ranks})})


def test_ranks_get_the_first_accelerators_that_the_agents_know(gpus):
    devices = run_devices(gpus, "gpus", [NODE], spec_of(2), None)
    assert [(device.id, device.node, device.hardware) for device in devices] == [
        ("GPU-0", NODE, "h100-sxm"), ("GPU-1", NODE, "h100-sxm"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "ranks", "advice"),
    [
        (["elsewhere"], 1, "knows no node 'elsewhere' in cluster 'gpus' .start its agent"),
        ([NODE], 4, "has 3 accelerators, the spec takes 4 a node .write the spec with another --nproc"),
        ([NODE, "other"], 3, "3 ranks on 2 nodes .write the spec with --nproc NODES x DEVICES"),
    ],
)
def test_nodes_that_do_not_fit_the_spec_say_what_to_do(gpus, nodes, ranks, advice):
    with pytest.raises(TokenstoneError, match=advice):
        run_devices(gpus, "gpus", nodes, spec_of(ranks), None)


def test_a_spec_that_is_none_says_how_to_get_one(tmp_path):
    (tmp_path / "spec.json").write_text('{"kind": "training"}')
    with pytest.raises(TokenstoneError, match=r"not a spec of training: .*--write-spec FILE"):
        read_spec(tmp_path / "spec.json")
