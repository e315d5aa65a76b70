"""Who holds which device: Slurm's files and control groups, a real kubelet socket, ranks, idle devices."""

import shutil
import tempfile
from concurrent import futures
from pathlib import Path

import pytest

from collector.clock import Clock
from collector.config import load_settings
from collector.registry import build_sources
from collector.sources import podresources
from collector.sources.attribution import AttributionSource, resolve
from collector.sources.base import Parts, take
from collector.sources.job_cgroups import find_jobs, job_of
from collector.sources.job_files import parse_devices, parse_job
from collector.sources.job_ranks import parse_environ, rank_of
from collector.sources.job_use import JobUseSource
from collector.sources.kubernetes import SOCKET
from tokenstone.sample import DeviceInfo, Reading

OPEN_MPI = {"RANK": "5", "LOCAL_RANK": "1", "SIZE": "6"}
ONE_DEVICE = {"CUDA_VISIBLE_DEVICES": "2"}
POD = "2f7ab0c1-1111-4222-8333-0123456789ab"
grpc = pytest.importorskip("grpc")


def devices(count):
    return tuple(DeviceInfo(f"GPU-{i}", "accelerator", "NVIDIA", "H100", i) for i in range(count))


def busy(*ratios):
    return tuple(Reading("accel_busy_ratio", ratio, f"GPU-{i}") for i, ratio in enumerate(ratios))


def series(parts, metric, *names):
    return {
        (r.device, *(dict(r.labels)[name] for name in names)): r.value for r in parts.readings if r.metric == metric
    }


@pytest.fixture
def h100(node_folder, tmp_path):
    shutil.copytree(node_folder("h100-node"), tmp_path / "node")
    return tmp_path / "node"


def test_slurm_jobs_by_device(h100):
    parts = AttributionSource(h100, lambda: [Parts(busy(1, 0.5, 0, 0.2, 0, 0), devices=devices(6))]).read()
    assert set(series(parts, "tokenstone_job_device_info", "job_id", "user", "account", "manager")) == {
        *((f"GPU-{i}", "4711", "alice", "physics", "slurm") for i in range(4)),
        ("GPU-5", "4712", "bob", "chem", "slurm"),
    }
    assert series(parts, "accel_allocated_ratio") == {(f"GPU-{i}",): float(i in {0, 1, 2, 3, 5}) for i in range(6)}


def test_a_held_device_that_does_nothing_is_shown_as_such(h100):
    found = [Parts(busy(1, 0.5, 0, 0.2, 0), devices=devices(6))]
    parts = AttributionSource(h100, lambda: found).read()
    idle = series(parts, "accel_allocated_idle_ratio")
    assert idle == {("GPU-0",): 0, ("GPU-1",): 0, ("GPU-2",): 1, ("GPU-3",): 0}
    # GPU-4 is idle and nobody's; of GPU-5 nobody knows.
    assert [a.device for a in parts.absences if a.metric == "accel_allocated_idle_ratio"] == ["GPU-5"]


def test_ranks_by_device_and_no_other_variable(h100):
    parts = AttributionSource(h100, lambda: [Parts(devices=devices(6))]).read()
    ranks = series(parts, "tokenstone_rank_device_info", "job_id", "rank", "world_size", "launcher")
    assert set(ranks) == {
        ("GPU-0", "4711", "8", "16", "torchrun"),
        ("GPU-1", "4711", "9", "16", "torchrun"),
        ("GPU-5", "4712", "0", "1", "slurm"),  # its only device, which it numbers 0
    }
    assert "do-not-keep" not in repr(parts)
    assert parse_environ(b"AWS_SECRET_ACCESS_KEY=x\0RANK=1\0BAD\0") == {"RANK": "1"}


def test_jobs_come_and_go(h100):
    source = AttributionSource(h100, lambda: [Parts(devices=devices(6))])
    assert len(series(source.read(), "tokenstone_job_device_info", "job_id")) == 5
    (h100 / "run/tokenstone/jobs/4711").unlink()
    assert len(series(source.read(), "tokenstone_job_device_info", "job_id")) == 1


