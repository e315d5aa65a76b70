"""The whole of `/metrics` for each fixture node, byte by byte; TOKENSTONE_UPDATE_GOLDEN=1 writes it anew."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from collector.clock import Clock
from collector.config import load_settings
from collector.exporter import Exposition
from collector.registry import build_sources
from collector.sources.agent import AgentSource, Delivery, Usage
from collector.sources.base import take

GOLDEN = Path(__file__).parent.parent / "golden"
UPDATE = os.environ.get("TOKENSTONE_UPDATE_GOLDEN") == "1"  # read before the tests' own environment is cleared


class SteppingTime:
    """A clock that moves by a millisecond whenever it is read."""

    def __init__(self):
        self.seconds = 0.0

    def monotonic(self):
        self.seconds += 0.001
        return self.seconds


def render(root, node, *, without=""):
    time = SteppingTime()
    clock = Clock(time.monotonic, lambda: 1_800_000_000.0)
    settings = load_settings(node=node, root=root, exclude_sources=without)
    sources = build_sources(settings, clock=clock)[:-1]
    delivery = Delivery({"accepted": 41, "duplicate": 1, "rejected": 0}, 8192, 3)
    sources.append(AgentSource(lambda: delivery, lambda: Usage(12.5, 48_000_000)))
    exposition = Exposition(node, clock, stale_seconds=1e9)
    for _ in range(2):  # performance monitoring needs two readings
        exposition.update([take(source, clock) for source in sources])
        time.seconds += 1
    for source in sources:
        source.close()
    return exposition.body()


OTHERS = ("hygon", "cambricon", "iluvatar", "metax", "kunlun", "intel", "moorethreads")
NODES = ("h100-node", "mi300x-node", "ascend-910-node", "cpu-node", "old-kernel", *(f"{one}-node" for one in OTHERS))


@pytest.fixture
def body(node, node_folder, request):
    """The exposition of the machine `node`, with the stand-in for its maker's library where it needs one."""
    folder = node_folder(node)
    if node == "h100-node":
        request.getfixturevalue("nvml_stub")((folder / "nvml.scenario").read_text())
        return render(folder, node)
    if node == "mi300x-node":
        request.getfixturevalue("amd_stub")((folder / "amdsmi.scenario").read_text())
    if node == "moorethreads-node":
        request.getfixturevalue("moorethreads_stub")(folder / "mtml.scenario")
    return render(folder, node, without="nvml")


@pytest.mark.parametrize("node", NODES)
def test_the_whole_exposition_of_a_node(node, body):
    golden = GOLDEN / f"metrics-{node}.txt"
    if UPDATE:
        golden.write_bytes(body)
    assert body.decode() == golden.read_text()


@pytest.mark.parametrize("node", NODES)
def test_prometheus_own_linter_has_nothing_to_say(node):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH")
    with (GOLDEN / f"metrics-{node}.txt").open("rb") as text:
        done = subprocess.run([promtool, "check", "metrics"], stdin=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
