"""What a session is told, checked before anything is started."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cli.files import require_writable
from cli.session import Site
from tokenstone import hardware as catalogue
from tokenstone.cost import Price, PriceBook, builtin_book, load_book, rental
from tokenstone.errors import InvalidValue, UsageError
from tokenstone.wire import Name, PriceChoice


def make_site(
    *,
    data: Path,
    report_path: Path | None,
    price_per_device_hour: float | None,
    price_book: Path | None,
    price_row: str | None,
    hardware: str | None,
    cluster: str,
    threads: int | None,
) -> Site:
    """Check everything before anything is started; raises UsageError and its kin, or NotWritable."""
    if hardware is not None:
        catalogue.get(hardware)
    _check_cluster(cluster)
    cores = len(os.sched_getaffinity(0))
    if threads is not None and threads > cores:
        raise InvalidValue(f"{threads} threads on {cores} processors", where="--threads", hint=f"give 1 to {cores}")
    price, book = _price(price_per_device_hour, price_book, price_row)
    data = data.absolute()
    report = (report_path or data / "report.html").absolute()
    require_writable(data / "logs", data)
    require_writable(report.parent, report)
    return Site(data, report, cluster, hardware, threads, price, book)


def _check_cluster(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise InvalidValue(
            f"{name!r} is no name for a cluster", where="--cluster", hint="use letters, digits and . _ : @ / + -"
        ) from error


def find_price(per_hour: float | None, book_path: Path | None, row: str | None) -> Price | None:
    """The price that the options name, where no service is asked for it; None without any. Raises UsageError."""
    choice, book = _price(per_hour, book_path, row)
    if choice.usd_per_device_hour is not None:
        return rental(choice.usd_per_device_hour)
    return (book or builtin_book()).resolve(choice.price_row) if choice.price_row is not None else None


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