def test_without_a_prolog_the_jobs_processes_tell(h100):
    shutil.rmtree(h100 / "run")
    source = AttributionSource(h100, lambda: [Parts(devices=devices(6))])
    parts = source.read()
    assert not parts.readings  # nobody can say which devices are free: that is not "not allocated"
    assert "environments cannot be read" in parts.absences[0].reason
    environ = b"\0SLURM_JOB_USER=alice\0SLURM_JOB_ID=4711\0SLURM_JOB_GPUS=0-1\0"
    path = h100 / "proc/1001/environ"
    path.write_bytes(path.read_bytes() + environ)
    assert not source.read().readings  # one of the two jobs
    path = h100 / "proc/1010/environ"
    path.write_bytes(path.read_bytes() + b"\0SLURM_JOB_ID=4712\0SLURM_STEP_GPUS=4\0")
    parts = source.read()
    assert set(series(parts, "tokenstone_job_device_info", "job_id", "user")) == {
        ("GPU-0", "4711", "alice"),
        ("GPU-1", "4711", "alice"),
        ("GPU-4", "4712", ""),
    }
    assert series(parts, "accel_allocated_ratio")[("GPU-5",)] == 0
    # Its SLUID is joined to the number, too.
    assert ("GPU-4", "4712", "0") in series(parts, "tokenstone_rank_device_info", "job_id", "rank")
    shutil.rmtree(h100 / "sys/fs/cgroup/system.slice")
    assert "no job manager tells" in source.read().absences[0].reason


@pytest.mark.parametrize(
    ("path", "job"),
    [
        ("/system.slice/slurmstepd.scope/job_4711/step_0/user/task_0", ("slurm", "4711")),
        ("/system.slice/n1_slurmstepd.scope/s5K1KKYAYG5D00/step_batch", ("slurm", "s5K1KKYAYG5D00")),
        ("/slurm/uid_1000/job_42/step_batch", ("slurm", "42")),
        ("/system.slice/slurmstepd.scope/system", None),
        (
            "/kubepods.slice/kubepods-burstable.slice/"
            "kubepods-burstable-pod2f7ab0c1_1111_4222_8333_0123456789ab.slice/cri-containerd-abc.scope",
            ("kubernetes", "2f7ab0c1-1111-4222-8333-0123456789ab"),
        ),
        (
            "/kubepods/pod2f7ab0c1-1111-4222-8333-0123456789ab/abc",
            ("kubernetes", "2f7ab0c1-1111-4222-8333-0123456789ab"),
        ),
        ("/user.slice/user-1000.slice/job_5", None),
        ("/", None),
    ],
)
def test_the_job_of_a_control_group(path, job):
    assert job_of(path) == job


def test_jobs_of_a_node_by_their_control_groups(node_folder):
    assert {job.job for job in find_jobs(node_folder("h100-node"))} == {"4711", "s5K1KKYAYG5D00"}
    [pod] = find_jobs(node_folder("mi300x-node"))
    assert (pod.manager, pod.job) == ("kubernetes", "2f7ab0c1-1111-4222-8333-0123456789ab")


def test_what_a_job_uses_of_the_host(h100, fake_time):
    source = JobUseSource(h100, fake_time.clock().monotonic)
    parts = source.read()
    assert series(parts, "job_cpu_seconds_total", "job_id")["host", "4711"] == pytest.approx(81234.56789)
    # The prolog's file says which job a SLUID is.
    assert series(parts, "job_memory_bytes", "job_id")["host", "4712"] == 1 << 30
    assert series(parts, "job_disk_written_bytes_total", "job_id")["host", "4711"] == 2097152
    shutil.rmtree(h100 / "sys/fs/cgroup/system.slice/slurmstepd.scope/job_4711")
    fake_time.advance(60)
    assert set(series(source.read(), "job_memory_bytes", "job_id")) == {("host", "4712")}
    source.close()


def test_what_a_pod_uses_has_the_name_that_its_devices_have(node_folder, tmp_path, fake_time):
    root, name = tmp_path / "node", f"ml_train-0_{POD}"
    shutil.copytree(node_folder("mi300x-node"), root)
    source = JobUseSource(root, fake_time.clock().monotonic)
    assert set(series(source.read(), "job_memory_bytes", "job_id")) == {("host", "ml/train-0")}
    (root / "var/log/pods" / name).rename(root / "var/log/pods/unknown")
    fake_time.advance(60)
    assert set(series(source.read(), "job_memory_bytes", "job_id")) == {("host", POD)}
    source.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,1", ("0", "1")),
        ("0-2,7", ("0", "1", "2", "7")),
        ("GPU-ab-1", ("GPU-ab-1",)),
        ("", ()),
        ("NoDevFiles", ()),
        (" 3 , ", ("3",)),
    ],
)
def test_lists_of_devices(text, expected):
    assert parse_devices(text) == expected


@pytest.mark.parametrize("text", ["", "no lines\n", "SLURM_JOB_ID=\n", "slurm_job_id=5\n", "=\n\0\n"])
def test_a_file_that_names_no_job_is_none(text):
    assert parse_job(text) is None


