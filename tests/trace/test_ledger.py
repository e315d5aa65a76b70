"""From traces to where the time went: gaps by cause, waiting across ranks, ledger, bill, what is printed."""

import json
import random

import pytest

from tokenstone.ledger import training_ledger
from tokenstone.trace.job import read_job

GEMM = "sm90_xmma_gemm_bf16bf16_bf16f32"
ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


def test_each_gap_has_its_cause(make):
    maker = make()
    maker.kernel(GEMM, 100, 100, launched=50)
    maker.kernel(GEMM, 220, 80, launched=210)  # 20 us: launched after the gap had begun
    maker.kernel(GEMM, 330, 70, launched=250)  # 30 us: launched long before
    maker.host("cudaStreamSynchronize", 260, 150, category="cuda_runtime")
    maker.kernel(GEMM, 440, 60, launched=430)  # 40 us: the host had waited until 410
    maker.host("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 490, 50, category="user_annotation")
    maker.kernel(GEMM, 550, 50, launched=545)  # 50 us, of which 40 fetching
    maker.kernel(GEMM, 660, 40)  # 60 us: nobody knows
    [device] = read_job([maker.write()]).devices
    causes = device.idle_by_cause_us
    assert causes == {"input": 40, "synchronise": 40, "launch": 30, "dependency": 30, "unknown": 60}
    assert device.idle_us == sum(causes.values())


def ranks(make, durations, *, common_clock=True, group=None):
    """A trace a rank: 100 us of work, then one all-reduce that lasts as given, 20 us of it behind more work."""
    paths = []
    for rank, duration in enumerate(durations):
        maker = make(rank=rank, world_size=len(durations))
        start = 1000 + (0 if common_clock else 1e9 * rank)
        named = {"Collective name": "allreduce", "Process Group Ranks": group} if group else {}
        maker.kernel(GEMM, start, 100)
        maker.kernel(ALL_REDUCE, start + 100, duration, stream=20, **named)
        maker.kernel(GEMM, start + 100, 20)
        paths.append(maker.write())
    return paths


@pytest.mark.parametrize("group", [None, "[0, 1, 2]"])
def test_who_came_early_waited(make, group):
    job = read_job(ranks(make, [150, 100, 60], group=group))
    # The slowest came last and took 60 us; the others' waits begin behind the 20 us of work.
    assert [device.waiting_us for device in job.devices] == [70, 20, 0]
    assert job.straggler() == ("rank2", 45)
    ledger = training_ledger(job.facts(), 0.0, None)
    assert ledger.seconds["load_imbalance"] == pytest.approx(90e-6)
    assert ledger.seconds["exposed_communication"] == pytest.approx((130 + 80 + 40 - 90) * 1e-6)
    assert ledger.balanced


def test_waiting_is_unknown_without_all_ranks(make):
    job = read_job(ranks(make, [150, 100, 60])[:2])
    assert [device.waiting_us for device in job.devices] == [None, None]
    assert any("not all ranks" in note for note in job.notes)
    assert job.straggler() is None


def test_ranks_that_disagree_on_what_they_did_are_not_matched(make):
    paths = ranks(make, [150, 100])
    maker = make(rank=1, world_size=2)
    maker.kernel(ALL_REDUCE, 0, 5)
    maker.kernel(ALL_REDUCE, 9, 5)
    maker.write()
    assert any("differ in the number of collectives" in note for note in read_job(paths).notes)


def test_clocks_that_disagree_are_told_and_change_nothing(make):
    job = read_job(ranks(make, [150, 100], common_clock=False))
    assert [device.waiting_us for device in job.devices] == [30, 0]  # 20 of 50 behind work
    assert any("clocks disagree" in note for note in job.notes)


def test_a_trace_without_a_device_is_read_from_the_host(make):
    maker = make()
    maker.host("aten::mm", 0, 100)
    maker.host("gloo:all_reduce", 80, 70, category="user_annotation")
    maker.host("c10d::allreduce_", 150, 30)
    maker.host("aten::add_", 200, 50)
    job = read_job([maker.write()])
    [device] = job.devices
    assert (device.basis, device.compute_us, device.exposed_communication_us, device.idle_us) == ("host", 150, 50, 50)
    assert any("from the host's operators" in note for note in job.notes)


def test_several_devices_of_one_process_are_kept_apart(make):
    maker = make()
    maker.kernel(GEMM, 0, 100, device=0)
    maker.kernel(GEMM, 0, 40, device=1)
    maker.kernel(GEMM, 60, 40, device=1)
    assert [(d.name, d.idle_us) for d in read_job([maker.write()]).devices] == [("rank0:0", 0), ("rank0:1", 20)]


def test_deepseeks_trace_as_a_document(tokenstone, deepseek):
    code, out, err = tokenstone("trace", str(deepseek), "--json", "--tokens", "16384", "--price-per-device-hour", "2")
    assert (code, err) == (0, "")
    result = json.loads(out)
    expected = {"span_us": 129_012, "busy_us": 128_515, "compute_us": 124_338, "communication_us": 113_440,
                "overlap_us": 109_263, "exposed_communication_us": 4_177, "idle_us": 497}  # fmt: skip
    assert {name: result[name] for name in expected} == expected
    assert {name: result["ranks"][0][name] for name in expected} == expected
    assert result["device_name"] == "NVIDIA H800"
    assert abs(result["residual_seconds"]) < 1e-9
    assert sum(result["ledger_seconds"].values()) == pytest.approx(129_012e-6)
    paid = 129_012e-6 / 3600 * 2 / 16384 * 1e6
    assert result["bill"]["usd_per_million_tokens"] == pytest.approx(paid)
    assert sum(line["usd_per_million_tokens"] for line in result["bill"]["lines"]) == pytest.approx(paid)


def test_a_known_amount_of_work_gives_a_score(tokenstone, make):
    maker = make()  # an H800: 989 TFLOP/s in bf16
    maker.kernel(GEMM, 0, 1e6)
    path = str(maker.write())
    code, out, _ = tokenstone("trace", path, "--flops", str(989e12 / 4), "--json")
    assert code == 0
    assert json.loads(out)["score"] == pytest.approx(25.0)
    code, out, _ = tokenstone("trace", path, "--flops", str(989e12 * 4))
    assert code == 0
    assert "beyond the hardware's peak" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "deepseek-v3"], "--model needs --tokens"),
        (["--model", "deepseek-v3", "--flops", "1", "--tokens", "5"], "either --model or --flops"),
        (["--tokens", "1.5"], "whole"),
        (["--hardware", "h9000"], "unknown"),
    ],
)
def test_usage_errors_are_one_line(tokenstone, make, arguments, says):
    maker = make()
    maker.kernel(GEMM, 0, 10)
    code, out, err = tokenstone("trace", str(maker.write()), *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_what_is_printed(tokenstone, make):
    code, out, _ = tokenstone("trace", *map(str, ranks(make, [150, 100, 60])))
    assert code == 0
    words = " ".join(out.split())
    assert "rank2" in words
    assert "Slowest: rank2" in words
    assert "load imbalance" in words


@pytest.mark.filterwarnings("ignore")  # the peer's own
@pytest.mark.parametrize("seed", range(4))
def test_agreement_with_holistic_trace_analysis(make, seed):
    """The peer that people know, on traces whose communication it knows: NCCL's."""
    hta = pytest.importorskip("hta.trace_analysis", reason="HolisticTraceAnalysis is not installed")
    rng = random.Random(seed)
    maker = make()
    maker.host("ProfilerStep#1", 0, 40_000, category="user_annotation")
    for stream, name in ((7, GEMM), (20, ALL_REDUCE), (7, "void at::native::vectorized_elementwise_kernel<4>(x)")):
        time = rng.randrange(50)
        for _ in range(150):
            time += rng.choice([0, 1, 5, 40, 200])
            duration = rng.randrange(1, 120)
            maker.kernel(name, time, duration, stream=stream, launched=max(0, time - rng.randrange(1, 90)))
            time += duration
    path = maker.write()
    analysis = hta.TraceAnalysis(trace_files={0: str(path)}, trace_dir=str(path.parent))
    breakdown = analysis.get_temporal_breakdown(visualize=False).iloc[0]
    hidden = float(analysis.get_comm_comp_overlap(visualize=False)["comp_comm_overlap_pctg"].iloc[0])
    [ours] = read_job([path]).devices
    assert ours.span_us == pytest.approx(float(breakdown["kernel_time(us)"]), rel=0.01)
    assert ours.idle_us == pytest.approx(float(breakdown["idle_time(us)"]), rel=0.01)
    assert ours.compute_us - ours.copy_only_us == pytest.approx(float(breakdown["compute_time(us)"]), rel=0.01)
    assert 100 * ours.overlap_us / ours.communication_us == pytest.approx(hidden, rel=0.01)
