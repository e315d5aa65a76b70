"""What is read, from whole, odd and broken files."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstone.errors import InvalidFile, InvalidValue, UsageError
from tokenstone.trace import reader
from tokenstone.trace.intervals import covered_until, joined, overlap, union
from tokenstone.trace.job import read_job
from tokenstone.trace.kernels import Classifier
from tokenstone.trace.reader import TraceReader

GEMM = "void cutlass::Kernel<cutlass_80_tensorop_gemm>(Params)"


def one(path, **options):
    [device] = read_job([path], **options).devices
    return device


def test_deepseeks_own_trace_to_the_microsecond(deepseek):
    device = one(deepseek)
    assert (device.span_us, device.busy_us) == (129_012, 128_515)
    assert (device.communication_us, device.compute_us, device.overlap_us) == (113_440, 124_338, 109_263)
    assert (device.exposed_communication_us, device.idle_us) == (4_177, 497)
    assert sum(device.idle_by_cause_us.values()) == pytest.approx(497)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("chunk", [64, 1000, 1 << 20])
def test_pieces_and_forms_do_not_matter(make, monkeypatch, indent, compress, chunk):
    maker = make()
    for i in range(60):
        name = 'a},{"b' if i % 7 == 0 else GEMM  # the cut between events, inside a name
        maker.kernel(name, 10 * i, 4, launched=10 * i - 3, nested=[{"x": 1}, {"y": [{}, {}]}])
    monkeypatch.setattr(reader, "CHUNK_BYTES", chunk)
    maker.header["note"] = 'before "traceEvents": [ nothing'
    device = one(maker.write(indent=indent, compress=compress))
    assert (device.kernels, device.busy_us, device.idle_us) == (60, 240, 59 * 6)


def test_what_stands_behind_the_events_is_read_too(tmp_path):
    events = [{"ph": "X", "cat": "kernel", "name": GEMM, "ts": 5, "dur": 3, "args": {"device": 0}}]
    path = tmp_path / "late.json"
    devices = [{"name": "NVIDIA H20"}, {"name": "NVIDIA H20"}]
    distributed = {"rank": 3, "world_size": 4}
    path.write_text(json.dumps({"traceEvents": events, "deviceProperties": devices, "distributedInfo": distributed}))
    job = read_job([path])
    assert (job.device_name, job.devices[0].rank, job.devices[0].kernels) == ("NVIDIA H20", 3, 1)


def test_not_a_number_and_foreign_letters_are_no_reason_to_fail(make, tmp_path):
    maker = make()
    maker.kernel(GEMM, 0, 10, occupancy=0.5)
    maker.kernel("kernel_\N{SNOWMAN}", 20, 10)
    text = json.dumps(maker.document()).replace("0.5", "-nan").encode().replace(rb"\u2603", b"\xff\xfe")
    path = tmp_path / "odd.json"
    path.write_bytes(text)
    assert one(path).busy_us == 20


def test_numbers_in_quotes_are_read_and_times_that_are_none_are_counted(make):
    maker = make()
    maker.kernel(GEMM, 0, 10)
    maker.kernel(GEMM, "20", "5.5")
    maker.kernel(GEMM, "soon", 5)
    maker.kernel(GEMM, 30, -1)
    job = read_job([maker.write()])
    assert job.devices[0].busy_us == 15.5
    assert any("2 events without a readable time" in note for note in job.notes)


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_that_breaks_off_gives_what_came_before_and_says_so(make, compress):
    maker = make()
    for i in range(500):
        maker.kernel(GEMM, 10 * i, 4)
    path = maker.write(compress=compress)
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) * 2 // 3])
    job = read_job([path])
    assert 200 < job.devices[0].kernels < 400
    assert any("breaks off after event" in note and path.name in note for note in job.notes)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"   \n", "empty"),
        (b"<html>", "not a JSON file"),
        (b'{"a": 1}', "no list of traceEvents"),
        (b'{"traceEvents": []}', "none of its 0 events"),
        (b'{"traceEvents": [{"ph": "X", "cat": "kernel"}]}', "none of its 1 events"),
        (b'{"traceEvents": [' + b"[" * 5000, "none of its 0 events"),
        (gzip.compress(b"", mtime=0), "empty"),
        (b"\x1f\x8bgarbage", "empty"),
    ],
)
def test_what_is_no_trace_is_told_in_one_sentence(tmp_path, content, says):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(InvalidFile, match=says) as error:
        read_job([path])
    assert str(path) in str(error.value)


def test_an_event_without_end_is_refused_before_memory_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "LARGEST_EVENT_BYTES", 1 << 16)
    monkeypatch.setattr(reader, "CHUNK_BYTES", 1 << 14)
    path = tmp_path / "large.json"
    path.write_bytes(b'{"traceEvents": [{"name": "' + b"x" * (1 << 18))
    with pytest.raises(InvalidFile, match="longer than"):
        list(TraceReader(path).events())


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InvalidFile, match="no such file"):
        read_job([tmp_path / "none.json"])
    with pytest.raises(InvalidFile, match="directory"):
        read_job([tmp_path])


def test_ranks_of_different_jobs_are_refused(make):
    for rank, size in ((0, 2), (1, 4)):
        maker = make(rank=rank, world_size=size)
        maker.kernel(GEMM, 0, 5)
        maker.write()
    with pytest.raises(UsageError, match="job of 2 ranks"):
        read_job([maker.folder / "rank0.json", maker.folder / "rank1.json"])
    with pytest.raises(UsageError, match="both rank 0"):
        read_job([maker.folder / "rank0.json", maker.folder / "rank0.json"])


@pytest.mark.parametrize(
    "name",
    [
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)",
        "void dpsk::ep::internode::dispatch<false, 8, true, 8>(int4*, float*)",
        "void deep_ep::intranode::combine<__nv_bfloat16, 8, 768, 4096>(...)",
        "nvshmemi_transfer_rma_thread(...)",
        "hcom_allGather__496_0_1",
        "gloo:all_to_all",
        "void multimem_all_reduce_kernel<c10::BFloat16, 16>(...)",
    ],
)
def test_communication_of_any_library_is_known(name):
    assert Classifier().classify(name, "kernel") == "communication"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void dpsk::grouped_gemm::cuda::utils::transpose<512, 128, 4, 4>(unsigned char const*)", "data movement"),
        ("void cutlass::device_kernel<dpsk::grouped_gemm::cuda::fp8_ptp128c::GemmKernel>(x)", "matrix product"),
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopA_TNN", "matrix product"),
        ("void flash::compute_attn_ws<Flash_fwd_kernel_traits<192, 128>>(x)", "attention"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>(x)", "elementwise"),
        ("void gatherTopK<float, unsigned int, 2, false>(x)", "routing"),
        ("Memcpy DtoD (Device -> Device)", "memory"),
        ("my_kernel", "other"),
    ],
)
def test_classes_of_computation(name, kind):
    assert Classifier().classify(name, "kernel") == kind


def test_patterns_of_ones_own(make):
    maker = make()
    maker.kernel(GEMM, 0, 10)
    maker.kernel("acme_exchange_v2(int)", 5, 10, stream=8)
    path = maker.write()
    assert one(path).communication_us == 0
    assert one(path, communication=["^acme_"]).exposed_communication_us == 5
    with pytest.raises(InvalidValue, match="--communication"):
        read_job([path], communication=["("])


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=25)


@settings(max_examples=200)
@given(spans, spans)
def test_intervals_agree_with_counting_every_instant(one, other):
    def covered(pairs):
        return {t for start, length in pairs for t in range(start, start + length)}

    def intervals(pairs):
        starts = np.array([start for start, _ in pairs], dtype=float)
        return union(starts, starts + np.array([length for _, length in pairs], dtype=float))

    a, b = intervals(one), intervals(other)
    assert a.length == len(covered(one))
    assert overlap(a, b) == len(covered(one) & covered(other))
    assert joined(a, b).length == len(covered(one) | covered(other))
    times = np.arange(0.0, 85.0)
    assert list(covered_until(a, times)) == [sum(t < time for t in covered(one)) for time in times]