def test_names_that_mean_no_known_device_are_kept_out():
    assert resolve(["0", "GPU-1", "Ascend910-2", "9", "GPU-x", "0"], devices(3)) == ["GPU-0", "GPU-1", "GPU-2"]


@pytest.mark.parametrize(
    ("environment", "launcher", "rank", "device"),
    [
        ({"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8"}, "torchrun", 3, "3"),
        (
            {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "6"},
            "openmpi",
            5,
            "1",
        ),
        ({"PMI_RANK": "0", "MPI_LOCALRANKID": "0", "PMI_SIZE": "2", "ROCR_VISIBLE_DEVICES": "6"}, "mpich", 0, "6"),
        (
            {"SLURM_PROCID": "7", "SLURM_LOCALID": "3", "SLURM_NTASKS": "8", "CUDA_VISIBLE_DEVICES": "2"},
            "slurm",
            7,
            "2",
        ),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "slurm", 1, ""),
    ],
)
def test_ranks_of_each_launcher(environment, launcher, rank, device):
    found = rank_of(environment)
    assert (found.launcher, found.rank, found.device) == (launcher, rank, device)


@pytest.mark.parametrize("environment", [{}, {"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "1"}])
def test_no_rank(environment):
    assert rank_of(environment) is None


@pytest.fixture
def kubelet():
    """A real gRPC server at the kubelet's place below a root, whose path is short: a socket's has 107 characters."""
    from collector.sources.podresources import podresources_pb2 as messages  # noqa: PLC0415

    response = messages.ListPodResourcesResponse(
        pod_resources=[
            messages.PodResources(
                name="train-0",
                namespace="ml",
                containers=[
                    messages.ContainerResources(
                        name="main",
                        devices=[
                            messages.ContainerDevices(resource_name="nvidia.com/gpu", device_ids=["GPU-0", "GPU-2"]),
                            messages.ContainerDevices(resource_name="rdma/hca", device_ids=["1"]),
                        ],
                    )
                ],
            ),
            messages.PodResources(name="web", namespace="shop", containers=[messages.ContainerResources(name="nginx")]),
        ]
    )
    method = grpc.unary_unary_rpc_method_handler(
        lambda request, context: response,
        request_deserializer=messages.ListPodResourcesRequest.FromString,
        response_serializer=messages.ListPodResourcesResponse.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": method}),))
    with tempfile.TemporaryDirectory(prefix="kubelet-") as folder:
        path = Path(folder) / SOCKET
        path.parent.mkdir(parents=True)
        server.add_insecure_port(f"unix://{path}")
        server.start()
        yield server, Path(folder)
        server.stop(None).wait()


def test_pods_by_device_from_the_kubelet(kubelet):
    server, root = kubelet
    source = AttributionSource(root, lambda: [Parts(busy(0.9, 0, 0), devices=devices(3))])
    parts = source.read()
    assert set(series(parts, "tokenstone_job_device_info", "manager", "job_id", "account")) == {
        ("GPU-0", "kubernetes", "ml/train-0", "ml"),
        ("GPU-2", "kubernetes", "ml/train-0", "ml"),
    }
    assert series(parts, "accel_allocated_ratio") == {("GPU-0",): 1, ("GPU-1",): 0, ("GPU-2",): 1}
    assert series(parts, "accel_allocated_idle_ratio") == {("GPU-0",): 0, ("GPU-2",): 1}
    server.stop(None).wait()
    parts = source.read()
    assert not parts.readings
    assert parts.absences[0].reason.startswith(("kubelet: unavailable", "no job manager"))
    source.close()


def test_the_agents_own_sources_tell_attribution_of_their_devices(node_folder, nvml_stub):
    folder = node_folder("h100-node")
    nvml_stub((folder / "nvml.scenario").read_text())
    sources = build_sources(load_settings(node="n", root=folder, sources="nvml,attribution"))
    samples = {source.name: take(source, Clock()) for source in sources}
    held = series(samples["attribution"], "tokenstone_job_device_info", "job_id")
    assert len(held) == 5
    assert {device for device, _ in held} <= {device.id for device in samples["nvml"].devices}
    for source in sources:
        source.close()


def test_the_generated_messages_are_those_of_the_proto_file(tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc")
    folder = Path(podresources.__file__).parent
    arguments = ["protoc", f"-I{folder}", f"--python_out={tmp_path}", str(folder / "podresources.proto")]
    assert protoc.main(arguments) == 0
    generated, kept = (path / "podresources_pb2.py" for path in (tmp_path, folder))
    assert generated.read_text() == kept.read_text(), "it is old: run `make proto`"
