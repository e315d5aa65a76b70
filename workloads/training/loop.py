"""The training loop: warm-up steps, then counted steps, each marked for the ledger."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from tokenstone.errors import UsageError, WorkloadFailed
from tokenstone.flops import AttentionCount
from tokenstone.run import TrainingSpec
from tokenstone.wire import TrainingFacts
from workloads import checkpoint as checkpoints
from workloads.device import Device, require_fp32
from workloads.moe.router import max_violation
from workloads.progress import Progress, Silent
from workloads.provenance import provenance
from workloads.recorder import TorchRecorder
from workloads.text import encode, load_corpus, train_tokenizer
from workloads.training.data import Batches
from workloads.training.distributed import RankTrainer
from workloads.training.local import LocalTrainer
from workloads.training.recompute import Recompute, recomputed_flops


def train(
    spec: TrainingSpec,
    *,
    device: Device,
    started: float | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> TrainingFacts | None:
    """Train as `spec` says and return the facts; write the trained model to `checkpoint` if given.

    A layout of several ranks has to be called on each of them, inside `processes.joined`; facts and checkpoint are
    then rank 0's business, and the others return None.

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
        trainer = _make_trainer(spec, device, recorder)
        corpus = load_corpus(spec.data)
        tokenizer = train_tokenizer(corpus, spec.model.vocabulary)
        batches = Batches(encode(corpus, tokenizer), spec.batch_sequences, spec.sequence_length, spec.seed)

    losses: list[float] = []
    counted_load: Tensor | float = 0.0
    counted_from = 0.0
    for step in range(spec.warm_up_steps + spec.steps):
        warming_up = step < spec.warm_up_steps
        if step in {0, spec.warm_up_steps}:
            progress.phase("warm_up" if warming_up else "step")
            counted_from = recorder.elapsed_seconds()
            trainer.start_counting()
        with recorder.phase("warm_up" if warming_up else "step", steps=1):
            with recorder.activity("input_stall"):
                inputs_BT, targets_BT = batches.at(step, device)
            loss, load = trainer.recorded_step(recorder, step, inputs_BT, targets_BT)
            losses.append(_finite(float(loss), step, spec))
        if not warming_up:
            counted_load = counted_load + load
            done = step + 1 - spec.warm_up_steps
            speed = done * spec.tokens_per_step / (recorder.elapsed_seconds() - counted_from)
            progress.progress(done, spec.steps, tokens_per_second=speed, loss=losses[-1])

    if checkpoint is not None:
        progress.phase("checkpoint")
        with recorder.phase("checkpoint"):
            model = trainer.whole_model()
            if model is not None:
                prediction = trainer.prediction if isinstance(trainer, LocalTrainer) else None
                trained = checkpoints.Checkpoint(
                    model, spec.model, tokenizer, corpus.name, corpus.sha256, prediction=prediction
                )
                checkpoints.save(checkpoint, trained)
    trainer.close()
    gathered = trainer.gather(recorder, _largest_violation(counted_load))
    if gathered is None:
        return None
    tokens = spec.steps * spec.tokens_per_step
    how = Recompute(spec.recompute)
    return TrainingFacts(
        started_unix_seconds=started_unix_seconds,
        devices=gathered.devices,
        allocated_seconds=gathered.held_seconds,
        tokens=tokens,
        recomputed_flops=recomputed_flops(spec.model, spec.sequence_length, tokens, how, AttentionCount.CAUSAL),
        loss_first=losses[0],
        loss_last=losses[-1],
        max_violation=gathered.max_violation,
        communication=gathered.communication,
        provenance=provenance(device, trainer.parameter_count, corpus, spec.dtype) | trainer.provenance,
    )


def _make_trainer(spec: TrainingSpec, device: Device, recorder: TorchRecorder) -> LocalTrainer | RankTrainer:
    if spec.layout.ranks > 1:
        if not (dist.is_available() and dist.is_initialized()):
            raise UsageError(
                f"the layout has {spec.layout.ranks} ranks, and this process is alone", where="train",
                hint=f"start it with torchrun --nproc-per-node {spec.layout.ranks}, or with `tokenstone train`",
            )  # fmt: skip
        return RankTrainer(spec, device, recorder)
    return LocalTrainer(spec, device)


def _largest_violation(counted_load: Tensor | float) -> float:
    """MaxVio of the worst layer here; 0 where a rank has no layer with experts."""
    if isinstance(counted_load, float) or not counted_load.numel():
        return 0.0
    return max(max_violation(load_E) for load_E in counted_load)


def _finite(loss: float, step: int, spec: TrainingSpec) -> float:
    if math.isfinite(loss):
        return loss
    raise WorkloadFailed(
        f"the loss became {loss} at step {step + 1} of {spec.warm_up_steps + spec.steps}", where="train",
        hint=f"lower the learning rate, which is {spec.learning_rate:g}",
    )  # fmt: skip
