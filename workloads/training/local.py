"""Training on one rank: the plain loop body that all layouts are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenstone.run import TrainingSpec
from workloads.device import Device
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction
from workloads.moe.router import Router
from workloads.recorder import TorchRecorder
from workloads.training.objective import Objective
from workloads.training.options import apply_options
from workloads.training.parallel.data_parallel import scale_down
from workloads.training.update import LARGEST_GRADIENT_NORM, Gathered, make_optimizer, set_learning_rate, update_biases


class LocalTrainer:
    """Model, optimizer and balancing: one call of `step` is one update."""

    def __init__(self, spec: TrainingSpec, device: Device) -> None:
        self.spec = spec
        self.model = MoeModel(spec.model, seed=spec.seed).to(device.torch)
        self.parameter_count = self.model.parameter_count()
        self.prediction = (
            MultiTokenPrediction(spec.model, depths=spec.prediction_depths, seed=spec.seed).to(device.torch)
            if spec.prediction_depths
            else None
        )
        self.provenance = apply_options(self.model, spec, device.torch, self.prediction)
        self._objective = Objective(self.model.head, self.prediction, self.model.embedding)
        parts = torch.nn.ModuleList([self.model, *([self.prediction] if self.prediction is not None else [])])
        self._parameters = list(parts.parameters())
        self.optimizer = make_optimizer(self._parameters, spec)

    def step(self, step: int, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Update the weights once; return the loss and the load of each expert, (expert layers, E)."""
        set_learning_rate(self.optimizer, self.spec, step)
        self.optimizer.zero_grad()
        self._objective(self.model.hidden(inputs_BT), targets_BT).backward()
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        scale_down(gradients, torch.nn.utils.get_total_norm(gradients), LARGEST_GRADIENT_NORM)
        load = torch.stack([router.take_load() for router in self._routers()])
        update_biases(self._routers(), load, self.spec.bias_update_rate)
        self.optimizer.step()
        return self._objective.take_loss(), load

    def recorded_step(
        self, recorder: TorchRecorder, step: int, inputs_BT: Tensor, targets_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A step whose time is recorded: all of it computes."""
        with recorder.activity("compute"):
            return self.step(step, inputs_BT, targets_BT)

    def _routers(self) -> list[Router]:
        return self.model.routers() + (self.prediction.routers() if self.prediction is not None else [])

    def start_counting(self) -> None:
        """The warm-up is over. There is no communication to count."""

    def gather(self, recorder: TorchRecorder, max_violation: float) -> Gathered:
        """What all ranks did: this one."""
        return Gathered([recorder.finish()], recorder.elapsed_seconds(), max_violation, [])

    def whole_model(self) -> MoeModel:
        """The trained model."""
        return self.model

    def close(self) -> None:
        """Nothing to end."""
