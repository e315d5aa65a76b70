"""What the collector's tests share: clocks, fixture nodes and the C stand-in for NVIDIA's library."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest
from vendor_stubs import build_amd, build_moorethreads

from collector.clock import Clock
from collector.sources import nvml_events

FIXTURES = Path(__file__).parent.parent / "fixtures"


class FakeTime:
    """A clock that stands still until a test moves it; wall time runs beside it."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.stepped = 0.0
        self.asleep = 0.0

    def advance(self, seconds: float) -> None:
        self.seconds += seconds

    def clock(self) -> Clock:
        return Clock(
            monotonic=lambda: self.seconds,
            unix=lambda: 1_800_000_000.0 + self.seconds + self.stepped,
            asleep=lambda: self.asleep,
        )


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Wait until a condition holds; fail after ten seconds."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in ten seconds"
            time.sleep(0.005)

    return wait


@pytest.fixture
def agent_log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, object]]]:
    """What the agent has logged, as events with their fields."""
    caplog.set_level(logging.INFO, logger="tokenstone.agent")

    def logged() -> list[dict[str, object]]:
        return [{"event": record.getMessage(), **getattr(record, "fields", {})} for record in caplog.records]

    return logged


@pytest.fixture
def node_folder() -> Callable[[str], Path]:
    return lambda name: FIXTURES / "nodes" / name


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TOKENSTONE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile the stand-in; `old_driver` gives one that lacks the newer symbols, `mismatch` one of another driver."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler on PATH to build the stand-in for libnvidia-ml")
    built: dict[str, Path] = {}

    def build(*, old_driver: bool = False, mismatch: bool = False) -> Path:
        kind = "-DOLD_DRIVER" if old_driver else "-DMISMATCH" if mismatch else "-DNDEBUG"
        if kind not in built:
            library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
            flags = ["-shared", "-fPIC", "-pthread", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1", kind]
            source = FIXTURES / "nvml" / "nvml_stub.c"
            subprocess.run([compiler, *flags, "-o", str(library), str(source)], check=True)
            built[kind] = library
        return built[kind]

    return build


class NvmlStub:
    """The stand-in as the process's driver, its scenario, and the calls it has received."""

    def __init__(self, folder: Path) -> None:
        self.scenario_path, self._calls_path = folder / "scenario", folder / "calls"

    def scenario(self, text: str) -> None:
        self.scenario_path.write_text(text)

    def change(self, **values: object) -> None:
        """Replace values; `_0_state="lost"` is the key `0.state`."""
        lines = dict(line.split(" ", 1) for line in self.scenario_path.read_text().splitlines())
        lines |= {key.lstrip("_").replace("_", ".", 1) if key[0] == "_" else key: str(v) for key, v in values.items()}
        self.scenario("".join(f"{key} {value}\n" for key, value in lines.items()))

    def take_calls(self) -> list[str]:
        calls = self._calls_path.read_text().splitlines() if self._calls_path.exists() else []
        self._calls_path.write_text("")
        return calls


@pytest.fixture
def nvml_stub(
    nvml_library: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., NvmlStub]]:
    """Put the stand-in where pynvml keeps the library it has loaded."""

    def use(scenario: str, *, old_driver: bool = False) -> NvmlStub:
        stub = NvmlStub(tmp_path)
        stub.scenario(scenario)
        monkeypatch.setenv("NVML_STUB_SCENARIO", str(stub.scenario_path))
        monkeypatch.setenv("NVML_STUB_CALLS", str(tmp_path / "calls"))
        monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(nvml_library(old_driver=old_driver))))
        monkeypatch.setattr(nvml_events, "WAIT_MILLISECONDS", 10)
        pynvml._nvmlGetFunctionPointer_cache.clear()
        return stub

    yield use
    pynvml._nvmlGetFunctionPointer_cache.clear()


@pytest.fixture(scope="session")
def rocm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ROCM_PATH with the stand-in for AMD's library."""
    folder = tmp_path_factory.mktemp("rocm")
    build_amd(folder)
    return folder


@pytest.fixture
def amd_stub(rocm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Let AMD's binding find the stand-in; the scenario's file comes back, to be changed."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "amdsmi"]:
            del sys.modules[name]

    def use(scenario: str) -> Path:
        path = tmp_path / "amdsmi.scenario"
        path.write_text(scenario)
        monkeypatch.setenv("ROCM_PATH", str(rocm))
        monkeypatch.setenv("AMDSMI_STUB_SCENARIO", str(path))
        forget()
        return path

    yield use
    forget()


@pytest.fixture
def moorethreads_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Put the stand-in where Moore Threads' binding keeps the library it has loaded."""
    pymtml = pytest.importorskip("pymtml")

    def use(scenario: Path) -> None:
        monkeypatch.setenv("MTML_STUB_SCENARIO", str(scenario))
        monkeypatch.setattr(pymtml, "mtmlLib", ctypes.CDLL(str(build_moorethreads(tmp_path))))
        pymtml._mtmlGetFunctionPointer_cache.clear()

    yield use
    pymtml._mtmlGetFunctionPointer_cache.clear()
