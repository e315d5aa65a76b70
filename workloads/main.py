"""The process entry: `python -P -m workloads.main {probe|train|infer|serve} ...`, started by the command line.

Progress goes to stdout, one JSON object a line (workloads.progress); the result goes to --out, whole or not at
all. Ends with 0, 1 (failed) or 2 (asked wrongly), the last two after one {"event": "error"} line.
"""

# ruff: noqa: E402, PLC0415  the order of imports is that of their cost: torch last, and only for sound requests

from __future__ import annotations

import signal
import time

STARTED = time.monotonic()  # before anything slow is imported: start-up is part of the bill
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback, should it come during the imports

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, TypeAdapter, ValidationError

from tokenstone.errors import InvalidFile, MissingExtra, OperationError, TokenstoneError, UsageError
from tokenstone.run import InferenceSpec, ReferenceSpec, TrainingSpec
from workloads import ending
from workloads.files import require_writable, whole_file
from workloads.progress import JsonLines, Silent

_COMMANDS = {"training": {"probe", "train"}, "inference": {"probe", "infer", "serve"}}
_RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""How often torchrun has restarted the processes."""

API_KEY_VARIABLE = "TOKENSTONE_ENDPOINT_API_KEY"
"""The key of an endpoint comes from the environment only: command lines are for all to see."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, where=self.prog, hint="see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="workloads", description="Run a probe or a reference workload and write its facts.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("probe", "measure GEMM peak and memory bandwidth"),
        ("train", "train the reference model"),
        ("infer", "make a load, to the reference engine or to an endpoint"),
        ("serve", "serve the reference engine to a load generator"),
    ):
        command = commands.add_parser(name, help=text)
        what: Any = command
        if name == "probe":
            what = command.add_mutually_exclusive_group(required=True)
            what.add_argument("--dtype", help="number format, such as fp32")
        what.add_argument("--spec", type=Path, required=name != "probe", help="workload spec, JSON")
        if name != "serve":
            command.add_argument("--out", type=Path, required=True, help="where the result is written, JSON")
        command.add_argument("--threads", type=int, help="CPU threads (default: every core)")
        command.add_argument("--launched", type=float, help="monotonic clock when the parent started this process")
        command.add_argument("--lifeline", action="store_true", help="end when stdin, held by the parent, closes")
        if name != "probe":
            command.add_argument("--checkpoint", type=Path, help="trained model: train writes it, infer reads it")
        if name == "infer":
            _add_target(command)
        if name == "serve":
            command.add_argument("--context", type=int, required=True, help="longest request, tokens")
            command.add_argument(
                "--record", type=Path, required=True, help="where the iterations are written at the end"
            )
            command.add_argument("--tokenizer", type=Path, required=True, help="where the tokenizer is written at once")
        if name == "train":
            _add_training_options(command)
    return parser


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument("--endpoint", help="OpenAI-compatible endpoint (default: the reference engine)")
    command.add_argument("--api", choices=("completions", "chat"), help="route (default: the first that is there)")
    command.add_argument("--tokenizer", type=Path, help="tokenizer.json of the endpoint's model")
    command.add_argument("--devices", type=int, help="devices on which the endpoint runs")
    command.add_argument("--trace", type=Path, help="requests to replay, JSONL")
    command.add_argument("--request-timeout", type=float, default=120.0, help="seconds a request may take")
    command.add_argument("--max-seconds", type=float, default=3600.0, help="seconds after which the load is ended")


def _add_training_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--checkpoint-folder", type=Path, help="where the training's state is saved as it goes on")
    command.add_argument("--checkpoint-every", type=int, metavar="STEPS", help="steps between checkpoints")
    command.add_argument("--resume", action="store_true", help="go on with the training in --checkpoint-folder")
    command.add_argument("--cache", type=Path, help="folder for the tokenizer and the encoded text")
    command.add_argument("--profile-steps", type=int, default=0, metavar="N", help="counted steps to profile")
    command.add_argument("--profile-folder", type=Path, default=Path(), help="where the traces are written")
    command.add_argument(
        "--collective-timeout", type=float, default=300.0, metavar="SECONDS", help="of each collective"
    )


