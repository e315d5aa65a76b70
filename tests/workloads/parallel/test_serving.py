"""Serving over several processes answers as one process does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from tokenstone.errors import InvalidValue
from tokenstone.model import CPU_TINY
from workloads.device import Device
from workloads.inference.disaggregated import Inbox, Sender, prefill_step
from workloads.inference.engine import Engine
from workloads.inference.expert_parallel import ExpertParallelEngine, serve_all
from workloads.inference.request import EngineLimits, Request, Sampling
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction

CPU = Device(torch.device("cpu"), "host", "cpu", 1)


def limits(**changes: Any) -> EngineLimits:
    return EngineLimits(**({"max_batch": 4, "context": 48, "token_budget": 24, "page_tokens": 8} | changes))


def sharp_model() -> MoeModel:
    model = MoeModel(CPU_TINY, seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    return model


def requests() -> list[Request]:
    generator = torch.Generator().manual_seed(1)
    return [
        Request(
            number,
            torch.randint(512, (3 + 4 * number,), generator=generator).tolist(),
            1 + 3 * (number % 4),
            Sampling(0.8, 0.9, seed=number) if number % 2 else Sampling(),
        )
        for number in range(7)
    ]


def collect(tokens: dict[int, list[int]], iteration: Any) -> None:
    for output in iteration.outputs:
        tokens.setdefault(output.request_id, []).extend(output.token_ids)


def one_process() -> dict[int, list[int]]:
    engine, tokens = Engine(sharp_model(), CPU, limits=limits()), {}  # type: ignore[var-annotated]
    for request in requests():
        engine.submit(request)
    while engine.busy:
        collect(tokens, engine.iterate())
    return tokens


def expert_parallel(micro_batches: int, depth: int, everything_on_one: bool) -> tuple[Any, float, int]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    group = dist.group.WORLD
    assert group is not None
    prediction = MultiTokenPrediction(CPU_TINY, depths=1, seed=3) if depth else None
    model = sharp_model()
    engine = ExpertParallelEngine(
        model, CPU, limits=limits(speculative_depth=depth), group=group, micro_batches=micro_batches,
        prediction=prediction,
    )  # fmt: skip
    tokens: dict[int, list[int]] = {}
    waited = 0.0
    for request in requests():
        if (0 if everything_on_one else request.id % ranks) == rank:
            engine.submit(request)

    def see(iteration: Any) -> None:
        nonlocal waited
        waited += iteration.communication_seconds
        assert iteration.model_seconds >= 0
        collect(tokens, iteration)

    serve_all(engine, see)
    return tokens, waited, model.blocks[0].ffn.routed.gate_up_EDF.shape[0]  # type: ignore[union-attr,union-attr,index,return-value]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "micro_batches", "depth", "everything_on_one"),
    [(2, 1, 0, False), (2, 2, 0, False), (4, 2, 0, True), (2, 2, 1, False)],
)
def test_shared_experts_answer_as_one_process(
    run_ranks: Any, ranks: int, micro_batches: int, depth: int, everything_on_one: bool
) -> None:
    results = run_ranks(ranks, expert_parallel, micro_batches, depth, everything_on_one)
    together: dict[int, list[int]] = {}
    for tokens, waited, experts in results:
        assert experts == 16 // ranks
        assert waited > 0
        together |= tokens
    assert together == one_process()


def wrong_ranks() -> str:
    group = dist.group.WORLD
    assert group is not None
    with pytest.raises(InvalidValue) as refusal:
        ExpertParallelEngine(sharp_model(), CPU, limits=limits(), group=group)
    return str(refusal.value)


@pytest.mark.slow
def test_experts_that_do_not_divide_are_refused(run_ranks: Any) -> None:
    assert "16 experts" in run_ranks(3, wrong_ranks)[0]


def disaggregated(depth: int, pages: int | None) -> tuple[dict[int, list[int]], int, int]:
    group = dist.group.WORLD
    assert group is not None
    prediction = MultiTokenPrediction(CPU_TINY, depths=1, seed=3) if depth else None
    mine = limits(speculative_depth=depth, pages=pages)
    engine = Engine(sharp_model(), CPU, limits=mine, prediction=prediction)
    tokens: dict[int, list[int]] = {}
    if dist.get_rank() == 0:
        link = Sender(group, target=1)
        for request in requests():
            engine.submit(request)
        while engine.busy:
            collect(tokens, prefill_step(engine, link))
        link.close()
        prefilled = engine.statistics().prompt_tokens
        return tokens, link.sent_bytes, prefilled
    inbox = Inbox(group, source=0, device=CPU.torch)
    adopted = prefilled = 0
    while not inbox.closed or engine.busy:
        adopted += inbox.deliver(engine)
        if engine.busy:
            iteration = engine.iterate()
            prefilled += sum(share.prefilled_tokens - share.recomputed_tokens for share in iteration.shares)
            collect(tokens, iteration)
    return tokens, adopted, prefilled


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "pages"), [(0, None), (1, None), (0, 8)])
def test_prefill_in_one_process_and_decode_in_another(run_ranks: Any, depth: int, pages: int | None) -> None:
    (first, sent_bytes, prompt_tokens), (rest, adopted, prefilled) = run_ranks(2, disaggregated, depth, pages)
    answers = {number: first[number] + rest.get(number, []) for number in first}
    assert answers == one_process()
    assert all(len(tokens) == 1 for tokens in first.values())
    asked = requests()
    assert adopted == sum(request.max_tokens > 1 for request in asked)
    assert prompt_tokens == sum(len(request.prompt) for request in asked)
    width, layers = 32 + 8, 2 + depth
    assert sent_bytes == sum(len(r.prompt) for r in asked if r.max_tokens > 1) * width * layers * 4
    if pages is None:
        assert prefilled == 0  # nothing is computed twice


def test_a_torn_handover_is_refused(device: Device) -> None:
    one, other = Engine(sharp_model(), device, limits=limits()), Engine(sharp_model(), device, limits=limits())
    one.submit(Request(4, [1, 2, 3], 5))
    with pytest.raises(InvalidValue, match="request 4"):
        one.hand_over(4)
    one.iterate()
    handover = one.hand_over(4)
    assert not one.busy
    handover.tokens.append(5)
    with pytest.raises(InvalidValue, match="request 4"):
        other.adopt(handover)
