"""The spool on disk: bounded, in order, and whole after any kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spool_support import ENERGY, POWER, drain, interval, numbers_of

from collector.batch import Origin, RecordMaker, head_of, wire_batch
from collector.segment import pack, unpack
from collector.spool import Spool
from tokenstone.errors import Conflict, NotWritable
from tokenstone.sample import Absence, DeviceInfo, Sample, SeriesKey
from tokenstone.window import Window
from tokenstone.wire import WindowBatch

HERE = str(Path(__file__).parent)


@pytest.fixture
def open_spool(tmp_path):
    opened = []

    def make(max_bytes=1_000_000, epoch="1-a"):
        opened.append(Spool(tmp_path / "spool", max_bytes, Origin("lab", "n1", epoch)))
        return opened[-1]

    yield make
    for spool in opened:
        spool.close()


def put(spool, *numbers, **more):
    for number in numbers:
        spool.put(interval(number, **more), ())


def test_intervals_wait_together_and_come_out_in_order_as_the_wire_wants_them(open_spool):
    spool = open_spool()
    put(spool, 0, 1, 2)
    assert spool.waiting_batches == 1
    [batch] = drain(spool)
    assert (batch.cluster, batch.node, batch.epoch, batch.sequence) == ("lab", "n1", "1-a", 0)
    assert [series.metric for series in batch.series] == [POWER.metric, ENERGY.metric]
    assert batch.start_unix_seconds == [0, 0, 10, 10, 20, 20]
    assert batch.mean == [0, None, 1, None, 2, None]
    assert batch.delta == [None, None, None, 1, None, 2]
    assert (spool.waiting_batches, spool.waiting_bytes) == (0, 0)


def test_a_batch_that_may_have_been_seen_never_grows(open_spool):
    spool = open_spool()
    put(spool, 0)
    name = spool.oldest()
    data = spool.read(name)
    put(spool, 1)
    assert spool.read(name) == data
    assert [numbers_of(batch) for batch in drain(spool)] == [[0], [1]]


def test_a_full_spool_drops_the_oldest_and_counts_them(open_spool):
    spool = open_spool(max_bytes=60_000)
    for number in range(40):
        put(spool, number, noise=300)
    assert spool.waiting_bytes <= 60_000
    kept = [number for batch in drain(spool) for number in numbers_of(batch)]
    assert kept == list(range(kept[0], 40))
    assert kept[0] > 0
    assert spool.dropped_batches >= 1


def test_leftovers_of_earlier_starts_come_first(open_spool):
    first = open_spool(epoch="00000000000009-b")
    put(first, 7)
    first.close()
    second = open_spool(epoch="00000000000010-a")
    put(second, 8)
    assert [(batch.epoch[-1], numbers_of(batch)) for batch in drain(second)] == [("b", [7]), ("a", [8])]


@given(data=st.data(), records=st.integers(1, 4))
def test_any_torn_end_loses_that_end_only(data, records):
    maker = RecordMaker()
    made = [maker.record(interval(number), ()) for number in range(records)]
    whole = pack(head_of(Origin("lab", "n1", "1-a"), 0), made)
    cut = data.draw(st.integers(0, len(whole)))
    garbage = data.draw(st.binary(max_size=20))
    lines = list(unpack(whole[:cut] + garbage))[1:]
    assert lines == made[: len(lines)]
    assert list(unpack(whole))[1:] == made


def test_a_torn_first_line_is_no_batch_and_the_rest_goes_on(open_spool, tmp_path):
    spool = open_spool()
    put(spool, 0)
    spool.close()
    whole = (tmp_path / "spool" / "1-a.0000000000.batch").read_bytes()
    (tmp_path / "spool" / "0-a.0000000000.batch").write_bytes(whole[:20])
    (tmp_path / "spool" / "1-a.0000000001.batch.tmp").write_bytes(b"ha")
    again = open_spool(epoch="2-a")
    assert again.read(again.oldest()) is None
    assert [numbers_of(batch) for batch in drain(again)] == [[0]]
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == ["lock", "rejected"]


def test_a_rejected_batch_is_set_aside_and_out_of_the_way(open_spool, tmp_path):
    spool = open_spool()
    put(spool, 0)
    spool.reject(spool.oldest())
    put(spool, 1)
    assert [numbers_of(batch) for batch in drain(spool)] == [[1]]
    assert [path.name for path in (tmp_path / "spool" / "rejected").iterdir()] == ["1-a.0000000000.batch"]


def test_a_batch_whose_file_was_taken_away_is_counted_as_dropped(open_spool, tmp_path):
    spool = open_spool()
    put(spool, 0, 1)
    name = spool.oldest()
    (tmp_path / "spool" / name).unlink()
    assert spool.read(name) is None
    assert spool.oldest() is None
    assert spool.dropped_batches == 1


def test_a_batch_too_long_for_the_service_is_split_and_its_place_is_kept(open_spool):
    spool = open_spool()
    put(spool, 0, 1, 2, 3, 4)
    assert spool.split(spool.oldest())
    put(spool, 5)
    batches = drain(spool)
    assert [(batch.epoch, batch.sequence, numbers_of(batch)) for batch in batches] == [
        ("1-a+0", 0, [0, 1]),
        ("1-a+0", 1, [2, 3, 4]),
        ("1-a", 0, []),  # so that the service misses nothing of the epoch
        ("1-a", 1, [5]),
    ]
    put(spool, 6)
    assert not spool.split(spool.oldest())  # one interval is the least


def test_what_a_record_leaves_to_the_one_before_is_there_again_on_the_wire():
    maker, device = RecordMaker(), DeviceInfo("GPU-1", "accelerator", "NVIDIA", "H100", 0, 80)
    absence = Absence("accel_busy_ratio", "not supported", "GPU-1")
    sample = Sample("nvml", 0.0, 0.0, devices=(device,), absences=(absence,))
    records = [maker.record(interval(number), [sample]) for number in range(3)]
    records.append(
        maker.record([*interval(3), Window(SeriesKey("host_load_average", "host"), 30.0, 10.0, 1, 1, 1, 1)], [sample])
    )
    assert "devices" not in records[1]
    assert "index" not in records[2]
    batch = WindowBatch.model_validate(wire_batch(head_of(Origin("lab", "n1", "1-a"), 0), records))
    assert [device.model for device in batch.devices] == ["H100"]
    assert batch.absences[0].reason == "not supported"
    assert len(batch.series_index) == 9


def test_a_spool_belongs_to_one_agent(open_spool):
    open_spool()
    with pytest.raises(Conflict, match="another agent uses this spool"):
        open_spool()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable, match="the spool cannot be written"):
        Spool(tmp_path / "file" / "spool", 100, Origin("lab", "n1", "1-a"))


WRITE_FOR_EVER = """
import itertools, sys
sys.path[:0] = [sys.argv[2]]
from pathlib import Path
from spool_support import interval
from collector.batch import Origin
from collector.spool import Spool
spool = Spool(Path(sys.argv[1]), 10**9, Origin("lab", "n1", "1-a"))
for number in itertools.count():
    spool.put(interval(number, noise=50), ())
    print(number, flush=True)
