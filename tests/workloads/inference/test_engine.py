"""The engine answers as the model alone would, whatever it does at the same time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstone.errors import InvalidValue
from tokenstone.model import CPU_SMALL, CPU_TINY, LatentAttention, ModelShape
from workloads.device import Device
from workloads.inference.engine import Engine
from workloads.inference.request import EngineLimits, Request, Sampling
from workloads.moe.model import MoeModel

assert CPU_TINY.experts is not None
DENSE_FIRST = CPU_TINY.model_copy(
    update={
        "layers": 3,
        "attention": LatentAttention(heads=4, query_rank=None, kv_rank=32, nope_dim=16, rope_dim=8, value_dim=24),
        "experts": CPU_TINY.experts.model_copy(update={"dense_layers": 1, "shared": 2, "route_scale": 2.5}),
    }
)
"""Everything that the presets leave out: a dense layer, no query rank, values as wide as keys, shared experts."""

SHARED = list(range(100, 140))
"""What many prompts begin with."""


def ids(length: int, seed: int) -> list[int]:
    words: list[int] = torch.randint(512, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return words


def watch_logits(engine: Engine) -> list[torch.Tensor]:
    """The logits of each iteration, as they come."""
    seen: list[torch.Tensor] = []
    head = engine.forward.logits

    def watched(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(head(hidden))
        return seen[-1]

    engine.forward.logits = watched  # type: ignore[method-assign]
    return seen


@st.composite
def loads(draw: st.DrawFn) -> tuple[list[Request], list[int], dict[str, Any]]:
    requests = []
    for number in range(draw(st.integers(1, 6))):
        prompt = SHARED[: draw(st.sampled_from([0, 8, 17, 32]))] + ids(draw(st.integers(1, 20)), number)
        sampling = draw(st.sampled_from([Sampling(), Sampling(), Sampling(0.8, 0.9, seed=number)]))
        requests.append(Request(number, prompt, draw(st.integers(1, 11)), sampling))
    arrivals = draw(st.lists(st.integers(0, 12), min_size=len(requests), max_size=len(requests)))
    limits = {
        "max_batch": draw(st.integers(1, 4)),
        "token_budget": draw(st.sampled_from([8, 13, 64])),
        "pages": draw(st.sampled_from([9, 12, None])),
        "prefix_caching": draw(st.booleans()),
        "chunked_prefill": draw(st.booleans()),
        "speculative_depth": draw(st.sampled_from([0, 1])),
    }
    return requests, arrivals, limits


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(load=loads())
def test_answers_do_not_depend_on_what_else_is_served(load: Any, bench: Any) -> None:
    requests, arrivals, limits = load
    served = bench.serve(requests, arrivals, **limits)
    for request in requests:
        alone = bench.serve([request], max_batch=1, prefix_caching=False)
        assert served.tokens[request.id] == alone.tokens[request.id]
        assert len(served.tokens[request.id]) == request.max_tokens
        assert served.last[request.id].finish_reason == "length"


@pytest.mark.parametrize("limits", [{}, {"token_budget": 5}, {"chunked_prefill": False}, {"speculative_depth": 1}])
def test_answers_are_those_of_the_training_model(bench: Any, limits: dict[str, Any]) -> None:
    requests = [Request(i, ids(length, i), 9) for i, length in enumerate((1, 9, 9, 31))]
    assert bench.serve(requests, **limits).tokens == bench.alone(requests)


@pytest.mark.parametrize("shape", [CPU_TINY, CPU_SMALL, DENSE_FIRST], ids=["tiny", "small", "dense-first"])
@pytest.mark.parametrize("pieces", [[29], [13, 16], [8, 1, 1, 19], [28, 1]])
def test_logits_are_those_of_the_training_model(device: Device, shape: ModelShape, pieces: list[int]) -> None:
    """Read in pieces, some expanded, some absorbed; weights as a training begins with and much larger ones."""
    for scale in (1.0, 4.0):
        model = MoeModel(shape, seed=2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale if parameter.ndim > 1 else 1.0)
        words = ids(sum(pieces), 7)
        limits = EngineLimits(max_batch=1, context=40, page_tokens=8, token_budget=max(pieces))
        engine = Engine(model, device, limits=limits)
        seen = watch_logits(engine)
        engine.submit(Request(0, words[: pieces[0]], 8))
        position = 0
        for piece in pieces:
            position += piece
            [sequence] = [*engine._scheduler.waiting, *engine._scheduler.running]
            sequence.tokens[:] = words[:position]  # as if the model had said what we want to read next
            engine.iterate()
            with torch.inference_mode():
                wanted = model(torch.tensor([words[:position]]))[0, -1:]
            torch.testing.assert_close(seen[-1], wanted, rtol=1e-4, atol=1e-4)


def test_requests_join_and_leave_while_others_run(bench: Any) -> None:
    engine = bench.engine(max_batch=2)
    for number, answer in enumerate((9, 2, 3)):
        engine.submit(Request(number, ids(5, number), answer))
    members = [[share.request_id for share in engine.iterate().shares] for _ in range(4)]
    # Prefill of two; a step that ends the second; the third's prefill beside the first's step; steps of both.
    assert [sorted(numbers) for numbers in members] == [[0, 1], [0, 1], [0, 2], [0, 2]]


def test_long_prompts_do_not_hold_up_answers(bench: Any) -> None:
    engine = bench.engine(token_budget=12)
    engine.submit(Request(0, ids(5, 0), 10))
    engine.iterate()
    engine.submit(Request(1, ids(40, 1), 2))
    shares = [{s.request_id: (s.prefilled_tokens, s.decoded_tokens) for s in engine.iterate().shares} for _ in range(5)]
    assert shares[:4] == [{0: (0, 1), 1: (11, 0)}] * 3 + [{0: (0, 1), 1: (7, 0)}]
    assert shares[4] == {0: (0, 1), 1: (0, 1)}


def test_without_chunks_prompts_go_first_and_whole(bench: Any) -> None:
    engine = bench.engine(token_budget=12, chunked_prefill=False)
    engine.submit(Request(0, ids(5, 0), 10))
    engine.iterate()
    engine.submit(Request(1, ids(40, 1), 2))
    assert [(s.request_id, s.prefilled_tokens) for s in engine.iterate().shares] == [(1, 40)]


def test_a_known_prefix_is_not_computed_again(bench: Any) -> None:
    engine = bench.engine()
    first = bench.run(engine, [Request(0, [*SHARED, 7], 3)])
    again = bench.run(engine, [Request(1, [*SHARED, 7], 3), Request(2, SHARED[:20] + [9] * 10, 3)])
    assert again.tokens[1] == first.tokens[0]
    assert first.last[0].cached_prompt_tokens == 0
    assert again.last[1].cached_prompt_tokens == 40
    assert again.last[2].cached_prompt_tokens == 16  # two whole pages
    assert [s.prefilled_tokens for s in again.iterations[0].shares] == [1, 14]
    assert engine.statistics().cached_prompt_tokens == 56
    engine.forget()
    assert bench.run(engine, [Request(3, [*SHARED, 7], 1)]).last[3].cached_prompt_tokens == 0


def test_the_whole_prompt_can_be_known_but_for_its_last_page(bench: Any) -> None:
    engine = bench.engine()
    first = bench.run(engine, [Request(0, SHARED, 4)])
    again = bench.run(engine, [Request(1, SHARED, 4)])
    assert again.tokens[1] == first.tokens[0]
    assert again.last[1].cached_prompt_tokens == 32


def test_pages_that_run_out_preempt_the_last_and_it_computes_again(bench: Any) -> None:
    requests = [Request(i, ids(20, i), 20) for i in range(3)]
    served = bench.serve(requests, pages=9, prefix_caching=False)
    assert served.tokens == bench.alone(requests)
    assert sum(it.preemptions for it in served.iterations) > 0
    recomputed = sum(it.recomputed_tokens for it in served.iterations)
    prefilled = sum(s.prefilled_tokens for it in served.iterations for s in it.shares)
    assert recomputed > 0
    assert prefilled == 60 + recomputed + sum(
        # what a preempted request had drawn but not cached is read as part of its prompt, for the first time
        s.prefilled_tokens - s.recomputed_tokens for it in served.iterations for s in it.shares if s.recomputed_tokens
    )  # fmt: skip


def test_a_prompt_waits_until_the_prompts_before_it_have_their_room(bench: Any) -> None:
    requests = [Request(i, ids(40, i), 2) for i in range(3)]
    served = bench.serve(requests, pages=9, token_budget=8, prefix_caching=False)
    assert served.tokens == bench.alone(requests)
    assert sum(it.preemptions for it in served.iterations) == 0


def test_cancelling_frees_pages_at_once(bench: Any) -> None:
    engine = bench.engine()
    for number in range(6):
        engine.submit(Request(number, ids(20, number), 20))
    engine.iterate()
    used = engine.statistics().pages_used
    cancelled = engine.cancel(1)
    assert cancelled is not None
    assert cancelled.finish_reason == "cancelled"
    assert engine.statistics().pages_used == used - 3
    assert engine.cancel(5) is not None  # still waiting
    assert engine.cancel(1) is None
    tokens: dict[int, list[int]] = {}
    while engine.busy:
        for output in engine.iterate().outputs:
            tokens.setdefault(output.request_id, []).extend(output.token_ids)
    assert sorted(tokens) == [0, 2, 3, 4]
    assert engine.statistics().pages_used == 0


def test_an_answer_ends_with_a_stop_id(bench: Any) -> None:
    [answer] = bench.alone([Request(0, ids(9, 1), 12)]).values()
    stop = frozenset({answer[4]})
    length = answer.index(answer[4]) + 1
    for limits in ({}, {"speculative_depth": 1}):
        served = bench.serve([Request(0, ids(9, 1), 12, stop_ids=stop)], **limits)
        assert served.tokens[0] == answer[:length]
        assert served.last[0].finish_reason == "stop"
        ignored = bench.serve([Request(0, ids(9, 1), 12, stop_ids=stop, ignore_end=True)], **limits)
        assert ignored.tokens[0] == answer


@pytest.mark.parametrize(("length", "answer"), [(0, 5), (5, 0), (60, 5)])
def test_requests_that_cannot_be_served_are_refused(length: int, answer: int, bench: Any) -> None:
    with pytest.raises(InvalidValue, match="request 3"):
        bench.engine().submit(Request(3, [1] * length, answer))


@pytest.mark.parametrize("words", [[1, 512], [-1, 5]])
def test_ids_that_the_vocabulary_does_not_have_are_refused(bench: Any, words: list[int]) -> None:
    with pytest.raises(InvalidValue, match="0 to 511"):
        bench.engine().submit(Request(3, words, 2))


def test_an_id_that_is_in_use_is_refused(bench: Any) -> None:
    engine = bench.engine()
    engine.submit(Request(3, [1, 2], 2))
    with pytest.raises(InvalidValue, match="request 3"):
        engine.submit(Request(3, [1], 2))
    while engine.busy:
        engine.iterate()
    engine.submit(Request(3, [1], 2))


def test_a_request_larger_than_the_cache_is_refused(bench: Any) -> None:
    with pytest.raises(InvalidValue, match="5 pages"):
        bench.engine(pages=5).submit(Request(3, [1] * 35, 10))


@pytest.mark.parametrize(
    "wrong", [{"max_batch": 0}, {"token_budget": 3}, {"pages": 0}, {"speculative_depth": -1}, {"speculative_depth": 2}]
)
def test_limits_that_make_no_sense_are_refused(bench: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        bench.engine(**wrong)


def test_very_different_contexts_attend_one_by_one(bench: Any) -> None:
    requests = [Request(0, ids(50, 0), 12), *(Request(i, ids(2, i), 12) for i in range(1, 4))]
    for depth in (0, 1):
        assert bench.serve(requests, speculative_depth=depth).tokens == bench.alone(requests)


def test_bf16_runs_and_stays_near_fp32(device: Device) -> None:
    answers = []
    for dtype in (torch.float32, torch.bfloat16):
        engine = Engine(
            MoeModel(CPU_TINY, seed=1).to(dtype), device, limits=EngineLimits(max_batch=1, context=32, token_budget=16)
        )
        seen = watch_logits(engine)
        engine.submit(Request(0, ids(20, 0), 1))
        while engine.busy:
            engine.iterate()
        answers.append(seen[-1].float())
    assert torch.nn.functional.cosine_similarity(*answers).item() > 0.99


def test_fp8_weights_are_near_and_say_what_they_are(bench: Any, device: Device) -> None:
    logits, precision = [], []
    for fp8 in (False, True):
        limits = EngineLimits(max_batch=1, context=32, token_budget=16)
        engine = Engine(MoeModel(CPU_TINY, seed=1), device, limits=limits, fp8=fp8)
        seen = watch_logits(engine)
        engine.submit(Request(0, ids(20, 0), 2))
        while engine.busy:
            engine.iterate()
        logits.append(seen[1])  # at the end of the prompt, which was read in two pieces
        precision.append(engine.precision)
    assert precision[0] == "float32"
    assert precision[1] in {"fp8: emulated", "fp8: scaled_mm"}
    assert torch.nn.functional.cosine_similarity(*logits).item() > 0.98
    assert not torch.equal(*logits)
