"""The requests of a spec, all of them, before the first is sent: a plan is a pure function of spec and trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenstone.run import InferenceSpec
from workloads.load.arrivals import arrival_seconds, draw_lengths
from workloads.load.trace import Trace


@dataclass(frozen=True, slots=True)
class Planned:
    """One request: what it is made of and how long its answer is to be."""

    index: int
    input_tokens: int
    """New tokens of this request; those of earlier turns come on top."""
    output_tokens: int
    prompt: int
    """Requests with the same number have the same prompt."""
    prefix: int
    """Requests with the same number share the spec's prefix."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Requests one after the other, each when the one before has its answer; usually there is one."""

    due_seconds: float | None
    """When the first is due, from the beginning of the load; None where a client of a closed loop takes it up."""
    turns: tuple[Planned, ...]

    @property
    def longest_context(self) -> int:
        """Tokens at the end of its last turn."""
        return sum(turn.input_tokens + turn.output_tokens for turn in self.turns)


def make_plan(spec: InferenceSpec, trace: Trace | None = None) -> list[Conversation]:
    """Plan the requests of `spec`; those of `trace` where its traffic is one."""
    traffic = spec.arrivals
    instants: Sequence[float | None]
    if trace is not None:
        taken = trace.requests[: spec.requests]
        lengths = [(read, written) for _, read, written in taken]
        instants = [instant for instant, _, _ in taken]
    else:
        lengths = draw_lengths(spec.lengths, spec.requests, seed=spec.seed)
        conversations = -(-spec.requests // traffic.turns)
        closed = traffic.arrival == "closed"
        instants = [None] * conversations if closed else [*arrival_seconds(traffic, conversations, seed=spec.seed)]
    plan = []
    for number, due in enumerate(instants):
        indices = range(number * traffic.turns, min((number + 1) * traffic.turns, len(lengths)))
        turns = tuple(
            Planned(index, *_lengths(lengths, index, traffic.group_size), index // traffic.group_size,
                    number % traffic.prefix_groups)
            for index in indices
        )  # fmt: skip
        plan.append(Conversation(due, turns))
    return plan


def _lengths(lengths: Sequence[tuple[int, int]], index: int, group: int) -> tuple[int, int]:
    """Of a group, all have the prompt of the first; each has an answer of its own length."""
    return lengths[index // group * group][0], lengths[index][1]
