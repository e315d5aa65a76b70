"""Training on one of several ranks: its stages, its experts, its part of the batch. Called inside `joined`."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenstone.errors import InvalidValue
from tokenstone.run import TrainingSpec
from workloads.device import Device, torch_dtype
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction
from workloads.recorder import TorchRecorder
from workloads.training.coded_exchange import make_exchange
from workloads.training.gather import gathered
from workloads.training.options import apply_options
from workloads.training.parallel.communication import CommunicationLog, record
from workloads.training.parallel.data_parallel import all_reduce, routers, take_load
from workloads.training.parallel.fsdp import whole
from workloads.training.parallel.imbalance import divide_waits
from workloads.training.parallel.layout import Groups, Layout, make_groups
from workloads.training.parallel.pipeline import Pipeline, PipelinePlan
from workloads.training.parallel.processes import DEADLINE_SECONDS
from workloads.training.parallel.redundant_experts import place_by_load
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

_SHARDED = ("routed.gate_up_EDF", "routed.down_EFD")
"""Ends of the names of parameters of which each expert rank holds a part."""


class RankTrainer:
    """This rank's part of the model, optimizer and balancing. Every rank calls every method, in the same order."""

    def __init__(
        self, spec: TrainingSpec, device: Device, recorder: TorchRecorder, *, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        layout = Layout(spec.layout.pipeline, spec.layout.replicas, spec.layout.experts)
        layout.check(spec.model, dist.get_world_size())
        if spec.batch_sequences % layout.data:
            raise InvalidValue(
                f"{spec.batch_sequences} sequences do not divide among {layout.data} data-parallel ranks",
                where="batch_sequences", hint=f"use a multiple of {layout.data}",
            )  # fmt: skip
        self.spec, self._device = spec, device
        self._groups: Groups = make_groups(layout, deadline_seconds=deadline_seconds)
        self._sequences = spec.batch_sequences // layout.data
        self._log = CommunicationLog.of(recorder)
        self._gradient_norm = torch.tensor(0.0)
        self._load: Tensor = torch.zeros((), dtype=torch.int64, device=device.torch)
        model = MoeModel(spec.model, seed=spec.seed)
        self.parameter_count = model.parameter_count()
        prediction = (
            MultiTokenPrediction(spec.model, depths=spec.prediction_depths, seed=spec.seed)
            if spec.prediction_depths
            else None
        )
        self.provenance = apply_options(model, spec, device.torch, prediction) | {"layout": _describe(spec)}
        compute_in(torch_dtype(spec.dtype), device.torch, model, prediction)
        plan = PipelinePlan(
            schedule=spec.layout.schedule,
            micro_batches=spec.layout.micro_batches,
            batch_sequences=self._sequences,
            sequence_length=spec.sequence_length,
            overlap=spec.layout.overlap,
            fsdp=spec.layout.data_parallel == "fsdp",
            redundant_experts=spec.redundant_experts,
        )
        exchange = make_exchange(spec, self._groups, self._log) if layout.experts > 1 else None
        self.pipeline = Pipeline(
            model, self._groups, device.torch, plan, self._log, exchange=exchange, prediction=prediction
        )
        self.optimizer = make_optimizer(self.pipeline.stages.parameters(), spec)

    def step(self, step: int, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Update this rank's weights once, by its part of the batch.

        Returns the mean loss of all ranks' data, and the load of each expert in this rank's layers.
        """
        set_learning_rate(self.optimizer, self.spec, step)
        self.optimizer.zero_grad()
        mine = slice(self._groups.data_rank * self._sequences, (self._groups.data_rank + 1) * self._sequences)
        loss = self.pipeline.step(inputs_BT[mine].contiguous(), targets_BT[mine].contiguous())
        with self._log.computing("update"):
            self._gradient_norm = self.pipeline.clip_gradients(LARGEST_GRADIENT_NORM)
            load = take_load(self.pipeline.stages, self._groups, self._log)
            update_biases(routers(self.pipeline.stages), load, self.spec.bias_update_rate)
            self.optimizer.step()
            self._place_experts(step, load)
            mean = self._mean_loss(loss)
        return mean, load

    def _place_experts(self, step: int, load: Tensor) -> None:
        """Every so many steps, place redundant experts for the load since the last time; after the first step, too."""
        if not self.spec.redundant_experts:
            return
        self._load = self._load + load
        if step % self.spec.redundant_experts_interval == 0:
            place_by_load(self.pipeline.stages, self._load)
            self._load = torch.zeros_like(load)

    def recorded_step(self, recorder: TorchRecorder, step: int, inputs_BT: Tensor, targets_BT: Tensor) -> StepRecord:
        """A step whose work and waits are recorded."""
        recorder.align()
        began = recorder.elapsed_seconds()
        loss, load = self.step(step, inputs_BT, targets_BT)
        spans = divide_waits(self._log.take(), self._groups.experts_forward, self._device.torch)
        record(spans, recorder)
        tokens = self._sequences * self.spec.sequence_length // self.spec.layout.micro_batches
        repeated = repeated_flops(self.saved_module, self.spec, tokens)
        return StepRecord(loss, load, self._gradient_norm, spans, began, repeated)

    def _mean_loss(self, loss: Tensor | None) -> Tensor:
        sum_and_count = torch.zeros(2, device=self._device.torch)
        if loss is not None:
            sum_and_count += torch.stack([loss, torch.ones_like(loss)])
        everyone = dist.group.WORLD
        assert everyone is not None  # inside `joined`
        all_reduce(sum_and_count, everyone, self._log, "loss")
        return sum_and_count[0] / sum_and_count[1]

    @property
    def saved_module(self) -> nn.Module:
        """All weights of this rank."""
        return self.pipeline.stages

    def shard_of(self, name: str) -> str:
        """Which part of the model the parameter `name` of this rank is; ranks that say the same hold the same."""
        stage = f"stage{self._groups.pipeline_rank}"
        return f"{stage}.experts{self._groups.expert_rank}" if name.endswith(_SHARDED) else stage

    @property
    def expert_layers(self) -> list[int]:
        """The layer of each row of a step's load; none where another rank speaks for the same layers."""
        return expert_layers(self.saved_module) if self._groups.data_rank == 0 else []

    def whole_model(self) -> MoeModel | None:
        """On rank 0: the trained model, put together from all ranks' parts."""
        stages = [
            {name: whole(tensor) for name, tensor in stage.state_dict().items()} for stage in self.pipeline.stages
        ]
        weights: dict[str, Tensor] = {}
        if self._groups.data_rank < self._groups.layout.experts:  # the first replica has all there is
            for stage in stages:
                weights |= {
                    name: tensor.cpu()
                    for name, tensor in stage.items()
                    if not name.startswith("prediction.")  # helps training; the trained model does without it
                }
        received = gathered((self._groups.expert_rank, weights))
        if received is None:
            return None
        parts: dict[str, dict[int, Tensor]] = {}
        for expert_rank, tensors in received:
            for name, tensor in tensors.items():
                parts.setdefault(name, {})[expert_rank] = tensor
        model = MoeModel(self.spec.model)
        model.load_state_dict(
            {
                name: torch.cat([shards[rank] for rank in sorted(shards)]) if name.endswith(_SHARDED) else shards[0]
                for name, shards in parts.items()
            }
        )
        return model

    def close(self) -> None:
        """End the pipeline's threads."""
        self.pipeline.close()


def _describe(spec: TrainingSpec) -> str:
    layout = spec.layout
    overlap = ", overlapped" if layout.overlap and layout.schedule == "DualPipeV" else ""
    return (
        f"pipeline {layout.pipeline} x replicas {layout.replicas} x experts {layout.experts}, {layout.schedule}"
        f"{overlap}, {layout.micro_batches} micro-batches, {layout.data_parallel}, {spec.redundant_experts} redundant "
        f"experts, dispatch {spec.dispatch_precision}, combine "
        f"{spec.combine_precision}, simulated latency {spec.simulated_latency_seconds:g} s, "
        f"link {_link(spec)}"
    )


def _link(spec: TrainingSpec) -> str:
    if spec.link_bits_per_second is None:
        return "as it is"
    how = "simulated in exchanges of tokens" if spec.link_simulated else "limited from outside"
    return f"{spec.link_bits_per_second / 1e6:g} Mbit/s, {how}"
