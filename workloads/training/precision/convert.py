"""Swap the layers of a finished model that DeepSeek-V3 runs in FP8; all else stays in high precision.

In FP8: the projections of attention and all feed-forwards (dense, shared, routed). Not: embedding, output head,
router gate, norms and attention itself (arXiv 2412.19437, section 3.3.1).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from tokenstone.errors import InvalidValue
from workloads.moe.experts import RoutedExperts
from workloads.training.precision.gemm import engine_for
from workloads.training.precision.linear import Fp8GroupedMultiply, Fp8Linear
from workloads.training.precision.statistics import Statistics


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was swapped, and what its figures are worth."""

    modules: tuple[str, ...]
    """Names of the modules whose products are FP8 now."""
    parameters: int
    """Parameters of these modules."""
    statistics: Statistics
    """Disabled until someone enables it; shared by all modules."""
    engine: str
    """"fp8: scaled_mm" or "fp8: emulated", on the device on which the model is now."""

    def provenance(self) -> dict[str, str]:
        """As short texts, to be added to a run's."""
        return {"precision": self.engine, "fp8_parameters": str(self.parameters)}


def convert_to_fp8(model: nn.Module, *, keep: Collection[str] = ("head",)) -> Conversion:
    """Swap in place every nn.Linear and all routed experts of `model`, except modules named in `keep` and below.

    `keep` holds names, or dotted ends of names, at any depth ("head", "blocks.0"); a name that the model does not
    have is no error, since a stage of a pipeline has no head.

    Parameters stay the same objects under the same names: an optimizer that holds them goes on, and checkpoints are
    those of the model before. Call it once the model is on its device. Experts that are sharded later stay FP8.

    Raises InvalidValue where nothing is left to convert.
    """
    statistics = Statistics(enabled=False)
    converted: dict[str, nn.Module] = {}
    for name, module in list(model.named_modules()):
        if any(f".{kept}." in f".{name}." for kept in keep):
            continue
        if isinstance(module, nn.Linear):
            converted[name] = Fp8Linear(module, statistics)
            model.set_submodule(name, converted[name])
        elif isinstance(module, RoutedExperts) and not isinstance(module.multiply, Fp8GroupedMultiply):
            module.multiply = Fp8GroupedMultiply(statistics)
            converted[name] = module
    if not converted:
        raise InvalidValue("no layer is left to run in FP8", where="fp8", hint="convert a model once")
    parameters = [parameter for module in converted.values() for parameter in module.parameters()]
    return Conversion(
        modules=tuple(converted),
        parameters=sum(parameter.numel() for parameter in parameters),
        statistics=statistics,
        engine=engine_for(parameters[0].device).name,
    )