def _read_spec(path: Path) -> TrainingSpec | InferenceSpec:
    try:
        spec: TrainingSpec | InferenceSpec = TypeAdapter(ReferenceSpec).validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidFile(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise InvalidFile(f"not a workload spec: {key} {problem['msg']}", where=str(path)) from None
    return spec


def _run(arguments: argparse.Namespace, progress: JsonLines) -> BaseModel | None:
    """Do what was asked; None on a rank whose facts another one writes.

    Imports torch, which takes seconds, only once the request is known to be sound.
    """
    command: str = arguments.command
    checkpoint: Path | None = getattr(arguments, "checkpoint", None)
    started = _started(arguments.launched)
    spec = None if arguments.spec is None else _read_spec(arguments.spec)
    if spec is not None and command not in _COMMANDS[spec.kind]:
        fit = " and ".join(sorted(_COMMANDS[spec.kind]))
        raise UsageError(f"a spec of {spec.kind} is for {fit}, not {command}", where="--spec")
    if isinstance(spec, InferenceSpec) and command in {"infer", "serve"}:
        return _serving(spec, arguments, started, progress)
    for path in (arguments.out, checkpoint if command == "train" else None):
        if path is not None:
            require_writable(path)
    progress.phase("import")
    _spin_less()
    try:
        from workloads.device import select_device, select_rank_device
        from workloads.probes.run import probe
        from workloads.training.continuation import Saving
        from workloads.training.loop import Options, train
        from workloads.training.parallel.processes import device_of, joined, place_from_environment
        from workloads.training.profile import Profiling
    except ModuleNotFoundError as error:
        raise MissingExtra("workloads", str(error.name)) from error
    if spec is None or command == "probe":
        device = select_device(arguments.threads)
        return probe(arguments.dtype if spec is None else spec.dtype, device, progress=progress)
    assert isinstance(spec, TrainingSpec)
    saving = None
    if arguments.checkpoint_folder is not None:
        restart = int(os.environ.get(_RESTARTS, "0"))
        saving = Saving(arguments.checkpoint_folder, arguments.checkpoint_every, arguments.resume, restart)
    elif arguments.resume or arguments.checkpoint_every is not None:
        raise UsageError("--resume and --checkpoint-every need a --checkpoint-folder", where="train")
    options = Options(
        checkpoint=checkpoint,
        saving=saving,
        cache=arguments.cache,
        profiling=Profiling(arguments.profile_steps, arguments.profile_folder),
        deadline_seconds=arguments.collective_timeout,
    )
    place = place_from_environment()
    if place.size == 1:
        device = select_device(arguments.threads)
        return train(spec, device=device, started=started, progress=progress, options=options)
    with joined(place, device_of(place), deadline_seconds=arguments.collective_timeout):
        device = select_rank_device(place.rank, place.size, arguments.threads)
        listener = progress if place.rank == 0 else Silent()
        return train(spec, device=device, started=started, progress=listener, options=options)


def _spin_less() -> None:
    """Let threads that wait for each other spin for a moment and then sleep.

    OpenMP's default is to spin for so long that on a machine with anything else to do (our own agent) two threads
    are 30 times slower than one. Must come before torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _serving(
    spec: InferenceSpec, arguments: argparse.Namespace, started: float, progress: JsonLines
) -> BaseModel | None:
    """The two processes of serving: the load generator, and the engine that it starts."""
    try:
        if arguments.command == "serve":
            progress.phase("import")
            _spin_less()
            from workloads.serving.server import ServingOptions, serve_model

            if spec.model is None:
                raise UsageError("a spec without a model's shape", where="--spec", hint="it is an endpoint's")
            options = ServingOptions(
                shape=spec.model, dtype=spec.dtype, checkpoint=arguments.checkpoint, max_batch=spec.max_batch,
                context=arguments.context, threads=arguments.threads, seed=spec.seed, record=arguments.record,
                tokenizer_path=arguments.tokenizer, max_waiting=spec.requests,
            )  # fmt: skip
            ready = lambda url: progress.event("ready", url=url)  # noqa: E731
            serve_model(options, host="127.0.0.1", port=0, on_ready=ready, progress=progress)
            return None
        from workloads.load.run import Target, infer
    except ModuleNotFoundError as error:
        raise MissingExtra("workloads", str(error.name)) from error
    require_writable(arguments.out)
    target = Target(
        url=arguments.endpoint, api=arguments.api, key=os.environ.get(API_KEY_VARIABLE), tokenizer=arguments.tokenizer,
        devices=arguments.devices, timeout_seconds=arguments.request_timeout, most_seconds=arguments.max_seconds,
        trace=arguments.trace,
    )  # fmt: skip
    return infer(
        spec, target, spec_path=arguments.spec, checkpoint=arguments.checkpoint, threads=arguments.threads,
        started=started, progress=progress,
    )  # fmt: skip


def _started(launched: float | None) -> float:
    if launched is None:
        return STARTED
    if not 0.0 <= STARTED - launched < (float("inf") if os.environ.get(_RESTARTS, "0") != "0" else 3600.0):
        raise UsageError(f"{launched} is not a recent instant of the monotonic clock", where="--launched")
    return launched


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    progress = JsonLines(sys.stdout)
    try:
        arguments = _parser().parse_args(argv)
        if arguments.command == "serve":
            ending.end_in_order()
        else:
            ending.end_on_signals()
        if arguments.lifeline and arguments.command == "serve":
            ending.ask_with_stdin()
        elif arguments.lifeline:
            ending.end_with_stdin()
        result = _run(arguments, progress)
        if result is not None:
            with whole_file(arguments.out) as temporary:
                temporary.write_text(result.model_dump_json())
            progress.event("done")
    except BrokenPipeError:
        return 1  # nobody listens any more
    except TokenstoneError as error:
        progress.event("error", what=error.what, where=error.where, hint=error.hint, exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        failure = _unexpected(error)
        progress.event("error", what=failure.what, where=failure.where, hint=failure.hint, exit_code=failure.exit_code)
        return failure.exit_code
    return 0


def _unexpected(error: Exception) -> TokenstoneError:
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return OperationError(
            f"out of memory: {error}", where="workloads", hint="use a smaller preset or stop other programs"
        )
    return OperationError(f"{type(error).__name__}: {error}", where="workloads", hint="the traceback is on stderr")


if __name__ == "__main__":
    sys.exit(main())
