"""Runs a function now, and once more when its backward pass begins: what the backward pass needs is made again then.

torch.utils.checkpoint makes it again in each backward call. Schedules that split the backward pass (ZBVZeroBubble, some
pairs of DualPipeV) make a call for the input and one for each group of weights: eleven repetitions where one would do.
Here what was made again stays as long as the graph that may ask for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Context = AbstractContextManager[Any]


def run_and_repeat(function: Callable[..., Any], *inputs: Any, first: Context, again: Context) -> Any:
    """`function(*inputs)` inside `first`; its saved tensors are made by a second run, inside `again`.

    Each run has to save the same tensors in the same order, so that nothing in it may be random.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    run = _Run(function, inputs, again)
    with first, saved_tensors_hooks(run.pack, _Saved.tensor):
        return function(*inputs)


class _Saved(NamedTuple):
    """Stands in the graph for a tensor that is not there yet."""

    run: _Run
    place: int

    def tensor(self) -> Tensor:
        return self.run.saved()[self.place]


class _Enough(Exception):
    """No error: the repetition has made all that is needed."""


class _Run:
    """One call. The graph refers to it, and it does not refer to the graph: both are freed together."""

    def __init__(self, function: Callable[..., Any], inputs: tuple[Any, ...], again: Context) -> None:
        self._wanted = 0
        self._saved: list[Tensor] | None = None
        self._repetition: tuple[Callable[..., Any], tuple[Any, ...], Context] | None = (
            function, tuple(_leaf(x) if isinstance(x, Tensor) else x for x in inputs), again,
        )  # fmt: skip

    def pack(self, _: Tensor) -> _Saved:
        """In the first run: keep nothing but the number."""
        self._wanted += 1
        return _Saved(self, self._wanted - 1)

    def saved(self) -> list[Tensor]:
        """What the first run has thrown away."""
        if self._saved is None:
            assert self._repetition is not None
            (function, inputs, again), self._repetition = self._repetition, None  # frees what only it needs
            self._saved = _saved_by(function, inputs, again, self._wanted)
        return self._saved


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.requires_grad)


def _saved_by(function: Callable[..., Any], inputs: tuple[Any, ...], again: Context, wanted: int) -> list[Tensor]:
    """The first `wanted` tensors that a run saves; it ends there."""
    saved: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        saved.append(x.detach())
        if len(saved) == wanted:
            raise _Enough
        return x

    try:
        with again, torch.enable_grad(), saved_tensors_hooks(keep, lambda x: x):
            function(*inputs)
    except _Enough:
        return saved
    raise RuntimeError(f"the repeated forward pass saved {len(saved)} tensors, and the first one {wanted}")
