"""The FP8 message over a real collective: two processes, uneven and empty shares."""

from __future__ import annotations

import datetime
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from workloads.training.precision.blocks import TILE, quantize
from workloads.training.precision.dispatch import Fp8

DIM = 136
DEADLINE = datetime.timedelta(seconds=60)


def rows_of(rank: int, count: int) -> Tensor:
    rows = torch.randn(count, DIM, generator=torch.Generator().manual_seed(rank)) * 10.0**rank
    rows[::3] = 0.0
    return rows


def exchange(rank: int, folder: Path, sent: list[list[int]]) -> None:
    """One rank: send `sent[rank][other]` rows to each other rank in one uint8 message; keep what came."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(sent), timeout=DEADLINE
    )
    codec = Fp8(DIM)
    message = codec.encode(rows_of(rank, sum(sent[rank])))
    received = [from_rank[rank] for from_rank in sent]
    arrived = message.new_empty(sum(received), codec.row_bytes)
    dist.all_to_all_single(arrived, message, received, sent[rank])
    torch.save(codec.decode(arrived), folder / f"arrived-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "sent", [[[2, 5], [1, 3]], [[0, 4], [0, 0]]], ids=["uneven", "one sends all, the other nothing"]
)
def test_rows_arrive_as_they_were_quantised(sent: list[list[int]], tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=exchange, args=(rank, tmp_path, sent)) for rank in range(len(sent))]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(DEADLINE.total_seconds())
    for process in ranks:
        process.kill()  # only one that missed its deadline is still there
    assert [process.exitcode for process in ranks] == [0, 0]
    for rank in range(len(sent)):
        shares = [rows_of(source, sum(sent[source])).split(sent[source])[rank] for source in range(len(sent))]
        expected = quantize(torch.cat(shares), TILE).dequantize()
        assert torch.equal(torch.load(tmp_path / f"arrived-{rank}.pt"), expected)
