"""schemathesis against a real service: what it makes of the description must find no fault, with and without keys."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parent / "schemathesis.toml"
TOKENSTONE = [sys.executable, "-P", "-m", "cli"]


@pytest.mark.slow
@pytest.mark.parametrize("keys", ["--authentication", "--no-authentication"])
def test_schemathesis_finds_nothing(tmp_path, keys):
    pytest.importorskip("schemathesis")
    data = ["--data", str(tmp_path / "data")]
    serve = [*TOKENSTONE, "serve", "--json", "--port", "0", keys, *data]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=log, text=True) as service,
    ):
        try:
            url = service.stdout.readline().split('"')[3]
            create = [*TOKENSTONE, "key", "create", "--name", "test", "--scope", "admin", *data]
            key = subprocess.run(create, capture_output=True, text=True, check=True).stdout.strip()
            header = ["-H", f"Authorization: Bearer {key}"] if keys == "--authentication" else []
            found = subprocess.run(
                [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run",
                 f"{url}/openapi.json", *header, "--checks", "all", "--max-examples", "2", "--seed", "1",
                 "--phases", "examples,fuzzing,stateful", "--continue-on-failure", "--no-color",
                 "--generation-database", "none"],
                capture_output=True, text=True, cwd=tmp_path, check=False,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )  # fmt: skip
        finally:
            service.terminate()
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    assert "No issues found" in found.stdout or "passed" in found.stdout
    assert "internal error" not in (tmp_path / "log").read_text()
    assert key.split("_", 2)[2] not in (tmp_path / "log").read_text()
