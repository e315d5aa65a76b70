"""The training loop: warm-up steps, then counted steps, each marked for the ledger."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch.distributed as dist

from tokenstone.errors import InvalidValue, UsageError, WorkloadFailed
from tokenstone.run import TrainingSpec
from tokenstone.wire import TrainingFacts
from workloads import checkpoint as checkpoints
from workloads.device import Device, require_training_dtype
from workloads.progress import Progress, Silent
from workloads.provenance import provenance
from workloads.recorder import TorchRecorder
from workloads.text import PreparedText
from workloads.training.continuation import Continuation, Saving
from workloads.training.data import Batches, shared_text
from workloads.training.distributed import RankTrainer
from workloads.training.gather import Gathered, gather, statistics_of
from workloads.training.local import LocalTrainer
from workloads.training.parallel.processes import DEADLINE_SECONDS
from workloads.training.profile import Profiling
from workloads.training.tally import StepFigures, StepRecord, Tally, step_figures

FP8_COUNTED_EVERY = 100
"""Steps between those in which FP8 operands are counted, which costs two passes over each; the first is one."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a training runs, beside what it is: no part of the spec, since the model does not depend on it."""

    checkpoint: Path | None = None
    """Where the trained model is written."""
    saving: Saving | None = None
    cache: Path | None = None
    """Folder for the tokenizer and the encoded text."""
    profiling: Profiling = field(default_factory=Profiling)
    deadline_seconds: float = DEADLINE_SECONDS
    """Of each collective."""


def train(
    spec: TrainingSpec,
    *,
    device: Device,
    started: float | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    options: Options | None = None,
) -> TrainingFacts | None:
    """Train as `spec` says and return the facts; write the trained model to `checkpoint` if given.

    A layout of several ranks has to be called on each of them, inside `processes.joined`; facts and checkpoint are
    then rank 0's business, and the others return None.

    `started`: the monotonic clock when the device was taken (default: now); start-up counts from there.
    `loss_first` is the untrained model's, `loss_last` that of the last step's batch, before its update.

    Raises InvalidValue for a model or dtype that the workload does not have, InvalidFile for unusable data,
    WorkloadFailed when the loss is no longer a number, NotWritable for the checkpoint, Conflict for a folder that
    holds another training.
    """
    require_training_dtype(spec.dtype)
    options = options or Options(checkpoint=checkpoint)
    progress = progress or Silent()
    began = time.monotonic() if started is None else started
    past = Continuation(options.saving, spec, progress, started=began, device=device.torch)
    with past.told():
        return _Training(spec, device, progress, options, past).run()


