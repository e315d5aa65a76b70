"""`tokenstone ablate`: the plan, what is made of its runs, how it looks, and one real run of it."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cli import slow_link
from cli.ablate_plan import TECHNIQUES, base_spec, in_order, parse_rate, plan
from cli.ablate_result import summarise
from cli.ablate_view import document, print_table
from cli.main import main
from tokenstone.cost import rental
from tokenstone.errors import InvalidValue, UnknownName, WorkloadFailed
from tokenstone.evaluate import evaluate
from tokenstone.run import RunState
from tokenstone.wire import DevicePhases, Phase, Probe, RunDevice, RunView, TrainingFacts
from workloads.presets import TRAINING
from workloads.training.parallel.layout import Layout
from workloads.training.parallel.schedules import check_schedule

GOLDEN = Path(__file__).parents[1] / "golden/ablate.txt"
CHANGES = {
    "balancing": {"bias_update_rate"},
    "routing-limit": {"model.experts.active_groups"},
    "schedule": {"layout.schedule"},
    "overlap": {"layout.overlap"},
    "fp8": {"linear_precision"},
    "fp8-dispatch": {"dispatch_precision", "combine_precision"},
    "recomputation": {"recompute"},
}


def base(preset="cpu-tiny", steps=10):
    return base_spec(TRAINING[preset], steps)


def flat(document, prefix=""):
    for name, value in document.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


# --- the plan


@pytest.mark.parametrize("preset", ["cpu-tiny", "cpu-small"])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_the_two_sides_differ_in_the_technique_and_nothing_else(preset, name):
    [technique] = plan(base(preset), [name])
    off, on = (dict(flat(spec.model_dump())) for spec in (technique.off, technique.on))
    assert {key for key in off if off[key] != on[key]} == CHANGES[name]
    assert technique.off.steps == (10 if technique.off.layout.ranks > 1 else 40)


@pytest.mark.parametrize("preset", ["cpu-tiny", "cpu-small"])
@pytest.mark.parametrize("side", ["off", "on"])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_training_of_the_plan_can_be_laid_out(preset, name, side):
    """By the checks with which the workload itself would refuse it."""
    [technique] = plan(base(preset), [name])
    spec = technique.spec(side)
    layout = Layout(spec.layout.pipeline, spec.layout.replicas, spec.layout.experts)
    layout.check(spec.model, spec.layout.ranks)
    assert spec.batch_sequences % layout.data == 0
    check_schedule(
        spec.layout.schedule, ranks=layout.pipeline, micro_batches=spec.layout.micro_batches,
        batch_sequences=spec.batch_sequences // layout.data, layers=spec.model.layers,
    )  # fmt: skip


def test_what_is_simulated_is_called_so():
    for technique in plan(base()):
        assert ("simulated" in technique.conditions) == (technique.off.simulated_latency_seconds > 0)
        assert technique.off.simulated_latency_seconds == technique.on.simulated_latency_seconds


def test_the_base_keeps_a_model_that_is_deep_enough():
    assert base("cpu-small").model == TRAINING["cpu-small"].model
    assert base("cpu-tiny").model.layers == 4


def test_a_preset_that_balances_otherwise_is_compared_from_the_same_base():
    odd = TRAINING["cpu-tiny"].model_copy(update={"bias_update_rate": 0.0, "recompute": "blocks"})
    balancing, recomputation = plan(base_spec(odd, 10), ["recomputation", "balancing"])
    assert (balancing.name, recomputation.name) == ("balancing", "recomputation")
    assert balancing.off.bias_update_rate == 0
    assert balancing.on.bias_update_rate > 0
    assert (recomputation.off.recompute, recomputation.on.recompute) == ("none", "blocks")


def test_without_and_with_take_turns():
    runs = in_order(plan(base(), ["fp8", "balancing"]), 2)
    assert [run.title for run in runs] == [
        "balancing off 1/2", "balancing on 1/2", "balancing off 2/2", "balancing on 2/2",
        "fp8 off 1/2", "fp8 on 1/2", "fp8 off 2/2", "fp8 on 2/2",
    ]  # fmt: skip


def test_groups_that_are_not_there_cannot_be_limited():
    model = TRAINING["cpu-tiny"].model
    ungrouped = model.model_copy(update={"experts": model.experts.model_copy(update={"groups": 1, "active_groups": 1})})
    spec = TRAINING["cpu-tiny"].model_copy(update={"model": ungrouped})
    with pytest.raises(InvalidValue, match="no groups"):
        plan(base_spec(spec, 1), ["routing-limit"])


def test_an_unknown_technique_is_named_with_those_there_are():
    with pytest.raises(UnknownName, match="recomputation, routing-limit, schedule"):
        plan(base(), ["balancing", "fp9"])


# --- what is made of the runs


def evaluation(run, seconds, *, exposed=0.0, price=2.0, **figures):
    """A run whose steps took that long, so that a price of $2 a device-hour and a rate follow; start-up took 30 s."""
    spec = run.technique.spec(run.side)
    ids = [f"host:{rank}" for rank in range(spec.layout.ranks)]
    busy = {"compute": seconds - exposed, "exposed_communication": exposed}
    phases = [
        Phase(kind="startup", start_seconds=0, duration_seconds=30, activity_seconds={"startup": 30}),
        Phase(kind="step", start_seconds=30, duration_seconds=seconds, activity_seconds=busy, steps=spec.steps),
    ]
    probe = Probe(
        device_id="host", device_name="test cpu", device_type="cpu", dtype="fp32", gemm_flops_per_second=1e12,
        memory_bytes_per_second=1e9, repetitions=5, gemm_spread_ratio=0, memory_spread_ratio=0,
    )  # fmt: skip
    facts = TrainingFacts(
        started_unix_seconds=1000, allocated_seconds=30 + seconds, tokens=spec.steps * spec.tokens_per_step,
        devices=[DevicePhases(device=name, phases=phases) for name in ids], probe=probe, **figures,
    )  # fmt: skip
    view = RunView(
        run_id=run.title.replace(" ", "-"), cluster="lab", spec_id=spec.spec_id, spec=spec, state=RunState.COMPLETE,
        devices=[RunDevice(id=name, node="n0") for name in ids], reason="", created_unix_seconds=1000,
        started_unix_seconds=1000, ended_unix_seconds=1040,
    )  # fmt: skip
    return evaluate(view, facts, windows=[], price=None if price is None else rental(price))


def ablation(names, seconds, *, repetitions=4, price=2.0):
    """`seconds[name]` is (off, on); runs vary by up to 1.5 %."""
    planned = list(in_order(plan(base(), names), repetitions))
    evaluations = []
    for run in planned:
        took = seconds[run.technique.name][run.side == "on"] * (1 + 0.005 * run.repetition)
        figures = {"max_violation": 2.0 if run.side == "off" else 0.5, "loss_last": 5.0}
        figures["provenance"] = {"peak_memory_bytes": "250000000" if run.side == "off" else "200000000"}
        if run.technique.name == "fp8" and run.side == "on":
            figures["provenance"] |= {"precision": "fp8: emulated"}
        exposed = took / 4 if run.technique.name == "overlap" else 0.0
        evaluations.append(evaluation(run, took, exposed=exposed, price=price, **figures))
    return summarise(planned, evaluations)


def test_each_technique_is_called_by_what_it_does():
    found = ablation(
        list(TECHNIQUES), dict.fromkeys(TECHNIQUES, (5.0, 5.0)) | {"overlap": (5.0, 4.0), "fp8": (5.0, 8.0)}
    )
    verdicts = {result.technique.name: result.verdict for result in found.results}
    assert verdicts == dict.fromkeys(TECHNIQUES, "no difference shown") | {"overlap": "helps", "fp8": "costs"}


def test_rate_and_cost_are_those_of_the_steps_alone():
    [result] = ablation(["overlap"], {"overlap": (5.0, 4.0)}, repetitions=1).results
    rate = 10 * 512 / (5.0 * 1.005)
    assert result.off.tokens_per_second == pytest.approx(rate)
    assert result.off.device_seconds_per_million_tokens == pytest.approx(4 * 1e6 / rate)  # 4 ranks
    assert result.off.usd_per_million_tokens == pytest.approx(2 / 3600 * 4 * 1e6 / rate)
    assert result.on.exposed_communication_ratio == pytest.approx(0.25)
    assert result.estimate.ratio == pytest.approx(1.25)


def test_three_runs_a_side_show_an_interval_but_no_verdict():
    [result] = ablation(["fp8"], {"fp8": (5.0, 10.0)}, repetitions=3).results
    assert result.verdict == "insufficient data"
    assert result.estimate.low < 0.5 < result.estimate.high


def test_a_difference_that_many_comparisons_explain_is_none():
    """1.3 % is significant alone and not among seven."""
    names = list(TECHNIQUES)
    slight = dict.fromkeys(names, (5.0, 5.0)) | {"fp8": (5.0, 5.065)}
    [alone] = ablation(["fp8"], slight).results
    among = {result.technique.name: result for result in ablation(names, slight).results}["fp8"]
    assert alone.estimate == among.estimate
    assert (alone.verdict, among.verdict) == ("costs", "no difference shown")


def test_a_run_without_steps_is_no_zero():
    planned = list(in_order(plan(base(), ["fp8"]), 1))
    done = [evaluation(run, 5.0).model_copy(update={"step_tokens_per_second": None}) for run in planned]
    with pytest.raises(WorkloadFailed, match="fp8-off-1/1"):
        summarise(planned, done)


# --- how it looks


FOUR = {"balancing": (5.0, 5.0), "overlap": (5.0, 4.0), "fp8": (5.0, 8.0), "recomputation": (5.0, 6.0)}


def printed(found):
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_table(found, console)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


def test_the_table_in_a_narrow_terminal():
    assert printed(ablation(list(FOUR), FOUR)) == GOLDEN.read_text()


def test_without_a_price_costs_are_device_seconds_and_with_few_runs_it_says_what_to_do():
    text = printed(ablation(["fp8"], FOUR, repetitions=1, price=None))
    assert "1 run a side" in text
    assert "245.4" in text  # 5.025 s for 20,480 tokens
    assert "$" not in text
    assert "--runs 4" in text
    assert "--price-per-device-hour" in " ".join(text.split())


def test_the_document_has_stable_keys():
    told = json.loads(json.dumps(document(ablation(list(FOUR), FOUR)), allow_nan=False))
    assert told.keys() == {"preset", "runs", "steps", "price", "techniques", "validity"}
    assert (told["preset"], told["runs"], told["steps"], told["validity"]) == ("cpu-tiny", 4, 10, ["valid"])
    assert told["price"]["usd_per_device_hour"] == 2
    overlap = next(row for row in told["techniques"] if row["name"] == "overlap")
    assert overlap.keys() == {
        "name", "title", "off", "on", "ratio", "low", "high", "confidence", "p_value", "p_adjusted", "verdict",
        "conditions",
    }  # fmt: skip
    assert overlap["ratio"] == pytest.approx(1.25)
    assert overlap["low"] < 1.25 < overlap["high"]
    assert overlap["p_adjusted"] >= overlap["p_value"]
    assert "simulated" in overlap["conditions"]
    assert len(overlap["off"]["rates"]) == len(set(overlap["off"]["run_ids"])) == 4
    assert overlap["off"]["spec_id"] != overlap["on"]["spec_id"]


# --- the command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--techniques", "balancing,fp9"], "known: balancing, fp8, fp8-dispatch, overlap"),
        (["--techniques", ""], "known: balancing"),
        (["--preset", "cpu-huge"], "cpu-small, cpu-tiny"),
        (["--runs", "0"], "--runs"),
        (["--steps", "0"], "--steps"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(capsys, monkeypatch, arguments, says):
    monkeypatch.setattr(sys, "argv", ["tokenstone", "ablate", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_balancing_is_compared_for_real(tmp_path):
    command = [sys.executable, "-P", "-m", "cli", "ablate", "--preset", "cpu-tiny", "--techniques", "balancing"]
    command += ["--runs", "1", "--steps", "2", "--data", str(tmp_path), "--price-per-device-hour", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    [row] = told["techniques"]
    assert (row["name"], row["verdict"], told["validity"]) == ("balancing", "insufficient data", ["valid"])
    assert row["ratio"] == pytest.approx(row["on"]["tokens_per_second"] / row["off"]["tokens_per_second"])
    assert row["off"]["usd_per_million_tokens"] > 0
    assert row["off"]["max_violation"] > 0
    assert "balancing on 1/1: done" in done.stderr


def test_a_limited_link_is_part_of_what_is_compared() -> None:
    wide = base_spec(TRAINING["cpu-tiny"], 5)
    slow = base_spec(TRAINING["cpu-tiny"], 5, link_bits_per_second=parse_rate("200mbit"), link_simulated=False)
    [plain], [limited] = plan(wide, ["fp8-dispatch"]), plan(slow, ["fp8-dispatch"])
    assert limited.off.link_bits_per_second == limited.on.link_bits_per_second == 2e8
    assert limited.off.spec_id != plain.off.spec_id
    assert "200 Mbit/s (loopback limited by tc)" in limited.conditions
    [alone] = plan(slow, ["balancing"])
    assert alone.on.link_bits_per_second is None
    assert "Mbit" not in alone.conditions
    [simulated] = plan(base_spec(TRAINING["cpu-tiny"], 5, link_bits_per_second=1e9, link_simulated=True), ["overlap"])
    assert "1000 Mbit/s (simulated" in simulated.conditions


@pytest.mark.parametrize("text", ["200", "0mbit", "fast", "-1mbit", "1 tbit"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="200mbit"):
        parse_rate(text)


def test_runs_on_one_rank_are_longer() -> None:
    techniques = {technique.name: technique for technique in plan(base_spec(TRAINING["cpu-tiny"], 5))}
    assert techniques["balancing"].on.steps == techniques["balancing"].off.steps == 4 * techniques["schedule"].on.steps


def test_a_slow_loopback_is_limited_and_goes_away() -> None:
    if (reason := slow_link.why_not()) is not None:
        pytest.skip(reason)
    with slow_link.slow_loopback(2e8) as launcher:
        shown = subprocess.run(
            [*launcher, "tc", "qdisc", "show", "dev", "lo"], check=True, capture_output=True, text=True
        )
        assert "tbf" in shown.stdout
        assert "rate 200Mbit" in shown.stdout
        name = launcher[-1]
    left = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    assert name not in left
