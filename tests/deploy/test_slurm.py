"""Slurm's scripts under the environment that Slurm gives them; the batch script with real processes on this machine.

Not shown: a real slurmctld. `srun` here starts a command once a node with the variables that srun sets, `scontrol` prints
the nodes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from api import examples
from collector.sources.job_files import Job, read_jobs
from tokenstone.client import Client

FOLDER = Path(__file__).parents[2] / "deploy/slurm"
SCRIPTS = ["deploy/slurm/prolog", "deploy/slurm/epilog", "deploy/slurm/train.sbatch", "deploy/compose/setup",
           "deploy/docker/make-keys"]  # fmt: skip
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(root, script):
    result = subprocess.run([BIN / "shellcheck", root / script], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout


def run(script: str, root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # slurmd gives a prolog nothing but Slurm's own variables: no PATH, no HOME.
    told = environment | {"TOKENSTONE_ROOT": str(root)}
    return subprocess.run([FOLDER / script], env=told, cwd="/", capture_output=True, text=True, timeout=20)


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
# Starts the command once a node, as srun --ntasks-per-node=1 does; --nodes=1 is one.
nodes=$SLURM_JOB_NUM_NODES
while [[ $1 == --* ]]; do [[ $1 == --nodes=* ]] && nodes=${1#--nodes=}; shift; done
for ((rank = 0; rank < nodes; rank++)); do
  SLURM_PROCID=$rank SLURM_NODEID=$rank SLURM_LOCALID=0 SLURM_NTASKS=$nodes "$@" &
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
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 10_000), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2",
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CLUSTER_NAME": "lab", "SLURM_NTASKS_PER_NODE": "1",
    }  # fmt: skip


@pytest.mark.slow
def test_the_batch_script_trains_on_two_nodes_and_the_service_scores_it(slurm, serve, tmp_path):
    with serve(tmp_path / "data") as url:
        told = slurm | {"TOKENSTONE_API": url, "TOKENSTONE_CLUSTER": "lab"}
        command = ["bash", FOLDER / "train.sbatch", "--preset", "cpu-tiny", "--steps", "4"]
        result = subprocess.run(command, env=told, cwd="/", capture_output=True, text=True, timeout=150)
        assert result.returncode == 0, result.stderr
        with Client(url) as client:
            run = client.run(f"slurm-{slurm['SLURM_JOB_ID']}")
            assert (run.state, run.cluster) == ("complete", "lab")
            assert [(device.node, device.id) for device in run.devices] == [
                ("localhost", "host"),
                ("127.0.0.1", "host"),
            ]
            score = client.score(run.run_id)
    assert score.validity == []
    assert score.score is not None
    assert "Score" in result.stdout


def test_without_a_service_the_batch_script_only_runs(slurm, tmp_path):
    """srun is replaced by what prints its command: the script's own part, without the seconds of a training."""
    (tmp_path / "bin/srun").write_text('#!/bin/sh\necho "$@"\n')
    result = subprocess.run(
        ["bash", FOLDER / "train.sbatch", "--preset", "gpu-8"], env=slurm | {"SLURM_GPUS_ON_NODE": "8"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    work = tmp_path / f"tokenstone-{slurm['SLURM_JOB_ID']}"
    assert "--nnodes 2 --nproc-per-node 8" in result.stdout
    assert f"--rdzv-endpoint localhost:{20_000 + int(slurm['SLURM_JOB_ID']) % 10_000}" in result.stdout
    assert f"--out {work}/facts.json" in result.stdout
    layout = json.loads((work / "spec.json").read_text())["layout"]
    assert layout["experts"] * layout["pipeline"] * layout.get("data", 1) == 16


@pytest.fixture
def one_job(serve, tmp_path):
    """`tokenstone job` for one CPU node: (exit code, stderr, the run as the service has it)."""
    probe = {
        "device_id": "host", "device_name": "some processor", "device_type": "cpu", "dtype": "fp32", "repetitions": 3,
        "gemm_flops_per_second": 1e11, "memory_bytes_per_second": 1e10, "gemm_spread_ratio": 0.1,
        "memory_spread_ratio": 0.1,
    }  # fmt: skip
    (tmp_path / "probe.json").write_text(json.dumps(probe))
    (tmp_path / "spec.json").write_text(json.dumps(examples.RUN["spec"]))

    def job(*launcher: str, more: tuple[str, ...] = ()):
        with serve(tmp_path / "data") as url:
            command = [
                sys.executable,
                "-P",
                "-m",
                "cli",
                "job",
                "--api",
                url,
                "--spec",
                tmp_path / "spec.json",
                "--run-id",
                "j",
            ]
            command += ["--facts", tmp_path / "facts.json", "--probe", tmp_path / "probe.json", *more, "--", *launcher]
            result = subprocess.run(command, capture_output=True, text=True, timeout=60)
            with Client(url) as client:
                runs = list(client.runs())
        return result.returncode, result.stderr, runs

    return job


@pytest.mark.slow
def test_a_job_that_fails_is_a_failed_run_with_its_exit_code(one_job):
    code, _, [run] = one_job("sh", "-c", "exit 7")
    assert (code, run.state, run.reason) == (7, "failed", "sh ended with code 7")


@pytest.mark.slow
def test_a_job_without_facts_says_where_they_should_be(one_job):
    code, err, [run] = one_job("true")
    assert (code, run.state) == (1, "failed")
    assert "left no facts" in err
    assert "a file system that this node sees" in err
