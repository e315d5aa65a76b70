"""Prefill in one process, decode in another: prompts do not delay answers, and each side has its own batch.

The prefill engine reads a prompt and draws the first token; then what the cache holds of it travels to the decode
engine, which goes on from there. One message per iteration, over torch.distributed: the requests, then the latents
of all layers of each.

    prefill rank                                     decode rank
        link = Sender(group, target=1)                  inbox = Inbox(group, source=0, device)
        while engine.busy:                              while not inbox.closed or engine.busy:
            prefill_step(engine, link)                      inbox.deliver(engine)
        link.close()                                        if engine.busy: engine.iterate()
"""

from __future__ import annotations

import queue
import threading
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist

from tokenstone.errors import WorkloadFailed
from workloads.inference.engine import Engine
from workloads.inference.handover import Handover
from workloads.inference.iteration import Iteration
from workloads.inference.request import Request, Sampling
from workloads.training.parallel.communication import collective


class Sender:
    """Sends handovers to rank `target` of a group that nothing else uses."""

    def __init__(self, group: dist.ProcessGroup, *, target: int) -> None:
        self._group, self._target = group, target
        self.sent_bytes = 0
        """Of latents, so far."""

    def send(self, handovers: list[Handover]) -> None:
        """Hand requests over. The latents go as bytes, in their own format."""
        self._message([_head(handover) for handover in handovers])
        for handover in handovers:
            latents = handover.latents_YSM.contiguous()
            with collective("handover"):
                dist.send(latents, group=self._group, group_dst=self._target)
            self.sent_bytes += latents.numel() * latents.element_size()

    def close(self) -> None:
        """Say that nothing more will come."""
        self._message(None)

    def _message(self, heads: list[dict[str, Any]] | None) -> None:
        with collective("handover"):
            dist.send_object_list([heads], group=self._group, group_dst=self._target)


class Inbox:
    """Receives handovers in a thread of its own, so that decoding goes on while they travel."""

    def __init__(self, group: dist.ProcessGroup, *, source: int, device: torch.device) -> None:
        self._group, self._source, self._device = group, source, device
        self._arrived: queue.SimpleQueue[Handover | BaseException | None] = queue.SimpleQueue()
        self.closed = False
        """Whether the sender has said that nothing more will come, and all that came is delivered."""
        threading.Thread(target=self._receive, name="handover", daemon=True).start()

    def deliver(self, engine: Engine) -> int:
        """Give the engine what has arrived and return how many; waits for something if the engine has nothing to do.

        Raises WorkloadFailed where the other side is gone.
        """
        delivered = 0
        while not self.closed:
            try:
                arrived = self._arrived.get(block=not engine.busy)
            except queue.Empty:
                break
            if arrived is None:
                self.closed = True
            elif isinstance(arrived, BaseException):
                raise WorkloadFailed(
                    f"the prefill side is gone: {arrived}", where="handover", hint="see the other process's output"
                ) from arrived
            else:
                engine.adopt(arrived)
                delivered += 1
        return delivered

    def _receive(self) -> None:
        try:
            while True:
                message: list[Any] = [None]
                dist.recv_object_list(message, group=self._group, group_src=self._source)
                if message[0] is None:
                    return self._arrived.put(None)
                for head in message[0]:
                    latents = torch.empty(head.pop("shape"), dtype=head.pop("dtype"), device=self._device)
                    dist.recv(latents, group=self._group, group_src=self._source)
                    self._arrived.put(_handover(head, latents))
        except BaseException as error:  # raised where the engine's thread asks next
            return self._arrived.put(error)


def prefill_step(engine: Engine, link: Sender) -> Iteration:
    """One iteration of the prefill engine; requests whose first token is drawn are handed over.

    Its outputs hold that token; a request that ends with it goes nowhere.
    """
    iteration = engine.iterate()
    link.send([engine.hand_over(output.request_id) for output in iteration.outputs if output.finish_reason is None])
    return iteration


def _head(handover: Handover) -> dict[str, Any]:
    """All but the latents, and what is needed to receive them."""
    return {
        "request": asdict(handover.request),
        "seed": handover.seed,
        "tokens": handover.tokens,
        "drafts": handover.drafts,
        "cached_prompt_tokens": handover.cached_prompt_tokens,
        "shape": tuple(handover.latents_YSM.shape),
        "dtype": handover.latents_YSM.dtype,
    }


def _handover(head: dict[str, Any], latents: torch.Tensor) -> Handover:
    request = head.pop("request")
    request["sampling"] = Sampling(**request["sampling"])
    return Handover(request=Request(**request), latents_YSM=latents, **head)
