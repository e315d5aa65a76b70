"""The whole state of a training, saved while it goes on, so that it can be resumed bit for bit.

    folder/
      step-00000300/     written by torch.distributed.checkpoint: model, optimizer, random numbers; training.json
      step-00000600/
      latest             the name of the one to resume from

A checkpoint is written under a hidden name and gets its own only when every rank has written its part; then
`latest` is replaced. A crash at any moment leaves the one before. workloads/checkpoint.py writes the other kind: a
trained model to serve.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from tokenstone.errors import Conflict, InvalidFile, InvalidValue, NotWritable
from workloads.files import whole_file

_HINT = "choose a folder with room and rights"
_LATEST = "latest"
_FACTS = "training.json"
_DEADLINE = timedelta(minutes=30)
"""How long ranks wait for the slowest to write: a shared file system may take its time."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a training is: `step` updates are done, and `data_step` is the next batch (Batches.at)."""

    step: int
    data_step: int


class TrainingCheckpoints:
    """Saves to `folder` and restores from it; the last `keep` stay.

    `spec_id` says of which training: another's checkpoints are refused. `shard_of` tells of a parameter, by its name,
    which part of the model this rank's is, such as "stage1.experts0", where ranks hold different weights under one
    name. What ranks of one shard hold alike is saved once, and of FSDP's tensors each rank's part.

    Where torch.distributed runs, every rank makes one, at the same point, and calls the same methods. Raises
    NotWritable for the folder.
    """

    def __init__(
        self, folder: Path, *, spec_id: str, keep: int = 2, shard_of: Callable[[str], str] = lambda _: "all"
    ) -> None:
        if keep < 1:
            raise InvalidValue(f"keep {keep} checkpoints", where="keep", hint="give 1 or more")
        self.folder, self.spec_id, self.keep, self._shard_of = folder, spec_id, keep, shard_of
        self.rank, self._group = 0, None
        if dist.is_initialized():
            self.rank = dist.get_rank()
            # Of its own: saving goes on beside the training, whose collectives must not meet these.
            self._group = dist.new_group(backend="gloo", timeout=_DEADLINE)
        else:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        self._saving: Future[None] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.rank == 0:
                for abandoned in folder.glob(".step-*"):
                    shutil.rmtree(abandoned)
        except OSError as error:
            raise _not_writable(folder, error) from error

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
        """Begin to save. Returns as soon as the state is copied: training may go on. Ends an earlier save first.

        Raises NotWritable if the earlier save has failed, InvalidValue before the first update.
        """
        self.wait()
        if not optimizer.state:  # torch would make one up, by a step of its own that counts as the first
            raise InvalidValue("nothing is trained yet", where="checkpoint", hint="save after the first update")
        unfinished = self.folder / f".step-{position.step:08d}"
        upload = async_save(self._state(model, optimizer), checkpoint_id=unfinished, process_group=self._group)
        assert isinstance(upload, Future)  # the default way of copying is done when async_save returns
        saving: Future[None] = Future()

        def finish(upload: Future[Any]) -> None:
            try:
                upload.result()
                if self.rank == 0:
                    self._commit(unfinished, position)
            except BaseException as error:  # CheckpointException is no Exception
                saving.set_exception(error)
            else:
                saving.set_result(None)

        upload.add_done_callback(finish)
        self._saving = saving

    def wait(self) -> None:
        """Wait until what was begun is saved. Raises NotWritable if it could not be; the one before is intact."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        try:
            saving.result()
        except (CheckpointException, OSError) as error:
            if self.rank == 0:
                for abandoned in self.folder.glob(".step-*"):
                    shutil.rmtree(abandoned, ignore_errors=True)
            raise _not_writable(self.folder, _cause(error)) from error

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position | None:
        """Put model, optimizer and random numbers back to the latest checkpoint; None where there is none.

        Raises Conflict for another training's, InvalidFile for a damaged one or one of another layout.
        """
        path = self._latest()
        if path is None:
            return None
        position = self._read_facts(path)
        state = self._state(model, optimizer)
        random = {key: state.pop(key) for key in self._random()}
        try:
            saved = FileSystemReader(path).read_metadata().state_dict_metadata
            # On more ranks than before, the further ones go on with the random numbers that they have.
            state |= {key: value for key, value in random.items() if key in saved}
            load(state, checkpoint_id=path, process_group=self._group)
        except (CheckpointException, OSError) as error:
            hint = "resume with the model and layout that wrote it, or from another folder"
            raise InvalidFile(f"cannot be restored: {_cause(error)}", where=str(path), hint=hint) from error
        moments = {"state": _joined(state, "optimizer."), "param_groups": state[self._groups]}
        set_state_dict(
            model, optimizer, model_state_dict=_joined(state, "model."), optim_state_dict=moments
        )  # fmt: skip
        self._set_random(state)
        return position

    def _state(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        weights, moments = get_state_dict(model, optimizer)
        state: dict[str, Any] = {self._groups: moments["param_groups"], **self._random()}
        for kind, by_name in (("model", weights), ("optimizer", cast(dict[str, Any], moments["state"]))):
            for name, value in by_name.items():
                state.setdefault(f"{kind}.{self._shard_of(name)}", {})[name] = value
        return state

    @property
    def _groups(self) -> str:
        """The key of the optimizer's groups: names and settings, alike for all ranks of a stage."""
        return f"groups.{self._shard_of('')}"

    def _random(self) -> dict[str, Tensor]:
        states = {f"random.{self.rank}.cpu": torch.get_rng_state()}
        if torch.accelerator.is_available():
            states[f"random.{self.rank}.accelerator"] = torch.get_device_module().get_rng_state()
        return states

    def _set_random(self, state: dict[str, Any]) -> None:
        for key in self._random().keys() & state.keys():
            module = torch if key.endswith("cpu") else torch.get_device_module()
            module.set_rng_state(state[key])

    def _commit(self, unfinished: Path, position: Position) -> None:
        """Give the written checkpoint its name, make it the latest, and remove those that are too many."""
        facts = {"spec_id": self.spec_id, **asdict(position)}
        (unfinished / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        path = self.folder / unfinished.name.removeprefix(".")
        if path == self._latest_here():  # saved before: the same step of the same training
            shutil.rmtree(unfinished)
            return
        if path.exists():  # of a run that got here before and was resumed from an earlier step
            shutil.rmtree(path)
        unfinished.rename(path)
        with whole_file(self.folder / _LATEST) as temporary:
            temporary.write_text(path.name, encoding="utf-8")
        others = [other for other in self.folder.glob("step-*") if other != path]
        others.sort(key=lambda other: (other / _FACTS).stat().st_mtime_ns)
        for old in others[: max(0, len(others) + 1 - self.keep)]:
            shutil.rmtree(old)

    def _latest(self) -> Path | None:
        """The latest as rank 0 sees it, so that all ranks resume from the same one."""
        seen = [self._latest_here() if self.rank == 0 else None]
        if self._group is not None:
            dist.broadcast_object_list(seen, src=0, group=self._group)
        return seen[0]

    def _latest_here(self) -> Path | None:
        pointer = self.folder / _LATEST
        return self.folder / pointer.read_text(encoding="utf-8").strip() if pointer.exists() else None

    def _read_facts(self, path: Path) -> Position:
        try:
            facts = json.loads((path / _FACTS).read_text(encoding="utf-8"))
            spec_id, position = facts.pop("spec_id"), Position(**facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidFile(f"not a checkpoint of a training: {error}", where=str(path)) from error
        if spec_id != self.spec_id:
            raise Conflict(
                f"belongs to training {spec_id}, not to {self.spec_id}", where=str(path),
                hint="resume with the same spec, or give another folder",
            )  # fmt: skip
        return position


def _joined(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What stands under the keys that begin with `prefix`, in one."""
    return {name: value for key, part in state.items() if key.startswith(prefix) for name, value in part.items()}


def _cause(error: BaseException) -> BaseException:
    """What a rank met, of what torch has wrapped it in."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        return error.__context__
    return error


def _not_writable(folder: Path, error: BaseException) -> NotWritable:
    reason = error.strerror if isinstance(error, OSError) else None
    return NotWritable(f"cannot save the training: {reason or error}", where=str(folder), hint=_HINT)
