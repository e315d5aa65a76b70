"""Speculation changes how many passes an answer takes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokenstone.errors import InvalidValue
from tokenstone.flops import inference_work
from tokenstone.model import CPU_TINY
from workloads.device import Device
from workloads.inference.engine import Engine
from workloads.inference.facts import iteration_columns
from workloads.inference.request import EngineLimits, Request, Sampling
from workloads.inference.speculative import count_right


def test_guesses_count_up_to_the_first_wrong_one() -> None:
    assert count_right([1, 2, 3], [1, 2, 3, 4]) == 3
    assert count_right([1, 9, 3], [1, 2, 3, 4]) == 1
    assert count_right([], [1]) == 0


def foretelling(bench: Any, answers: dict[int, list[int]], right: Any) -> Engine:
    """An engine whose guess at answer token n of a request is right where `right(n)`."""
    engine: Engine = bench.engine(speculative_depth=1)
    guess = engine._guess

    def told(plans: Any, steps: Any, kept: Any, hidden: Any) -> None:
        guess(plans, steps, kept, hidden)
        for step in steps:
            sequence = step.turn.sequence
            if sequence.drafts:
                answer, position = answers[sequence.request.id], sequence.generated
                known = answer[position] if position < len(answer) else 0
                sequence.drafts = [known if right(position) else (known + 1) % 512]

    engine._guess = told  # type: ignore[method-assign]
    return engine


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, 0.95, seed=4)])
def test_right_and_wrong_guesses_give_the_same_answer_in_fewer_passes(bench: Any, sampling: Sampling) -> None:
    requests = [Request(i, list(range(i, i + 9)), 12, sampling) for i in range(3)]
    plain = bench.serve(requests)
    for right, passes in ((lambda n: True, 7), (lambda n: n % 3 > 0, 8), (lambda n: False, 12)):
        told = bench.run(foretelling(bench, plain.tokens, right), requests)
        assert told.tokens == plain.tokens
        assert len(told.iterations) == passes
    assert sum(it.accepted_tokens for it in told.iterations) == 0


def test_only_right_guesses_are_work(bench: Any) -> None:
    requests = [Request(0, list(range(9)), 12)]
    plain = bench.serve(requests)
    for right, tokens in ((lambda n: True, 2), (lambda n: False, 1)):
        served = bench.run(foretelling(bench, plain.tokens, right), requests)
        columns = iteration_columns(CPU_TINY, "fp32", served.iterations, pages=32)
        assert columns.request_tokens[1] == [tokens]
        assert columns.accepted_tokens[1] == tokens - 1
        wanted = inference_work(
            CPU_TINY, dtype="fp32", decode_contexts=[9 + tokens], decode_tokens=[tokens],
            activated_experts=columns.activated_experts[1],
        )  # fmt: skip
        assert (columns.flops[1], columns.bytes[1]) == (wanted.flops, wanted.bytes)
        assert columns.activated_experts[1] <= 2 * 2 * tokens  # experts that only wrong guesses chose are none


def test_guesses_are_those_of_the_trained_heads(bench: Any) -> None:
    """Position by position as the training computes them, over a prompt in pieces and through the answer."""
    engine: Engine = bench.engine(speculative_depth=1, token_budget=6, max_batch=1)
    engine.submit(Request(0, list(range(50, 66)), 10))
    while engine.busy:
        engine.iterate()
        for sequence in engine._scheduler.running:
            if sequence.drafts:
                ids = torch.tensor([[*sequence.tokens, 0]])  # the training cuts the last one off
                with torch.inference_mode():
                    hidden = bench.model.hidden(ids)
                    [logits] = bench.prediction(hidden, ids, bench.model.embedding, bench.model.head)
                assert sequence.drafts == [int(logits[0, -1].argmax())]


def test_speculation_without_its_weights_is_refused(bench: Any, device: Device) -> None:
    limits = EngineLimits(max_batch=1, context=16, token_budget=16, speculative_depth=1)
    with pytest.raises(InvalidValue, match="multi-token prediction"):
        Engine(bench.model, device, limits=limits)