class _Training:
    """One training on one rank."""

    def __init__(
        self, spec: TrainingSpec, device: Device, progress: Progress, options: Options, past: Continuation
    ) -> None:
        self.spec, self.device, self.progress, self.options, self.past = spec, device, progress, options, past
        self.recorder = TorchRecorder(device, started=past.started)
        self.tally = Tally(spec.warm_up_steps)

    def run(self) -> TrainingFacts | None:
        """Start, train, finish."""
        recorder, past, spec = self.recorder, self.past, self.spec
        self.progress.phase(past.kind)
        with recorder.phase(past.kind, began_seconds=past.began_seconds):
            trainer = self._make_trainer()
            text = shared_text(spec.data, spec.model.vocabulary, self.device, self.options.cache)
            first = past.restore(trainer, self.tally, recorder)
        past.note(recorder)
        try:
            self._steps(trainer, text, first)
            self._finish(trainer, text)
            fp8 = statistics_of(trainer.saved_module)
            gathered = gather(
                self.tally, recorder, self.device, trainer.expert_layers, {} if fp8 is None else fp8.take()
            )
        finally:
            trainer.close()
        return None if gathered is None else self._facts(trainer, text, gathered)

    def _make_trainer(self) -> LocalTrainer | RankTrainer:
        spec = self.spec
        if spec.layout.ranks == 1:
            if dist.is_initialized() and dist.get_world_size() > 1:
                raise InvalidValue(
                    f"the layout is for one rank, and {dist.get_world_size()} were started", where="layout",
                    hint="give the spec a layout of as many ranks",
                )  # fmt: skip
            return LocalTrainer(spec, self.device, self.recorder)
        if not (dist.is_available() and dist.is_initialized()):
            raise UsageError(
                f"the layout has {spec.layout.ranks} ranks, and this process is alone", where="train",
                hint=f"start it with torchrun --nproc-per-node {spec.layout.ranks}, or with `tokenstone train`",
            )  # fmt: skip
        return RankTrainer(spec, self.device, self.recorder, deadline_seconds=self.options.deadline_seconds)

    def _steps(self, trainer: LocalTrainer | RankTrainer, text: PreparedText, first: int) -> None:
        spec, recorder = self.spec, self.recorder
        batches = Batches(text.tokens_N, spec.batch_sequences, spec.sequence_length, spec.seed)
        fp8 = statistics_of(trainer.saved_module)
        total = spec.warm_up_steps + spec.steps
        began = recorder.elapsed_seconds()
        with self.options.profiling.session() as profile:
            for step in range(first, total):
                warming_up = step < spec.warm_up_steps
                if step in {first, spec.warm_up_steps}:
                    self.progress.phase("warm_up" if warming_up else "step")
                    began = recorder.elapsed_seconds()
                if fp8 is not None:
                    fp8.enabled = not warming_up and (step - spec.warm_up_steps) % FP8_COUNTED_EVERY == 0
                profile(step - spec.warm_up_steps)
                with recorder.phase("warm_up" if warming_up else "step", steps=1):
                    with recorder.activity("input_stall"):
                        inputs_BT, targets_BT = batches.at(step, self.device)
                    record = trainer.recorded_step(recorder, step, inputs_BT, targets_BT)
                    loss = self._finite(record, step)
                figures = self._count(step, record)
                self.past.note(recorder, step, figures)
                if not warming_up:
                    done = step + 1 - max(first, spec.warm_up_steps)
                    speed = done * spec.tokens_per_step / (recorder.elapsed_seconds() - began)
                    self.progress.progress(
                        step + 1 - spec.warm_up_steps, spec.steps, tokens_per_second=speed, loss=loss
                    )
                if self.past.due(step + 1):
                    with recorder.phase("checkpoint"):
                        self.past.save(step + 1, self.tally.load_LE)
                    self.past.note(recorder)

    def _count(self, step: int, record: StepRecord) -> StepFigures:
        phase = self.recorder.latest
        stalled = phase.activity_seconds.get("input_stall", 0.0)
        figures = step_figures(record, duration_seconds=phase.duration_seconds, data_seconds=stalled)
        self.tally.add(step, figures, record.load_LE)
        return figures

    def _finish(self, trainer: LocalTrainer | RankTrainer, text: PreparedText) -> None:
        """Write what is to stay."""
        if self.options.saving is not None:
            with self.recorder.phase("checkpoint"):
                self.past.wait()
        if self.options.checkpoint is not None:
            self.progress.phase("checkpoint")
            with self.recorder.phase("checkpoint"):
                model = trainer.whole_model()
                if model is not None:
                    corpus = text.corpus
                    prediction = trainer.prediction if isinstance(trainer, LocalTrainer) else None
                    trained = checkpoints.Checkpoint(
                        model, self.spec.model, text.tokenizer, corpus.name, corpus.sha256, prediction=prediction
                    )
                    checkpoints.save(self.options.checkpoint, trained)

    def _facts(self, trainer: LocalTrainer | RankTrainer, text: PreparedText, gathered: Gathered) -> TrainingFacts:
        spec, figures = self.spec, self.tally.figures
        counted = self.tally.counted()
        return TrainingFacts(
            started_unix_seconds=time.time() - self.recorder.elapsed_seconds(),
            devices=gathered.devices,
            allocated_seconds=gathered.held_seconds,
            tokens=len(counted) * spec.tokens_per_step,
            recomputed_flops=gathered.recomputed_flops,
            loss_first=figures[min(figures)].loss,
            loss_last=figures[max(figures)].loss,
            max_violation=gathered.max_violation,
            communication=gathered.communication,
            steps=gathered.steps,
            ranks=gathered.ranks,
            expert_load=gathered.expert_load,
            schedule_seconds=gathered.schedule_seconds if spec.layout.pipeline > 1 else None,
            fp8=gathered.fp8,
            restarts=self.past.restarts,
            lost_steps=self.past.lost_steps,
            failed_checkpoints=self.past.failed_checkpoints,
            provenance=provenance(self.device, trainer.parameter_count, text.corpus, spec.dtype)
            | trainer.provenance
            | self.options.profiling.provenance(),
        )

    def _finite(self, record: StepRecord, step: int) -> float:
        """The loss. Read inside the phase of the step, since it waits for the device."""
        loss, norm = float(record.loss), float(record.gradient_norm)
        if math.isfinite(loss) and math.isfinite(norm):
            return loss
        what = f"the loss became {loss}" if not math.isfinite(loss) else f"the norm of the gradients became {norm}"
        raise WorkloadFailed(
            f"{what} at step {step + 1} of {self.spec.warm_up_steps + self.spec.steps}", where="train",
            hint=f"lower the learning rate, which is {self.spec.learning_rate:g}",
        )  # fmt: skip
