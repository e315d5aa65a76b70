"""Files kept open, and registers that wrap."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.sources.counters import Unwrapped
from collector.sources.files import Files


@pytest.fixture
def files(tmp_path):
    files = Files(tmp_path)
    yield files
    files.close()


def test_a_file_is_read_anew_each_time_and_opened_once(files, tmp_path):
    opened = set()
    for number in (1, 20, 300):
        (tmp_path / "counter").write_text(f"{number}\n")
        assert files.number("counter") == number
        opened.add(len(list(Path("/proc/self/fd").iterdir())))
    assert len(opened) == 1


def test_a_file_that_was_replaced_or_vanished_is_noticed(files, tmp_path):
    (tmp_path / "counter").write_text("1")
    assert files.number("counter") == 1
    (tmp_path / "new").write_text("2")
    (tmp_path / "new").rename(tmp_path / "counter")
    assert files.number("counter") == 2
    (tmp_path / "counter").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        files.number("counter")
    assert caught.value.filename == "counter"
    (tmp_path / "counter").write_text("3")
    assert files.number("counter") == 3


def test_a_file_of_the_kernel_is_read_anew_and_whole():
    files = Files("/")
    first, second = files.text("proc/self/stat"), files.text("proc/self/stat")
    assert first.split()[0] == second.split()[0] == str(os.getpid())
    with Path("/proc/kallsyms").open("rb") as whole:  # a list of many pages
        assert files.read("proc/kallsyms").count(b"\n") == whole.read().count(b"\n")
    files.close()


def test_a_long_file_is_read_whole(files, tmp_path):
    (tmp_path / "long").write_bytes(b"x" * 200_000)
    assert len(files.read("long")) == 200_000


@given(steps=st.lists(st.integers(0, 2**31 - 1), max_size=50), start=st.integers(0, 2**32 - 1))
def test_a_total_goes_on_over_any_number_of_wraps(steps, start):
    total, register = Unwrapped(bits=32), start
    assert total(register) == start
    expected = start
    for step in steps:
        register, expected = (register + step) % 2**32, expected + step
        got = total(register)
        # A step of up to half the register is followed; from the lower half back into it, it would be a reset.
        assert got == expected
