"""Jobs that record themselves, told to a real service: plain loops, ranks, deaths, Lightning, Hugging Face."""

import json
import os
import subprocess
import sys
import textwrap
import time

import pytest
from e2e_support import eventually

from tokenstone.client import Client
from tokenstone.errors import ServiceRefused
from tokenstone.record import Job
from tokenstone.record.outbox import Outbox
from tokenstone.run import RunState
from tokenstone.wire import PriceChoice, RunChange

pytestmark = pytest.mark.slow


@pytest.fixture
def client(service):
    with Client(service) as client:
        yield client


@pytest.fixture
def spool(tmp_path, service, monkeypatch):
    monkeypatch.setenv("TOKENSTONE_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("TOKENSTONE_API", service)
    return tmp_path / "spool"


def started(client: Client, run_id: str) -> bool:
    try:
        return client.run(run_id).state is RunState.RUNNING
    except ServiceRefused:
        return False


def test_a_loop_is_a_run_with_ledger_score_bill_advice_and_what_if(client, spool, tokenstone_cli):
    with Job("loop", run_id="loop-1", hardware="h100-sxm", dtype="bf16", flops_per_token=1e3) as job:
        with job.step(tokens=500), job.activity("exposed_communication"):
            assert eventually(lambda: started(client, "loop-1"))
        with job.step(tokens=500):
            pass
    run = client.run("loop-1")
    assert (run.state, run.spec.preset) == (RunState.COMPLETE, "loop")
    evaluation = client.score_run("loop-1", PriceChoice(usd_per_device_hour=2.0))
    assert evaluation.validity == ["valid"]
    assert evaluation.ledger.balanced
    assert evaluation.ledger.seconds["ideal"] == pytest.approx(1000 * 1e3 / 989.4e12)
    assert evaluation.ledger.seconds["exposed_communication"] > 0
    assert evaluation.bill.usd == pytest.approx(evaluation.ledger.allocated_seconds * 2 / 3600)
    assert "loop: a job of its own" in client.report_html(["loop-1"])
    found = {advice.rule: advice for advice in client.report(["loop-1"]).advice}["overlap-communication"]
    bill = evaluation.bill.usd_per_million_tokens
    assert found.saving_usd_per_million_tokens == pytest.approx(bill * found.saving_ratio)
    other = json.loads(tokenstone_cli("what-if", "loop-1", "--link-rate-factor", "2", "--hardware", "b200", "--json"))
    assert other["before"]["bill"]["usd_per_million_tokens"] == pytest.approx(bill)
    exposed = [other[side]["seconds"]["exposed_communication"] for side in ("before", "after")]
    assert exposed[1] == pytest.approx(exposed[0] / 2)
    whole = {"evaluation": evaluation.model_dump(mode="json"), "run": run.model_dump(mode="json")}
    for name, text in (("report", client.report(["loop-1"]).model_dump_json()), ("result", json.dumps(whole))):
        (spool / name).write_text(text)
        double = json.loads(tokenstone_cli("what-if", str(spool / name), "--devices", "2", "--json"))
        assert double["after"]["seconds"]["exposed_communication"] == pytest.approx(2 * exposed[0])
    assert not Outbox(spool).waiting()


RANK = """
    from tokenstone.record import Job
    with Job("ranks") as job:
        for _ in range(4):
            with job.step(tokens=10):
                pass
"""


def test_ranks_in_processes_of_their_own_are_one_run(client, spool):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RANK)],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "TOKENSTONE_RUN_ID": "ranks-1"},
        )
        for rank in range(2)
    ]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    facts = client.facts("ranks-1")
    assert client.run("ranks-1").state is RunState.COMPLETE
    assert len(facts.devices) == len(client.run("ranks-1").devices) == 2
    assert facts.tokens == 80


def test_a_service_that_is_away_slows_nothing_and_gets_the_run_later(client, spool, tokenstone_cli):
    with Job("away", api="http://127.0.0.1:9", run_id="away-1") as job:
        with job.step(tokens=1):
            pass
        began = time.monotonic()
        job.close(timeout=0.5)
        assert time.monotonic() - began < 10
    assert [path.stem for path in Outbox(spool).waiting()] == ["away-1"]
    assert json.loads(tokenstone_cli("deliver", "--json")) | {"spool": ""} == {
        "delivered": 1, "refused": 0, "of_killed_jobs": 0, "spool": "",
    }  # fmt: skip
    assert client.run("away-1").state is RunState.COMPLETE
    assert json.loads(tokenstone_cli("deliver", "--json"))["delivered"] == 0


