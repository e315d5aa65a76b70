"""Hugging Face: `Trainer(..., callbacks=[TokenstoneCallback("my-training")])`.

The wait for a batch is an input stall, evaluation is computation that trains no token. A step's own communication is
not seen: it counts as computation (a profiler trace tells it apart).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tokenstone.integrations.loop import Loop
from tokenstone.integrations.torch_device import names_of
from tokenstone.record import Job
from tokenstone.record.job import drawn_id

log = logging.getLogger("tokenstone.record")


class TokenstoneCallback(TrainerCallback):
    """Records `Trainer.train` as a run. Its other arguments are those of `Job`.

    Tokens are those that the Trainer counts with `include_num_input_tokens_seen`, of all ranks, or `tokens_per_step`
    of this rank.
    """

    def __init__(self, name: str, *, tokens_per_step: int | None = None, **job: Any) -> None:
        self._name, self._per_step, self._given = name, tokens_per_step, job
        self._seen = 0
        self._loop = Loop(partial(Job, name))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any  # noqa: ARG002
    ) -> None:  # fmt: skip
        """Begin; the first batch is fetched."""
        rank, ranks = args.process_index, args.world_size
        known = names_of(args.device, rank, ranks) | {"rank": rank, "world_size": ranks}
        if ranks > 1 and "run_id" not in self._given:
            from accelerate.utils import broadcast_object_list  # noqa: PLC0415  a part of what Trainer needs

            [known["run_id"]] = broadcast_object_list([drawn_id(self._name)])
        self._seen = state.num_input_tokens_seen
        self._loop.start(**(known | self._given))
        self._loop.waits()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """A step begins, its first batch is there."""
        self._loop.step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A step is done."""
        self._loop.waits(tokens=self._count(args, state), steps=1)
        self._next(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Trainer may evaluate and save now."""
        self._next(control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """It has evaluated."""
        if control.should_save:
            self._loop.saves()
        else:
            self._loop.waits()

    def on_save(self, *_: Any, **__: Any) -> None:
        """It has saved."""
        self._loop.waits()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """The run is over."""
        self._loop.close()

    def _next(self, control: TrainerControl) -> None:
        """What Trainer does after this hook: it evaluates first, then it saves."""
        if control.should_evaluate:
            self._loop.evaluates()
        elif control.should_save:
            self._loop.saves()

    def _count(self, args: TrainingArguments, state: TrainerState) -> int:
        if self._per_step is not None:
            return self._per_step
        seen, self._seen = self._seen, int(state.num_input_tokens_seen)
        if not self._seen and state.global_step == 1:
            log.warning("no tokens are counted: set include_num_input_tokens_seen, or give tokens_per_step")
        return self._seen - seen if args.process_index == 0 else 0
