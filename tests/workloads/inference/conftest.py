from __future__ import annotations

import pytest
import torch

from tokenstone.model import CPU_TINY
from workloads.device import Device
from workloads.inference.engine import Engine
from workloads.inference.iteration import Iteration
from workloads.inference.request import EngineLimits, Output, Request
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction


def sharp_model(seed: int = 5) -> MoeModel:
    """Weights large enough that the likeliest word is likeliest by more than rounding."""
    model = MoeModel(CPU_TINY, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    return model


class Served:
    """What became of some requests."""

    def __init__(self) -> None:
        self.tokens: dict[int, list[int]] = {}
        self.last: dict[int, Output] = {}
        self.iterations: list[Iteration] = []

    def add(self, iteration: Iteration) -> None:
        self.iterations.append(iteration)
        for output in iteration.outputs:
            self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
            self.last[output.request_id] = output


class Bench:
    """Serves requests with engines over one model, which are built anew each time."""

    def __init__(self, device: Device) -> None:
        self.model = sharp_model()
        self.prediction = MultiTokenPrediction(CPU_TINY, depths=1, seed=3)
        self.device = device

    def engine(self, **limits: object) -> Engine:
        asked = {"max_batch": 4, "context": 64, "token_budget": 64, "page_tokens": 8} | limits
        return Engine(
            self.model, self.device, limits=EngineLimits(**asked), prediction=self.prediction,  # type: ignore[arg-type]
        )  # fmt: skip

    def serve(self, requests: list[Request], arrivals: list[int] | None = None, **limits: object) -> Served:
        return self.run(self.engine(**limits), requests, arrivals)

    def run(self, engine: Engine, requests: list[Request], arrivals: list[int] | None = None) -> Served:
        """`arrivals[i]`: the iteration before which request i is submitted."""
        served, step = Served(), 0
        waiting = sorted(zip(arrivals or [0] * len(requests), requests, strict=True), key=lambda pair: pair[0])
        while waiting or engine.busy:
            while waiting and (waiting[0][0] <= step or not engine.busy):
                engine.submit(waiting.pop(0)[1])
            served.add(engine.iterate())
            step += 1
        assert engine.statistics().pages_used == 0  # nothing is leaked
        return served

    def alone(self, requests: list[Request]) -> dict[int, list[int]]:
        """The answers of the training model itself to greedy requests: the whole sequence through it, each time."""
        answers = {}
        for request in requests:
            ids = list(request.prompt)
            for _ in range(request.max_tokens):
                with torch.inference_mode():
                    ids.append(int(self.model(torch.tensor([ids]))[0, -1].argmax()))
            answers[request.id] = ids[len(request.prompt) :]
        return answers


@pytest.fixture(scope="session")
def bench(device: Device) -> Bench:
    return Bench(device)


def prompt(length: int, seed: int = 0) -> list[int]:
    ids: list[int] = torch.randint(512, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ids
