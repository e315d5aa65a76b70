"""Named workload specs. Imports no torch: the command line reads them too.

cpu-tiny: seconds, for tests. cpu-small: half a minute of training and some ten seconds of serving on two cores.
gpu-1: a 16B model on one device of 288 GB or more, or on several smaller ones (--nproc). gpu-1-80gb: the same layers,
as many of them as one device of 80 GB holds. gpu-8: the 16B model on eight devices, experts over all of them and the
two directions of DualPipeV behind each other. deepseek-v3: the published model on its published layout.
"""

from __future__ import annotations

from tokenstone.errors import UnknownName
from tokenstone.model import CPU_SMALL, CPU_TINY, DEEPSEEK_V3, MOE_16B
from tokenstone.run import InferenceSpec, Objective, TrainingLayout, TrainingSpec

TRAINING: dict[str, TrainingSpec] = {
    "cpu-tiny": TrainingSpec(
        preset="cpu-tiny", model=CPU_TINY, dtype="fp32", sequence_length=64, batch_sequences=4, steps=12,
        warm_up_steps=2, learning_rate=3e-3, bias_update_rate=1e-2,
    ),
    "cpu-small": TrainingSpec(
        preset="cpu-small", model=CPU_SMALL, dtype="fp32", sequence_length=256, batch_sequences=4, steps=100,
        warm_up_steps=4, learning_rate=2e-3, bias_update_rate=1e-2,
    ),
    "gpu-1": TrainingSpec(
        preset="gpu-1", model=MOE_16B, dtype="bf16", sequence_length=4096, batch_sequences=8, steps=50,
        warm_up_steps=5, learning_rate=2.4e-4, bias_update_rate=1e-3, recompute="blocks",
    ),
    "gpu-1-80gb": TrainingSpec(
        preset="gpu-1-80gb", model=MOE_16B.model_copy(update={"layers": 6, "name": "moe-16b, 6 layers"}), dtype="bf16",
        sequence_length=4096, batch_sequences=2, steps=50, warm_up_steps=5, learning_rate=2.4e-4,
        bias_update_rate=1e-3, recompute="blocks",
    ),
    "gpu-8": TrainingSpec(
        preset="gpu-8", model=MOE_16B, dtype="bf16", sequence_length=4096, batch_sequences=64, steps=50,
        warm_up_steps=5, learning_rate=2.4e-4, bias_update_rate=1e-3, recompute="blocks", dispatch_precision="fp8",
        combine_precision="bf16", layout=TrainingLayout(experts=8, schedule="DualPipeV", micro_batches=8),
    ),
    "deepseek-v3": TrainingSpec(
        preset="deepseek-v3", model=DEEPSEEK_V3, dtype="bf16", sequence_length=4096, batch_sequences=15360, steps=50,
        warm_up_steps=5, learning_rate=2.2e-4, bias_update_rate=1e-3, balancing="sequence", balance_alpha=1e-4,
        linear_precision="fp8", dispatch_precision="fp8", combine_precision="bf16", recompute="cheap",
        prediction_depths=1,
        layout=TrainingLayout(pipeline=16, replicas=2, experts=64, schedule="DualPipeV", micro_batches=120),
    ),
}  # fmt: skip
"""The cpu ones in fp32, because CPUs without matrix units multiply bf16 at half its speed."""

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
