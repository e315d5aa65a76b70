"""Traces as PyTorch's profiler writes them, made by the test that needs them; and DeepSeek's own, where it is."""

import gzip
import json
from pathlib import Path

import pytest

DEEPSEEK = Path(__file__).parents[3] / "shared/data/deepseek-v3-h800-dualpipe-train.json.gz"


class TraceMaker:
    """Collects events; `write` makes the file. Times in microseconds."""

    def __init__(self, folder: Path, *, rank: int | None = 0, world_size: int = 1, device: str = "NVIDIA H800") -> None:
        self.folder, self.events, self.correlation = folder, [], 0
        self.header = {"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": device}]}
        if rank is not None:
            self.header["distributedInfo"] = {"backend": "nccl", "rank": rank, "world_size": world_size}
        self.rank = rank

    def kernel(self, name, start, duration, *, stream=7, launched=None, category="kernel", device=0, **arguments):
        self.correlation += 1
        if launched is not None:
            self.host("cudaLaunchKernel", launched, 2, category="cuda_runtime", correlation=self.correlation)
        self.events.append(
            {"ph": "X", "cat": category, "name": name, "pid": device, "tid": stream, "ts": start, "dur": duration,
             "args": {"device": device, "stream": stream, "correlation": self.correlation, **arguments}}
        )  # fmt: skip

    def host(self, name, start, duration, *, category="cpu_op", **arguments):
        self.events.append(
            {"ph": "X", "cat": category, "name": name, "pid": 99, "tid": 99, "ts": start, "dur": duration,
             "args": arguments}
        )  # fmt: skip

    def document(self):
        return {**self.header, "traceEvents": self.events, "traceName": "test"}

    def write(self, name=None, *, indent=None, compress=False):
        path = self.folder / (name or f"rank{self.rank}.json{'.gz' if compress else ''}")
        text = json.dumps(self.document(), indent=indent).encode()
        path.write_bytes(gzip.compress(text) if compress else text)
        return path


@pytest.fixture
def make(tmp_path):
    def maker(**options):
        return TraceMaker(tmp_path, **options)

    return maker


@pytest.fixture(scope="session")
def deepseek():
    if not DEEPSEEK.is_file():
        pytest.skip("DeepSeek's trace is not here: it is not part of the repository")
    return DEEPSEEK
