"""FP8 out and BF16 home, forward and backward: what arrives, and how many bytes were sent for it."""

from __future__ import annotations

import torch
import torch.distributed as dist

from workloads.training.coded_exchange import CodedAllToAll
from workloads.training.parallel import exchange
from workloads.training.parallel.communication import CommunicationLog
from workloads.training.parallel.exchange import AllToAll, Pass
from workloads.training.parallel.layout import Layout, make_groups
from workloads.training.precision.blocks import TILE, quantize
from workloads.training.precision.dispatch import Fp8, bf16

DIM, EXPERTS = 256, 4


def _there_and_back(direction: Pass) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """This rank's rows, sent to the experts and brought home unchanged, plain and coded."""
    groups = make_groups(Layout(experts=2), deadline_seconds=30)
    ends = (groups.experts_forward, groups.experts_backward)
    rows = torch.randn(12, DIM, generator=torch.Generator().manual_seed(dist.get_rank()))
    load = torch.tensor([1, 2, 4, 5] if dist.get_rank() == 0 else [6, 0, 6, 0])
    result, sent = {"rows": rows}, {}
    for name in ("plain", "coded"):
        log = CommunicationLog()
        coded = CodedAllToAll(*ends, log, outward=Fp8(DIM), homeward=bf16(DIM))
        exchange = coded if name == "coded" else AllToAll(*ends, log)
        plan = exchange.plan(load, direction)
        arrived = exchange.dispatch(rows, plan, direction)
        home = exchange.combine(arrived, plan, direction)
        result |= {f"{name} arrived": arrived, f"{name} home": home}
        for span in log.take():
            if span.name in {"dispatch", "combine"}:
                sent[f"{name} {span.name}"] = span.sent_bytes
    return result, sent


def test_what_arrives_is_quantised_and_costs_a_quarter(run_ranks):
    for direction in Pass:
        for rank, (tensors, sent) in enumerate(run_ranks(2, _there_and_back, direction)):
            rows, arrived = tensors["rows"], tensors["plain arrived"]
            torch.testing.assert_close(tensors["plain home"], rows, rtol=0, atol=0)
            quantised = quantize(arrived, TILE).dequantize()
            torch.testing.assert_close(tensors["coded arrived"], quantised, rtol=0, atol=0)
            expected = quantize(rows, TILE).dequantize().bfloat16().float()
            torch.testing.assert_close(tensors["coded home"], expected, rtol=0, atol=0)
            away = 9 if rank == 0 else 6  # rows of ours whose experts live on the other rank
            assert sent["plain dispatch"] == away * DIM * 4
            assert sent["coded dispatch"] == away * (DIM + 2 * 4)
            assert sent["coded combine"] * 2 == sent["plain combine"]


def _slept(bytes_per_second: float) -> list[float]:
    """Seconds that an exchange of 100 rows of 4 fp32 values with the other rank adds."""
    groups = make_groups(Layout(experts=2), deadline_seconds=30)
    slept: list[float] = []
    exchange.time.sleep = slept.append  # this process is a fork of the test's own
    link = exchange.AllToAll(
        groups.experts_forward, groups.experts_backward, CommunicationLog(), bytes_per_second=bytes_per_second
    )
    link.transfer(torch.zeros(200, 4), [100, 100], [100, 100], Pass.FORWARD, "dispatch")
    return slept


def test_a_simulated_rate_makes_bytes_take_their_time(run_ranks) -> None:  # type: ignore[no-untyped-def]
    assert run_ranks(2, _slept, 1600.0) == [[1.0], [1.0]]
    assert run_ranks(2, _slept, float("inf")) == [[], []]
