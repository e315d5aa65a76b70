"""Serving: batching changes nothing but the speed, and the facts add up."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokenstone.errors import InvalidFile, InvalidValue
from tokenstone.flops import inference_work
from tokenstone.ledger import inference_ledger
from tokenstone.model import CPU_TINY
from tokenstone.run import InferenceSpec
from tokenstone.wire import InferenceFacts
from workloads import checkpoint as checkpoints
from workloads.checkpoint import Checkpoint
from workloads.device import Device, select_device
from workloads.inference.engine import Engine, Sequence
from workloads.inference.loop import infer
from workloads.moe.model import MoeModel
from workloads.presets import inference_spec


def sharp_model() -> MoeModel:
    """Weights large enough that the likeliest word is likeliest by more than rounding."""
    model = MoeModel(CPU_TINY, seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    return model


MODEL = sharp_model()


def sequences(lengths: list[tuple[int, int]]) -> list[Sequence]:
    generator = torch.Generator().manual_seed(6)
    return [
        Sequence(i, torch.randint(512, (prompt,), generator=generator).tolist(), output)
        for i, (prompt, output) in enumerate(lengths)
    ]


def generate(lengths: list[tuple[int, int]], *, max_batch: int, late: int = 0) -> list[list[int]]:
    """Words of each sequence; the last `late` of them are submitted after the others have begun."""
    engine = Engine(MODEL, select_device(1), max_batch=max_batch, context=40)
    asked = sequences(lengths)
    first = len(asked) - late
    for sequence in asked[:first]:
        engine.submit(sequence)
    if first:
        engine.iterate()
    for sequence in asked[first:]:
        engine.submit(sequence)
    while not all(sequence.finished for sequence in asked):
        engine.iterate()
    return [sequence.generated for sequence in asked]


@settings(deadline=None, max_examples=15)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=7),
    max_batch=st.integers(1, 5),
    late=st.integers(0, 3),
)
def test_batched_gives_token_for_token_what_one_at_a_time_gives(
    lengths: list[tuple[int, int]], max_batch: int, late: int
) -> None:
    alone = generate(lengths, max_batch=1)
    assert generate(lengths, max_batch=max_batch, late=min(late, len(lengths))) == alone
    assert [len(words) for words in alone] == [output for _, output in lengths]


def test_decoding_gives_what_the_full_forward_would_choose() -> None:
    [asked] = sequences([(9, 10)])
    [words] = generate([(9, 10)], max_batch=1)
    ids = list(asked.prompt)
    for word in words:
        with torch.inference_mode():
            assert int(MODEL(torch.tensor([ids]))[0, -1].argmax()) == word
        ids.append(word)


def test_sequences_join_and_leave_while_others_run(device: Device) -> None:
    engine = Engine(MODEL, device, max_batch=2, context=40)
    long, short, waiting = sequences([(5, 9), (5, 2), (5, 3)])
    for sequence in (long, short, waiting):
        engine.submit(sequence)
    members = [[s.request for s in engine.iterate().sequences] for _ in range(4)]
    # Prefill of two, one decode step that ends `short`, prefill of the third in its place, decode of both.
    assert members == [[0, 1], [0, 1], [2], [0, 2]]


@pytest.mark.parametrize(("prompt", "output"), [(0, 5), (5, 0), (30, 11)])
def test_requests_that_cannot_be_served_are_refused(prompt: int, output: int, device: Device) -> None:
    with pytest.raises(InvalidValue, match="request 3"):
        Engine(MODEL, device, max_batch=1, context=40).submit(Sequence(3, [1] * prompt, output))


SPEC = inference_spec("cpu-tiny")


@pytest.fixture(scope="module")
def facts(device: Device) -> InferenceFacts:
    return infer(SPEC, device=device)


def test_iterations_divide_into_their_parts_and_do_not_overlap(facts: InferenceFacts) -> None:
    it = facts.iterations
    position = facts.startup_seconds
    for row in zip(
        it.start_seconds, it.duration_seconds, it.model_seconds, it.communication_seconds, it.host_seconds, strict=True
    ):
        start, duration, model, communication, host = row
        assert start >= position
        assert model > 0
        assert host > 0
        assert model + communication + host == pytest.approx(duration, abs=1e-12)
        position = start + duration
    assert position <= facts.allocated_seconds
    assert inference_ledger(facts, [False] * SPEC.requests, None).balanced


def test_every_token_is_counted_once(facts: InferenceFacts) -> None:
    it, rq = facts.iterations, facts.requests
    prefilled, decoded = [0] * SPEC.requests, [0] * SPEC.requests
    for members, tokens, prefill_flops in zip(it.requests, it.request_tokens, it.prefill_flops, strict=True):
        for request, count in zip(members, tokens, strict=True):
            (prefilled if prefill_flops else decoded)[request] += count
    assert prefilled == rq.input_tokens == [SPEC.input_tokens] * SPEC.requests
    # The prefill yields the first word of the answer.
    assert decoded == [SPEC.output_tokens - 1] * SPEC.requests
    assert rq.output_tokens == [SPEC.output_tokens] * SPEC.requests


def test_work_is_counted_from_the_real_contexts_and_experts(facts: InferenceFacts) -> None:
    it = facts.iterations
    first_decode = next(i for i, flops in enumerate(it.prefill_flops) if not flops)
    for index, arguments in (
        (0, {"prefill": [(16, 0)] * 4}),
        (first_decode, {"decode_contexts": [17] * 4}),
        (first_decode + 1, {"decode_contexts": [18] * 4}),
    ):
        most = inference_work(CPU_TINY, dtype="fp32", **arguments)
        least = inference_work(CPU_TINY, dtype="fp32", activated_experts=2 * 2, **arguments)
        assert it.flops[index] == most.flops
        assert least.bytes <= it.bytes[index] <= most.bytes


def test_a_closed_loop_keeps_max_batch_requests_in_flight(facts: InferenceFacts) -> None:
    rq = facts.requests
    times = list(zip(rq.arrival_seconds, rq.first_token_seconds, rq.end_seconds, strict=True))
    for arrival, first, end in times:
        assert first is not None
        assert end is not None
        assert arrival < first < end
    ends = sorted(end for _, _, end in times if end is not None)
    for arrival, freed in zip(sorted(rq.arrival_seconds)[SPEC.max_batch :], itertools.count(), strict=False):
        assert arrival >= ends[freed]


def test_serving_a_trained_model(facts: InferenceFacts, device: Device, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    sha = facts.provenance["data_sha256"]
    checkpoints.save(path, Checkpoint(MODEL, CPU_TINY, tokenizer, "python-stdlib", sha))
    served = infer(SPEC, path, device=device)
    assert served.provenance["checkpoint"] == "trained"
    assert facts.provenance["checkpoint"] == "untrained"
    assert served.provenance["sample"] != facts.provenance["sample"]


def other(**changes: Any) -> InferenceSpec:
    return SPEC.model_copy(update=changes)


def test_a_checkpoint_that_does_not_fit_is_refused(device: Device, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    checkpoints.save(path, Checkpoint(MODEL, CPU_TINY, tokenizer, "python-stdlib", "0" * 64))
    with pytest.raises(InvalidValue, match="cpu-tiny"):
        infer(other(model=CPU_TINY.model_copy(update={"name": "another", "layers": 3})), path, device=device)
    with pytest.raises(InvalidFile, match="has changed"):
        infer(SPEC, path, device=device)
    with pytest.raises(InvalidValue, match="bf16"):
        infer(other(dtype="bf16"), device=device)
