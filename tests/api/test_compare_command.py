"""`tokenstone compare` and `report` against a real service: runs, clusters, and what is not there."""

import copy
import json

import pytest
from typer.testing import CliRunner

from api import examples
from cli.main import app
from tokenstone.client import Client
from tokenstone.errors import TokenstoneError
from tokenstone.run import RunState
from tokenstone.wire import PriceChoice, RunChange, RunCreate, TrainingFacts


def fill(url: str) -> None:
    """Four priced runs on each of two clusters, and one that never ended."""
    with Client(url) as client:
        for cluster, tokens in (("lab-a", 2000), ("lab-b", 2500)):
            for number in range(5):
                run_id = f"{cluster}-{number}"
                client.create_run(
                    RunCreate.model_validate(
                        examples.RUN | {"run_id": run_id, "cluster": cluster, "lease_seconds": 3600}
                    )
                )
                client.change_run(run_id, RunChange(state=RunState.RUNNING))
                if number < 4:
                    told = copy.deepcopy(examples.FACTS) | {"tokens": tokens + number}
                    client.put_facts(run_id, TrainingFacts.model_validate(told))
                    client.score_run(run_id, PriceChoice(usd_per_device_hour=2.0))


@pytest.mark.slow
def test_clusters_and_runs_of_a_service_are_compared_and_reported(service, tmp_path):
    _, url = service()
    fill(url)

    def ask(*arguments):
        found = CliRunner().invoke(app, [*arguments, "--api", url])
        assert found.exit_code == 0, (found.output, found.exception)
        return found.stdout

    found = json.loads(ask("compare", "lab-a", "lab-b", "--json"))
    assert found["verdict"]["answer"] == "b_cheaper"
    assert found["verdict"]["change_ratio"] == pytest.approx(-0.2, abs=0.01)
    assert [out["run_id"] for out in found["b"]["left_out"]] == ["lab-b-4"]
    with Client(url) as client:
        runs = [[f"lab-{name}-{i}" for i in range(4)] for name in "ab"]
        assert client.compare(*runs).verdict.change_ratio == pytest.approx(found["verdict"]["change_ratio"])
    assert "No verdict" in ask("compare", "lab-a-0,lab-a-1", "published:deepseek-v3-training")
    assert "Tokenstone · lab-a" in ask("report", "--cluster", "lab-a")
    for ending in ("md", "html"):
        ask("report", "--cluster", "lab-a", "-o", str(tmp_path / f"c.{ending}"))
        assert (tmp_path / f"c.{ending}").stat().st_size > 500
    assert "SCORE" in ask("report", "lab-a-0")
    for wrong, said in ((["compare", "nobody", "lab-a"], "neither a run nor a cluster"),
                        (["compare", "lab-a-0,nobody", "lab-b"], "no run 'nobody'"),
                        (["compare", "lab-a-4", "lab-b"], "it is running")):  # fmt: skip
        error = CliRunner().invoke(app, [*wrong, "--api", url]).exception
        assert isinstance(error, TokenstoneError)
        assert said in str(error)
