"""A serving run: its facts add up, and they count the work that was done."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from tokenstone.errors import InvalidFile, InvalidValue
from tokenstone.flops import inference_work
from tokenstone.ledger import inference_ledger
from tokenstone.model import CPU_TINY
from tokenstone.run import InferenceSpec
from tokenstone.wire import InferenceFacts
from workloads import checkpoint as checkpoints
from workloads.checkpoint import Checkpoint
from workloads.device import Device
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
    counted = [0] * SPEC.requests
    for members, tokens in zip(it.requests, it.request_tokens, strict=True):
        for request, count in zip(members, tokens, strict=True):
            counted[request] += count
    assert rq.input_tokens == [SPEC.input_tokens] * SPEC.requests
    assert rq.output_tokens == [SPEC.output_tokens] * SPEC.requests
    # Reading the prompt yields the first token of the answer; what was known of the prompt is not read.
    wanted = [SPEC.input_tokens - known + SPEC.output_tokens - 1 for known in rq.cached_input_tokens]
    assert counted == wanted


def test_work_is_counted_from_the_real_contexts_and_experts(facts: InferenceFacts) -> None:
    it = facts.iterations
    first_decode = next(i for i, flops in enumerate(it.prefill_flops) if not flops)
    for index, arguments in (
        (0, {"prefill": [(16, 0)] * 4}),
        (first_decode, {"decode_contexts": [17] * 4}),
        (first_decode + 1, {"decode_contexts": [18] * 4}),
    ):
        most = inference_work(CPU_TINY, dtype="fp32", **arguments)
        wanted = inference_work(CPU_TINY, dtype="fp32", activated_experts=it.activated_experts[index], **arguments)
        assert (it.flops[index], it.bytes[index]) == (wanted.flops, wanted.bytes)
        assert it.activated_experts[index] >= 2 * 2
        assert it.bytes[index] <= most.bytes
    assert facts.expert_load is not None
    assert len(facts.expert_load) == 2
    assert all(len(load) == 16 for load in facts.expert_load)


def test_host_time_is_told_apart(facts: InferenceFacts) -> None:
    it = facts.iterations
    for scheduler, sampler, host in zip(it.scheduler_seconds, it.sampler_seconds, it.host_seconds, strict=True):
        assert 0 < scheduler + sampler <= host
    assert all(0 < used <= 1 for used in it.cache_used_ratio)
    assert sum(it.preemptions) == 0


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
