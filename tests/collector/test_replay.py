"""A node is recorded while it changes, and played back through the same sources."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from collector.clock import Clock
from collector.config import load_settings
from collector.recording import OpenedFiles, Recorder, recording_commands
from collector.registry import build_sources, commands_of
from collector.replay import Replay, read_index
from collector.sources.base import take
from tokenstone.errors import Conflict, InvalidFile

SOURCES = "nvml,cpu,memory,pressure,ethernet,infiniband,pause,job_use,attribution,disk,filesystem"


@pytest.fixture
def h100(node_folder, tmp_path, nvml_stub):
    folder = tmp_path / "node"
    shutil.copytree(node_folder("h100-node"), folder)
    nvml_stub((folder / "nvml.scenario").read_text())
    return folder


def values(samples):
    return {reading.series: reading.value for sample in samples for reading in (*sample.held, *sample.readings)}


def read_all(sources):
    found = values([take(source, Clock()) for source in sources])
    return {series: value for series, value in found.items() if not series.metric.startswith("tokenstone_driver")}


def record(root, folder, change):
    """Record three instants, with `change(1)` and `change(2)` between them; return what the sources gave at each."""
    settings = load_settings(node="n7", root=root, sources=SOURCES)
    outputs, opened, seen = {}, OpenedFiles(root), []
    time = [0.0]
    clock = Clock(lambda: time[0], lambda: 1_800_000_000.0 + time[0])
    sources = build_sources(settings, clock=clock, commands=recording_commands(commands_of(settings), outputs))[:-1]
    recorder = Recorder(folder, root, "n7", sources, opened, outputs)

    def wait(seconds):
        seen.append(read_all(sources))
        time[0] += seconds
        change(len(seen))
        return False

    instants = recorder.record(clock, seconds=2, every_seconds=1, wait=wait)
    seen.append(read_all(sources))
    opened.close()
    for source in sources:
        source.close()
    assert instants == 3
    return seen


def play(folder, at):
    """Return what the sources give at an instant of the recording, with its changes up to then."""
    with gzip.open(folder / "changes.jsonl.gz", "rt") as lines:
        changes = [json.loads(line) for line in lines]
    replay = Replay(folder, 1000.0, threading.Event())
    replay._index["unix_seconds"] = 0.0
    root = folder.parent / f"played-{at}"
    shutil.copytree(folder, root)
    replay.root = root
    for change in changes[:at]:
        replay._apply(change["files"])
    sources = build_sources(load_settings(node="n7", root=root, sources=SOURCES))[:-1]
    try:
        read_all(sources)
        return read_all(sources)
    finally:
        for source in sources:
            source.close()


def test_a_recorded_node_gives_the_same_readings_at_every_instant(h100, tmp_path):
    port = h100 / "sys/class/infiniband/mlx5_0/ports/1"

    def change(instant):
        (port / "counters/port_rcv_data").write_text(f"{10**6 * instant}\n")
        if instant == 2:
            (port / "state").write_text("1: DOWN\n")
            (h100 / "run/tokenstone/jobs/4711").write_text("SLURM_JOB_ID=4711\nSLURM_JOB_GPUS=0,1\n")

    seen = record(h100, tmp_path / "recording", change)
    for instant, live in enumerate(seen):
        played = play(tmp_path / "recording", instant)
        # Performance monitoring needs time between two readings, of which the recorder's own are played.
        assert live.items() <= played.items(), f"instant {instant}"
        assert all(series.device.startswith("GPU-") for series in played.keys() - live.keys())
    received = [next(v for k, v in live.items() if k.metric == "rdma_receive_bytes_total") for live in seen]
    assert received[1:] == [4e6, 8e6]


def test_no_secret_of_a_process_is_recorded(h100, tmp_path):
    record(h100, tmp_path / "recording", lambda instant: None)
    everything = b"".join(p.read_bytes() for p in (tmp_path / "recording").rglob("*") if p.is_file())
    assert b"do-not-keep" not in everything
    assert (tmp_path / "recording/proc/1001/environ").read_bytes().count(b"RANK=8") == 1


def test_a_recording_is_never_written_over_something(h100, tmp_path):
    (tmp_path / "recording").mkdir()
    (tmp_path / "recording/precious").write_text("x")
    with pytest.raises(Conflict, match="not empty"):
        record(h100, tmp_path / "recording", lambda instant: None)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_folder_that_is_no_recording_is_one_clear_error(tmp_path, text):
    if text is not None:
        (tmp_path / "recording.json").write_text(text)
    with pytest.raises(InvalidFile):
        read_index(tmp_path)


@pytest.mark.slow
def test_the_commands_record_this_machine_and_play_it_at_ten_times_its_speed(tmp_path):
    command = [sys.executable, "-m", "cli"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENSTONE_")}
    folder = tmp_path / "recording"
    arguments = ["record", str(folder), "--seconds", "1", "--every", "0.5", "--node", "here", "--json"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout)["instants"] == 3
    start = time.monotonic()
    arguments = ["agent", "--replay", str(folder), "--speed", "10", "--listen", "none"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "node=here" in done.stderr
    assert 'event="source is up" source=cpu' in done.stderr
    assert time.monotonic() - start < 30  # it ends by itself, where the recording does
