"""`tokenstone probe`: measure a device's limits."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.output import JsonFlag, print_json, print_pairs


def command(
    dtype: Annotated[str, typer.Option("--dtype", help="Data type of the matrix multiplication.")] = "fp32",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. [default: every core]")] = None,
    json: JsonFlag = False,
) -> None:
    """Measure this device's matrix-multiplication peak and memory bandwidth: its roofline."""
    import tempfile  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from cli.progress import Stages  # noqa: PLC0415
    from cli.workload import run_workload  # noqa: PLC0415
    from tokenstone.flops import dtype_bytes  # noqa: PLC0415
    from tokenstone.wire import Probe  # noqa: PLC0415

    dtype_bytes(dtype)
    arguments = ["--dtype", dtype, *(["--threads", str(threads)] if threads else [])]
    stages = Stages()
    with (
        tempfile.TemporaryDirectory(prefix="tokenstone-") as folder,
        stages.shown(),
        stages.stage("probe", "matrix multiplication and memory") as stage,
    ):
        result = run_workload("probe", arguments, Path(folder) / "probe.json", stage=stage, log_dir=Path(folder))
    probe = Probe.model_validate(result)
    if json:
        return print_json(probe.model_dump(mode="json"))
    return print_pairs(
        {
            "device": probe.device_name,
            "GEMM": f"{probe.gemm_flops_per_second / 1e12:,.3f} TFLOP/s {probe.dtype}, best of {probe.repetitions}"
            f" (spread {probe.gemm_spread_ratio:.1%})",
            "memory": f"{probe.memory_bytes_per_second / 1e9:,.1f} GB/s (spread {probe.memory_spread_ratio:.1%})",
            "conditions": probe.conditions,
        }
    )
