"""Training on one rank: the plain loop body that all layouts are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenstone.run import TrainingSpec
from workloads.device import Device, torch_dtype
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction
from workloads.moe.router import Router
from workloads.recorder import TorchRecorder
from workloads.training.objective import Objective
from workloads.training.options import apply_options
from workloads.training.parallel.communication import CommunicationLog, record
from workloads.training.parallel.data_parallel import scale_down
from workloads.training.precision.mixed import compute_in
from workloads.training.recompute import repeated_flops
from workloads.training.tally import StepRecord
from workloads.training.update import (
    LARGEST_GRADIENT_NORM,
    expert_layers,
    make_optimizer,
    set_learning_rate,
    update_biases,
)


class LocalTrainer:
    """Model, optimizer and balancing: one call of `step` is one update."""

    def __init__(self, spec: TrainingSpec, device: Device, recorder: TorchRecorder | None = None) -> None:
        self.spec = spec
        self._log = CommunicationLog() if recorder is None else CommunicationLog.of(recorder)
        self.model = MoeModel(spec.model, seed=spec.seed).to(device.torch)
        self.parameter_count = self.model.parameter_count()
        self.prediction = (
            MultiTokenPrediction(spec.model, depths=spec.prediction_depths, seed=spec.seed).to(device.torch)
            if spec.prediction_depths
            else None
        )
        self.provenance = apply_options(self.model, spec, device.torch, self.prediction)
        compute_in(torch_dtype(spec.dtype), device.torch, self.model, self.prediction)
        self._objective = Objective(self.model.head, self.prediction, self.model.embedding)
        self.saved_module = torch.nn.ModuleList([part for part in (self.model, self.prediction) if part is not None])
        self._parameters = list(self.saved_module.parameters())
        self._gradient_norm = torch.tensor(0.0)
        self.optimizer = make_optimizer(self._parameters, spec)

    def step(self, step: int, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Update the weights once; return the loss and the load of each expert, (expert layers, E)."""
        set_learning_rate(self.optimizer, self.spec, step)
        with self._log.computing("forward"):
            loss = self._objective(self.model.hidden(inputs_BT), targets_BT)
        with self._log.computing("backward"):
            self.optimizer.zero_grad()
            loss.backward()
        with self._log.computing("update"):
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            self._gradient_norm = torch.nn.utils.get_total_norm(gradients)
            scale_down(gradients, self._gradient_norm, LARGEST_GRADIENT_NORM)
            load = torch.stack([router.take_load() for router in self._routers()])
            update_biases(self._routers(), load, self.spec.bias_update_rate)
            self.optimizer.step()
        return self._objective.take_loss(), load

    def recorded_step(self, recorder: TorchRecorder, step: int, inputs_BT: Tensor, targets_BT: Tensor) -> StepRecord:
        """A step whose work is recorded."""
        recorder.align()
        began = recorder.elapsed_seconds()
        loss, load = self.step(step, inputs_BT, targets_BT)
        spans = self._log.take()
        record(spans, recorder)
        repeated = repeated_flops(self.saved_module, self.spec, inputs_BT.numel())
        return StepRecord(loss, load, self._gradient_norm, spans, began, repeated)

    def _routers(self) -> list[Router]:
        return self.model.routers() + (self.prediction.routers() if self.prediction is not None else [])

    @property
    def expert_layers(self) -> list[int]:
        """The layer of each row of a step's load."""
        return expert_layers(self.saved_module)

    def shard_of(self, name: str) -> str:  # noqa: ARG002  as RankTrainer's
        """This rank holds the whole of every parameter."""
        return "all"

    def whole_model(self) -> MoeModel:
        """The trained model."""
        return self.model

    def close(self) -> None:
        """Nothing to end."""
