"""PyTorch Lightning: `Trainer(callbacks=[TokenstoneCallback("my-training", tokens=lambda batch: batch.numel())])`.

The wait for a batch is an input stall, a checkpoint lasts until the next hook, validation is computation that trains no
token. A step's own communication is not seen: it counts as computation (a profiler trace tells it apart).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tokenstone.integrations.loop import Loop
from tokenstone.integrations.torch_device import names_of
from tokenstone.record import Job
from tokenstone.record.job import drawn_id

log = logging.getLogger("tokenstone.record")


class TokenstoneCallback(Callback):
    """Records `Trainer.fit` as a run. `tokens` counts those of one batch on this rank; the rest is as in `Job`.

    Without `tokens`, a batch with `input_ids` is counted by them.
    """

    def __init__(self, name: str, *, tokens: Callable[[Any], int] | None = None, **job: Any) -> None:
        self._name, self._given = name, job
        self._tokens, self._told = tokens or _input_ids, False
        self._loop = Loop(partial(Job, name))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Begin: what comes before the first batch is start-up."""
        if stage != "fit":
            return
        rank, ranks = trainer.global_rank, trainer.world_size
        known = names_of(trainer.strategy.root_device, rank, ranks) | {"rank": rank, "world_size": ranks}
        if ranks > 1 and "run_id" not in self._given:
            known["run_id"] = trainer.strategy.broadcast(drawn_id(self._name))
        self._loop.start(**(known | self._given))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """The first batch is fetched."""
        self._loop.waits()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """A step begins."""
        self._loop.step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int  # noqa: ARG002
    ) -> None:  # fmt: skip
        """A step is done."""
        self._loop.waits(tokens=self._count(batch), steps=1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Validation begins; the sanity check before the first batch is start-up."""
        if not trainer.sanity_checking:
            self._loop.evaluates()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """And ends."""
        if not trainer.sanity_checking:
            self._loop.waits()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """A checkpoint begins to be written; Lightning does not say when it is done."""
        self._loop.saves()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """The run is over."""
        self._loop.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """The run is over too."""
        self._loop.close(error=exception)

    def _count(self, batch: Any) -> int:
        try:
            return int(self._tokens(batch))
        except (TypeError, KeyError, AttributeError, IndexError) as error:
            if not self._told:
                self._told = True
                log.warning("tokens of a batch cannot be counted (%s): give TokenstoneCallback(tokens=...)", error)
            return 0


def _input_ids(batch: Any) -> int:
    return int(batch["input_ids"].numel())
