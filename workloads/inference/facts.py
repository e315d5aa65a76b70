"""From what an engine did to the wire's columns."""

from __future__ import annotations

from collections.abc import Sequence as Many

from tokenstone.flops import inference_work
from tokenstone.run import InferenceSpec
from tokenstone.wire import Iterations, RequestTimes
from workloads.inference.engine import Iteration, Sequence


def iteration_columns(spec: InferenceSpec, iterations: Many[Iteration]) -> Iterations:
    """The iterations, each with the FLOPs and bytes that it needed at the least."""
    columns = Iterations()
    for it in iterations:
        prefill = it.prefilled_tokens
        work = inference_work(
            spec.model,
            dtype=spec.dtype,
            prefill=[(prefill, context - prefill) for context in it.contexts] if prefill else (),
            decode_contexts=() if prefill else it.contexts,
            activated_experts=it.activated_experts,
        )
        columns.start_seconds.append(it.start_seconds)
        columns.duration_seconds.append(it.duration_seconds)
        columns.model_seconds.append(it.model_seconds)
        columns.communication_seconds.append(0.0)
        columns.host_seconds.append(it.duration_seconds - it.model_seconds)
        columns.flops.append(work.flops)
        columns.bytes.append(work.bytes)
        columns.prefill_flops.append(work.flops if prefill else 0.0)
        columns.recomputed_tokens.append(0)
        columns.requests.append([sequence.request for sequence in it.sequences])
        columns.request_tokens.append([prefill or 1] * len(it.sequences))
    return columns


def request_columns(
    sequences: Many[Sequence], arrivals: Many[float], first_tokens: Many[float], ends: Many[float]
) -> RequestTimes:
    """The requests, in order of their indices; times in seconds from the start of the allocation."""
    return RequestTimes(
        arrival_seconds=list(arrivals),
        first_token_seconds=list(first_tokens),
        end_seconds=list(ends),
        input_tokens=[len(sequence.prompt) for sequence in sequences],
        cached_input_tokens=[0] * len(sequences),
        output_tokens=[len(sequence.generated) for sequence in sequences],
    )