def test_what_a_failed_run_did_is_kept_beside_it(client, spool):
    with Job("silent", run_id="silent-1") as job, job.step(tokens=1):
        assert eventually(lambda: started(client, "silent-1"))
        client.change_run("silent-1", RunChange(state=RunState.FAILED, reason="client lost"))
    assert client.run("silent-1").state is RunState.FAILED
    beside = [run for run in client.runs() if run.run_id.startswith("silent-1-")]
    assert [run.state for run in beside] == [RunState.COMPLETE]


def test_facts_that_the_service_refuses_are_kept_with_the_reason(client, spool, tokenstone_cli):
    with Job("refused", api="http://127.0.0.1:9", run_id="refused-1") as job:
        with job.step():
            pass
        job.close(timeout=0.1)
    [path] = Outbox(spool).waiting()
    document = json.loads(path.read_text())
    document["facts"]["started_unix_seconds"] = 10.0
    path.write_text(json.dumps(document))
    tokenstone_cli("deliver", code=1)
    assert "started_unix_seconds" in (spool / "refused" / "refused-1.txt").read_text()
    assert not Outbox(spool).waiting()


@pytest.fixture
def tokenstone_cli(spool):
    def run(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-P", "-m", "cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout

    return run


LIGHTNING = """
    import warnings, torch, lightning.pytorch as pl
    from torch.utils.data import DataLoader
    from tokenstone.integrations.lightning import TokenstoneCallback

    class Tiny(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(11, 4)
        def training_step(self, batch, index):
            return self.table(batch["input_ids"]).square().mean()
        def validation_step(self, batch, index):
            self.table(batch["input_ids"])
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = [{"input_ids": torch.arange(6) % 11} for _ in range(8)]
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=OUT, callbacks=[TokenstoneCallback("lightning", run_id="lightning-1")],
    )
    trainer.fit(Tiny(), DataLoader(data, batch_size=2), DataLoader(data, batch_size=4))
"""

HUGGING_FACE = """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
    from tokenstone.integrations.huggingface import TokenstoneCallback

    config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2)
    data = [{"input_ids": torch.arange(6), "labels": torch.arange(6)} for _ in range(8)]
    arguments = TrainingArguments(
        output_dir=OUT, per_device_train_batch_size=2, num_train_epochs=2, use_cpu=True, report_to=[],
        disable_tqdm=True, include_num_input_tokens_seen="all", save_strategy="epoch", eval_strategy="epoch",
    )
    trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=data, eval_dataset=data,
                      callbacks=[TokenstoneCallback("hugging face", run_id="hf-1")])
    trainer.train()
"""


@pytest.mark.parametrize(
    ("program", "run_id", "launcher", "devices"),
    [
        (LIGHTNING, "lightning-1", [], ["host"]),
        (HUGGING_FACE, "hf-1", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
         ["host:0", "host:1"]),
    ],
    ids=["lightning", "huggingface-on-two-ranks"],
)  # fmt: skip
def test_a_callback_records_the_training_of_a_real_library(client, spool, tmp_path, program, run_id, launcher, devices):
    """Two epochs of eight sequences of six tokens, two at a time, with validation and a checkpoint in each."""
    script = tmp_path / "train.py"
    script.write_text(f"OUT = {str(tmp_path / 'out')!r}\n" + textwrap.dedent(program))
    command = [sys.executable, *launcher, str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    run, facts = client.run(run_id), client.facts(run_id)
    assert run.state is RunState.COMPLETE, done.stderr
    assert [device.id for device in run.devices] == devices
    assert facts.tokens == 2 * 8 * 6
    phases = [phase for device in facts.devices for phase in device.phases]
    assert sum(phase.steps for phase in phases) == 8
    assert {"startup", "step", "checkpoint"} <= {phase.kind for phase in phases}
    ledger = client.score(run_id).ledger
    assert ledger.balanced
    assert all(ledger.seconds[name] > 0 for name in ("compute", "input_stall", "checkpoint", "startup"))
