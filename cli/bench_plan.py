"""What a bench will do, checked before anything is started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tokenstone import hardware as catalogue
from tokenstone.cost import PriceBook, builtin_book, load_book, rental
from tokenstone.errors import InvalidValue, NotWritable, UsageError
from tokenstone.run import InferenceSpec, TrainingSpec
from tokenstone.wire import Name, PriceChoice
from workloads.presets import inference_spec, training_spec


@dataclass(frozen=True, slots=True)
class Plan:
    """A bench whose every input is known to be sound."""

    training: TrainingSpec
    inference: InferenceSpec
    data: Path
    report_path: Path
    price: PriceChoice
    price_book: PriceBook | None
    """The user's own book, which the service does not know yet."""
    hardware: str | None
    cluster: str
    threads: int | None

    @property
    def logs(self) -> Path:
        """Where the parts write their logs."""
        return self.data / "logs"


def make_plan(
    *,
    preset: str,
    data: Path,
    report_path: Path | None,
    price_per_device_hour: float | None,
    price_book: Path | None,
    price_row: str | None,
    hardware: str | None,
    cluster: str,
    threads: int | None,
) -> Plan:
    """Check everything; raises UsageError and its kin, or NotWritable."""
    training, inference = training_spec(preset), inference_spec(preset)
    if hardware is not None:
        catalogue.get(hardware)
    _check_cluster(cluster)
    cores = len(os.sched_getaffinity(0))
    if threads is not None and threads > cores:
        raise InvalidValue(f"{threads} threads on {cores} processors", where="--threads", hint=f"give 1 to {cores}")
    price, book = _price(price_per_device_hour, price_book, price_row)
    data = data.absolute()
    report = (report_path or data / "report.html").absolute()
    _prepare(data / "logs", data)
    _prepare(report.parent, report)
    return Plan(training, inference, data, report, price, book, hardware, cluster, threads)


def _check_cluster(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise InvalidValue(
            f"{name!r} is no name for a cluster", where="--cluster", hint="use letters, digits and . _ : @ / + -"
        ) from error


def _price(per_hour: float | None, book_path: Path | None, row: str | None) -> tuple[PriceChoice, PriceBook | None]:
    if per_hour is not None:
        if book_path is not None or row is not None:
            raise UsageError("give either --price-per-device-hour or a row of a price book, not both")
        return PriceChoice(usd_per_device_hour=rental(per_hour).usd_per_device_hour), None
    if book_path is None and row is None:
        return PriceChoice(), None
    book = builtin_book() if book_path is None else load_book(book_path)
    if row is None:
        keys = ", ".join(sorted({r.key for r in book.rows}))
        raise UsageError(f"--price-book needs --price-row to say which row of {book.name}", hint=f"it has {keys}")
    book.resolve(row)
    return PriceChoice(price_book=book.name, price_row=row), None if book_path is None else book


def _prepare(folder: Path, named: Path) -> None:
    """Make a folder, and be sure that files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise NotWritable(
            f"cannot write there: {error.strerror}", where=str(named), hint="choose another with --data or --report"
        ) from error
