"""The training loop: warm-up steps, then counted steps, each marked for the ledger."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenstone.errors import WorkloadFailed
from tokenstone.run import TrainingSpec
from tokenstone.wire import TrainingFacts
from workloads import checkpoint as checkpoints
from workloads.device import Device, require_fp32
from workloads.moe.model import MoeModel
from workloads.moe.router import max_violation
from workloads.progress import Progress, Silent
from workloads.provenance import provenance
from workloads.recorder import TorchRecorder
from workloads.text import encode, load_corpus, train_tokenizer
from workloads.training.data import Batches

_LARGEST_GRADIENT_NORM = 1.0
_BETAS = (0.9, 0.95)
_WEIGHT_DECAY = 0.1


class Trainer:
    """Model, optimizer and balancing: one call of `step` is one update."""

    def __init__(self, spec: TrainingSpec, device: Device) -> None:
        self.spec = spec
        self.model = MoeModel(spec.model, seed=spec.seed).to(device.torch)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=spec.learning_rate, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=True
        )

    def step(self, step: int, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Update the weights once; return the loss and the load of each expert, (expert layers, E)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * min(1.0, (step + 1) / (self.spec.warm_up_steps + 1))
        logits_BTW = self.model(inputs_BT)
        loss = F.cross_entropy(logits_BTW.flatten(0, 1), targets_BT.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _LARGEST_GRADIENT_NORM)
        load = self.model.take_load()
        for router, load_E in zip(self.model.routers(), load, strict=True):
            router.update_bias(load_E, self.spec.bias_update_rate)
        self.optimizer.step()
        return loss.detach(), load


def train(
    spec: TrainingSpec,
    *,
    device: Device,
    started: float | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> TrainingFacts:
    """Train as `spec` says and return the facts; write the trained model to `checkpoint` if given.

    `started`: the monotonic clock when the device was taken (default: now); start-up counts from there.
    `loss_first` is the untrained model's, `loss_last` that of the last step's batch, before its update.

    Raises InvalidValue for a model or dtype that the workload does not have, InvalidFile for unusable data,
    WorkloadFailed when the loss is no longer a number, NotWritable for the checkpoint.
    """
    require_fp32(spec.dtype)
    progress = progress or Silent()
    recorder = TorchRecorder(device, started=started)
    started_unix_seconds = time.time() - recorder.elapsed_seconds()

    progress.phase("startup")
    with recorder.phase("startup", began_seconds=0.0):
        trainer = Trainer(spec, device)
        corpus = load_corpus(spec.data)
        tokenizer = train_tokenizer(corpus, spec.model.vocabulary)
        batches = Batches(encode(corpus, tokenizer), spec.batch_sequences, spec.sequence_length, spec.seed)

    losses: list[float] = []
    counted_load = torch.zeros_like(trainer.model.take_load())
    counted_from = 0.0
    for step in range(spec.warm_up_steps + spec.steps):
        warming_up = step < spec.warm_up_steps
        if step in {0, spec.warm_up_steps}:
            progress.phase("warm_up" if warming_up else "step")
            counted_from = recorder.elapsed_seconds()
        with recorder.phase("warm_up" if warming_up else "step", steps=1):
            with recorder.activity("input_stall"):
                inputs_BT, targets_BT = batches.at(step, device)
            with recorder.activity("compute"):
                loss, load = trainer.step(step, inputs_BT, targets_BT)
            losses.append(_finite(float(loss), step, spec))
            if not warming_up:
                counted_load += load
                done = step + 1 - spec.warm_up_steps
                speed = done * spec.tokens_per_step / (recorder.elapsed_seconds() - counted_from)
                progress.progress(done, spec.steps, tokens_per_second=speed, loss=losses[-1])

    if checkpoint is not None:
        progress.phase("checkpoint")
        with recorder.phase("checkpoint"):
            trained = checkpoints.Checkpoint(trainer.model, spec.model, tokenizer, corpus.name, corpus.sha256)
            checkpoints.save(checkpoint, trained)
    return TrainingFacts(
        started_unix_seconds=started_unix_seconds,
        devices=[recorder.finish()],
        allocated_seconds=recorder.elapsed_seconds(),
        tokens=spec.steps * spec.tokens_per_step,
        loss_first=losses[0],
        loss_last=losses[-1],
        max_violation=max(max_violation(load_E) for load_E in counted_load),
        provenance=provenance(device, trainer.model, corpus, spec.dtype),
    )


def _finite(loss: float, step: int, spec: TrainingSpec) -> float:
    if math.isfinite(loss):
        return loss
    raise WorkloadFailed(
        f"the loss became {loss} at step {step + 1} of {spec.warm_up_steps + spec.steps}", where="train",
        hint=f"lower the learning rate, which is {spec.learning_rate:g}",
    )  # fmt: skip
