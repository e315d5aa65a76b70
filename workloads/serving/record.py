"""What the engine did while it served, for the ledger of a run; written when the server ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenstone.model import ModelShape
from tokenstone.wire import Iterations, WireModel
from workloads.files import whole_file
from workloads.inference.facts import iteration_columns
from workloads.inference.iteration import Iteration

LABEL = "load-"
"""A load generator calls its request i `load-i` (X-Request-Id)."""


class Record(WireModel):
    """Iterations that served the load; their instants are the monotonic clock's, their requests the load's."""

    iterations: Iterations
    expert_load: list[list[int]]
    provenance: dict[str, str]


class Recorder:
    """Keeps iterations from the moment they come."""

    def __init__(self) -> None:
        self._iterations: list[Iteration] = []

    def add(self, iteration: Iteration) -> None:
        """Keep one; called in the engine's thread."""
        self._iterations.append(iteration)

    def write(
        self, path: Path, *, model: ModelShape, dtype: str, pages: int, labels: Mapping[int, str],
        expert_load: list[list[int]], provenance: dict[str, str],
    ) -> None:  # fmt: skip
        """Write the iterations that only the load's requests took part in: a warm-up has none of them."""
        index_of = {
            name: int(label.removeprefix(LABEL))
            for name, label in labels.items()
            if label.startswith(LABEL) and label.removeprefix(LABEL).isdecimal()
        }
        kept = [it for it in self._iterations if all(share.request_id in index_of for share in it.shares)]
        columns = iteration_columns(model, dtype, kept, pages=pages, index_of=index_of)
        record = Record(iterations=columns, expert_load=expert_load, provenance=provenance)
        with whole_file(path) as temporary:
            temporary.write_text(record.model_dump_json())
