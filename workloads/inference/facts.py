"""From what an engine did to the wire's columns."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many

from tokenstone.flops import Work, inference_work
from tokenstone.model import ModelShape
from tokenstone.wire import Iterations
from workloads.inference.iteration import Iteration


def iteration_columns(
    model: ModelShape,
    dtype: str,
    iterations: Many[Iteration],
    *,
    pages: int,
    index_of: Mapping[int, int] | None = None,
    detokenizer_seconds: Many[float] | None = None,
) -> Iterations:
    """The iterations, each with the FLOPs and bytes that it needed at the least.

    `pages`: of the engine's cache. `index_of`: from a request's id to its index among the run's requests; None: they
    are the same. `detokenizer_seconds`: of each iteration, where someone turned its tokens into text after it; they
    lengthen the iteration and are host time.
    """
    columns = Iterations()
    for number, it in enumerate(iterations):
        text = 0.0 if detokenizer_seconds is None else detokenizer_seconds[number]
        whole, prefill_flops = iteration_work(model, dtype, it)
        columns.start_seconds.append(it.start_seconds)
        columns.duration_seconds.append(it.duration_seconds + text)
        columns.model_seconds.append(it.model_seconds)
        columns.communication_seconds.append(it.communication_seconds)
        columns.host_seconds.append(it.duration_seconds + text - it.model_seconds - it.communication_seconds)
        columns.flops.append(whole.flops)
        columns.bytes.append(whole.bytes)
        columns.prefill_flops.append(prefill_flops)
        columns.recomputed_tokens.append(it.recomputed_tokens)
        columns.requests.append([s.request_id if index_of is None else index_of[s.request_id] for s in it.shares])
        columns.request_tokens.append([s.prefilled_tokens + s.decoded_tokens for s in it.shares])
        columns.scheduler_seconds.append(it.scheduler_seconds)
        columns.sampler_seconds.append(it.sampler_seconds)
        if detokenizer_seconds is not None:
            columns.detokenizer_seconds.append(text)
        columns.activated_experts.append(it.activated_experts)
        columns.drafted_tokens.append(it.drafted_tokens)
        columns.accepted_tokens.append(it.accepted_tokens)
        columns.cache_used_ratio.append(it.pages_used / pages)
        columns.preemptions.append(it.preemptions)
    return columns


def iteration_work(model: ModelShape, dtype: str, it: Iteration) -> tuple[Work, float]:
    """The least that an iteration had to do and move, and the FLOPs of it that were prefill's.

    Not counted, so inefficiency: guesses that proved wrong and the making of guesses. Counted: tokens that are
    computed again after a preemption; the ledger takes their share of the time out (`preemption`).
    """
    prefill = [(s.prefilled_tokens, s.cached_tokens) for s in it.shares if s.prefilled_tokens]
    reached = sum(s.samples for s in it.shares if s.prefilled_tokens)
    decoded = [(s.cached_tokens + s.decoded_tokens, s.decoded_tokens) for s in it.shares if s.decoded_tokens]
    whole = inference_work(
        model,
        dtype=dtype,
        prefill=prefill,
        decode_contexts=[context for context, _ in decoded],
        decode_tokens=[tokens for _, tokens in decoded],
        activated_experts=it.activated_experts,
        sampled=reached + sum(tokens for _, tokens in decoded),
    )
    if not decoded:
        return whole, whole.flops
    return whole, inference_work(model, dtype=dtype, prefill=prefill, sampled=reached).flops if prefill else 0.0
