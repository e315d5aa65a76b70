"""From spec and facts to a run, and how a training reads in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli.submit import make_run
from cli.train_plan import make_spec
from cli.train_view import print_training
from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.evaluate import evaluate
from tokenstone.run import RunState
from tokenstone.wire import (
    CollectiveTotal,
    DevicePhases,
    OperandFigures,
    Phase,
    RankFigures,
    RunView,
    StepColumns,
    TrainingFacts,
)

SPEC = make_spec(preset="cpu-tiny", nproc=2, pipeline=2, experts=1, micro_batches=2, steps=2)
PHASES = [
    Phase(kind="startup", start_seconds=0, duration_seconds=1, activity_seconds={"startup": 1}),
    Phase(kind="step", start_seconds=1, duration_seconds=1, activity_seconds={"compute": 1}, steps=2),
]
FACTS = TrainingFacts(
    started_unix_seconds=1.8e9,
    allocated_seconds=2,
    devices=[DevicePhases(device=f"host:{rank}", phases=PHASES) for rank in range(2)],
    tokens=1024,
    loss_first=6.2,
    loss_last=6.0,
    max_violation=1.5,
    communication=[CollectiveTotal(name="loss", count=4, seconds=0.2, sent_bytes=8, buffer_bytes=8)],
    steps=StepColumns(
        duration_seconds=[0.5, 0.5], loss=[6.2, 6.0], gradient_norm=[1, 3], max_violation=[2, 3],
        part_seconds={"forward": [0.2, 0.2], "backward": [0.3, 0.3]},
    ),
    ranks=[
        RankFigures(
            device=f"host:{rank}", node=f"node{rank}", part_seconds={"forward": 0.4, "backward": 0.6},
            wait_seconds=0.1 + rank, busy_seconds=0.5, peak_memory_bytes=10**9 * (1 + rank),
        )
        for rank in range(2)
    ],
    expert_load=[[0, 4], [4, 4]],
    schedule_seconds=1.0,
    fp8=[OperandFigures(operand="weight", amax=0.5, underflow_ratio=0.01)],
    restarts=1,
    lost_steps=3,
    provenance={"device": "NVIDIA H100 80GB HBM3"},
)  # fmt: skip


def test_each_rank_is_a_device_on_its_node() -> None:
    run = make_run(SPEC, FACTS, cluster="lab", hardware=None, run_id=None)
    assert [(device.node, device.id) for device in run.devices] == [("node0", "host:0"), ("node1", "host:1")]
    assert {device.hardware for device in run.devices} == {"h100-sxm"}
    assert run.run_id == make_run(SPEC, FACTS, cluster="lab", hardware=None, run_id=None).run_id


def test_facts_of_another_spec_and_unknown_names_are_refused() -> None:
    alone = make_spec(preset="cpu-tiny")
    with pytest.raises(InvalidValue, match="2 ranks, and a spec for 1"):
        make_run(alone, FACTS, cluster="lab", hardware=None, run_id=None)
    with pytest.raises(UnknownName, match="h1000"):
        make_run(SPEC, FACTS, cluster="lab", hardware="h1000", run_id=None)
    with pytest.raises(InvalidValue, match="run_id"):
        make_run(SPEC, FACTS, cluster="lab", hardware=None, run_id="a/b")


def test_a_training_reads_in_lines_of_what_was_measured() -> None:
    create = make_run(SPEC, FACTS, cluster="lab", hardware=None, run_id="run")
    run = RunView(
        run_id="run", cluster="lab", spec_id=SPEC.spec_id, spec=SPEC, devices=create.devices, state=RunState.COMPLETE,
        reason="", created_unix_seconds=0, started_unix_seconds=0, ended_unix_seconds=0,
    )  # fmt: skip
    console = Console(file=io.StringIO(), width=120)
    print_training(evaluate(run, FACTS, windows=[], price=None), console)
    said = console.file.getvalue()
    for line in (
        "Step 500.00 ms: backward 300.00 ms, forward 200.00 ms",
        "Ranks waited host:0 0.10 s, host:1 1.10 s; peak memory 2.00 GB on the fullest",
        "Pipeline bubble 50.0% of the schedule, 33.3% by its closed form",
        "Experts MaxVio 1.50 of all steps, 2.50 by batch; 1 dead",
        "Gradients mean norm 2, last 3",
        "FP8 weight up to 0.5, 1.00% became zero",
        "Recovery 1 restarts, 3 steps lost, 0 checkpoints failed",
    ):
        assert line in said
