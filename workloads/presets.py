"""Named workload specs. Imports no torch: the command line reads them too.

cpu-tiny: seconds, for tests. cpu-small: half a minute of training and some ten seconds of serving on two cores.
"""

from __future__ import annotations

from tokenstone.errors import UnknownName
from tokenstone.model import CPU_SMALL, CPU_TINY
from tokenstone.run import InferenceSpec, Objective, TrainingSpec

TRAINING: dict[str, TrainingSpec] = {
    "cpu-tiny": TrainingSpec(
        preset="cpu-tiny", model=CPU_TINY, dtype="fp32", sequence_length=64, batch_sequences=4, steps=12,
        warm_up_steps=2, learning_rate=3e-3, bias_update_rate=1e-2,
    ),
    "cpu-small": TrainingSpec(
        preset="cpu-small", model=CPU_SMALL, dtype="fp32", sequence_length=256, batch_sequences=4, steps=100,
        warm_up_steps=4, learning_rate=2e-3, bias_update_rate=1e-2,
    ),
}  # fmt: skip
"""fp32, because CPUs without matrix units multiply bf16 at half its speed."""

INFERENCE: dict[str, InferenceSpec] = {
    "cpu-tiny": InferenceSpec(
        preset="cpu-tiny", model=CPU_TINY, dtype="fp32", requests=6, input_tokens=16, output_tokens=8, max_batch=4,
        objective=Objective(ttft_seconds=2.0, tpot_seconds=0.2),
    ),
    "cpu-small": InferenceSpec(
        preset="cpu-small", model=CPU_SMALL, dtype="fp32", requests=384, input_tokens=64, output_tokens=64,
        max_batch=16, objective=Objective(ttft_seconds=0.5, tpot_seconds=0.02),
    ),
}  # fmt: skip


def training_spec(preset: str) -> TrainingSpec:
    """Return the training of `preset`; raises UnknownName."""
    try:
        return TRAINING[preset]
    except KeyError:
        raise UnknownName("training preset", preset, TRAINING) from None


def inference_spec(preset: str) -> InferenceSpec:
    """Return the serving of `preset`; raises UnknownName."""
    try:
        return INFERENCE[preset]
    except KeyError:
        raise UnknownName("inference preset", preset, INFERENCE) from None
