"""Options that `bench`, `train` and `ablate` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Api = Annotated[str, typer.Option("--api", envvar="TOKENSTONE_API", help="URL of the service.")]
Data = Annotated[
    Path, typer.Option("--data", envvar="TOKENSTONE_DATA", help="Folder for the store, the logs and the report.")
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        envvar="TOKENSTONE_REPORT",
        help="Where the report is written. [default: report.html in the data folder]",
    ),
]
PricePerDeviceHour = Annotated[
    float | None,
    typer.Option(
        "--price-per-device-hour",
        envvar="TOKENSTONE_PRICE_PER_DEVICE_HOUR",
        help="Dollars; without a price the bill is in device-seconds.",
    ),
]
PriceBookFile = Annotated[
    Path | None,
    typer.Option(
        "--price-book", envvar="TOKENSTONE_PRICE_BOOK", help="Price book (TOML). [default: the published points]"
    ),
]
PriceRow = Annotated[
    str | None, typer.Option("--price-row", envvar="TOKENSTONE_PRICE_ROW", help="Row of the price book.")
]
Hardware = Annotated[
    str | None,
    typer.Option(
        "--hardware",
        envvar="TOKENSTONE_HARDWARE",
        help="Catalogue name, where the driver's name is not in the catalogue.",
    ),
]
Cluster = Annotated[
    str, typer.Option("--cluster", envvar="TOKENSTONE_CLUSTER", help="Name of this cluster in the report.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", envvar="TOKENSTONE_THREADS", min=1, help="CPU threads of each process. [default: every core]"
    ),
]
Preset = Annotated[
    str, typer.Option("--preset", envvar="TOKENSTONE_PRESET", help="Reference workload: cpu-tiny or cpu-small.")
]
