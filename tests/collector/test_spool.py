"""The spool on disk: bounded, in order, and whole after any kill."""

import gzip
import os
import signal
import subprocess
import sys

import pytest

from collector.spool import Spool
from tokenstone.errors import Conflict, NotWritable


@pytest.fixture
def open_spool(tmp_path):
    opened = []

    def make(max_bytes=1_000):
        opened.append(Spool(tmp_path / "spool", max_bytes))
        return opened[-1]

    yield make
    for spool in opened:
        spool.close()


def drain(spool):
    taken = []
    while (name := spool.oldest()) is not None:
        taken.append(spool.read(name))
        spool.remove(name)
    return taken


def test_batches_come_out_in_the_order_they_went_in(open_spool):
    spool = open_spool()
    for sequence in (0, 1, 2, 10):
        assert spool.put("1-a", sequence, b"%d" % sequence)
    assert drain(spool) == [b"0", b"1", b"2", b"10"]
    assert (spool.waiting_batches, spool.waiting_bytes) == (0, 0)


def test_a_full_spool_drops_the_oldest_and_counts_them(open_spool):
    spool = open_spool(max_bytes=100)
    for sequence in range(5):
        spool.put("1-a", sequence, bytes([sequence]) * 40)
    assert spool.dropped_batches == 3
    assert spool.waiting_bytes == 80
    assert [batch[0] for batch in drain(spool)] == [3, 4]


def test_a_batch_larger_than_the_spool_is_dropped_and_costs_nothing_else(open_spool):
    spool = open_spool(max_bytes=100)
    spool.put("1-a", 0, b"kept")
    assert not spool.put("1-a", 1, b"x" * 101)
    assert spool.dropped_batches == 1
    assert drain(spool) == [b"kept"]


def test_leftovers_of_earlier_starts_come_first(open_spool):
    first = open_spool()
    first.put("00000000000009-b", 7, b"old")
    first.close()
    second = open_spool()
    second.put("00000000000010-a", 0, b"new")
    assert second.waiting_batches == 2
    assert drain(second) == [b"old", b"new"]


def test_a_crash_before_the_rename_leaves_no_half_batch(open_spool, tmp_path):
    spool = open_spool()
    spool.put("1-a", 0, b"whole")
    spool.close()
    (tmp_path / "spool" / "1-a.0000000001.json.gz.tmp").write_bytes(b"ha")
    again = open_spool()
    assert drain(again) == [b"whole"]
    assert not list((tmp_path / "spool").glob("*.tmp"))


def test_a_rejected_batch_is_set_aside_and_out_of_the_way(open_spool, tmp_path):
    spool = open_spool()
    spool.put("1-a", 0, b"bad")
    spool.put("1-a", 1, b"good")
    spool.reject(spool.oldest())
    assert drain(spool) == [b"good"]
    [kept] = (tmp_path / "spool" / "rejected").iterdir()
    assert kept.read_bytes() == b"bad"


def test_a_batch_whose_file_was_taken_away_is_counted_as_dropped(open_spool, tmp_path):
    spool = open_spool()
    spool.put("1-a", 0, b"x")
    name = spool.oldest()
    (tmp_path / "spool" / name).unlink()
    assert spool.read(name) is None
    assert spool.oldest() is None
    assert spool.dropped_batches == 1


def test_a_spool_belongs_to_one_agent(open_spool):
    open_spool()
    with pytest.raises(Conflict, match="another agent uses this spool"):
        open_spool()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable, match="the spool cannot be written"):
        Spool(tmp_path / "file" / "spool", 100)


WRITE_FOR_EVER = """
import gzip, itertools, sys
from pathlib import Path
from collector.spool import Spool
spool = Spool(Path(sys.argv[1]), 10**9)
for sequence in itertools.count():
    spool.put("1-a", sequence, gzip.compress(b"%d" % sequence * 5000))
    print(sequence, flush=True)
"""


def test_what_was_kept_before_a_kill_is_whole_after_it(tmp_path, open_spool):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path / "spool")], stdout=subprocess.PIPE, text=True
    )
    with writer:
        for _ in range(30):
            last = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        last = max([last, *map(int, writer.stdout.read().split())])
    batches = drain(open_spool(10**9))
    assert len(batches) in {last + 1, last + 2}  # one may have been renamed, and the kill came before it was said
    assert [gzip.decompress(batch) for batch in batches] == [b"%d" % n * 5000 for n in range(len(batches))]