"""


def test_what_was_kept_before_a_kill_is_whole_after_it(tmp_path, open_spool):
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path / "spool"), HERE]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with writer:
        for _ in range(150):
            last = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        last = max([last, *map(int, writer.stdout.read().split())])
    kept = [number for batch in drain(open_spool(10**9, epoch="2-a")) for number in numbers_of(batch)]
    assert kept == list(range(len(kept)))
    assert len(kept) in {last + 1, last + 2}  # one may have been kept, and the kill came before it was said


DISK_FULL = """
import json, resource, sys
sys.path[:0] = [sys.argv[2]]
from pathlib import Path
from spool_support import ENERGY, POWER, drain, interval, numbers_of
from collector.batch import Origin
from collector.spool import Spool
spool = Spool(Path(sys.argv[1]), 10**9, Origin("lab", "n1", "1-a"))
def put(*numbers):
    for number in numbers:
        spool.put(interval(number, noise=200), ())
put(0, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))  # a line needs more: EFBIG at its middle
put(2, 3)
dropped, memory = spool.dropped_batches, len(list(Path(sys.argv[1]).glob("*.batch")))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
put(4)
batches = drain(spool)
print(json.dumps([dropped, memory, [numbers_of(batch) for batch in batches], [batch.sequence for batch in batches]]))
"""


def test_a_full_disk_drops_the_oldest_keeps_the_newest_and_invents_nothing(tmp_path):
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path / "spool"), HERE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    dropped, files, numbers, sequences = json.loads(done.stdout)
    assert (dropped, files) == (1, 0)  # the batch of 0 and 1 made room, in vain; what came then is in memory
    assert numbers == [[2], [3], [4]]
    assert sequences == sorted(sequences)
