"""`tokenstone db` beside a running service: backup, restore, prune, upgrade and downgrade, on both databases."""

import json
import os
import sys
import threading

import pytest

from cli.main import main
from tokenstone.client import Client

pytestmark = pytest.mark.slow


@pytest.fixture
def db(database, request, monkeypatch, capsys):
    """Run `tokenstone db ... --json` on the test's database: (exit code, document or None, stderr)."""

    def run(*arguments: str, programs: bool = True):
        if not database.startswith("sqlite"):
            folder = request.getfixturevalue("postgresql").programs
            monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}" if programs else "/nowhere")
        monkeypatch.setattr(sys, "argv", ["tokenstone", "db", *arguments, "--database", database, "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        out, complaint = capsys.readouterr()
        return ended.value.code, json.loads(out) if out else None, complaint

    return run


def starts(url: str) -> list[float]:
    with Client(url) as client:
        return [row.start_unix_seconds for row in client.windows()]


def test_a_backup_under_ingest_is_one_moment_and_can_be_restored(service, database, db, tmp_path, big_batch, packed):
    process, url = service(database)
    stop, pushed = threading.Event(), []

    def push() -> None:
        with Client(url) as client:
            while not stop.is_set():
                number = len(pushed)
                client.push_windows(packed(big_batch(100, start=1.7e9 + 100 * number, sequence=number)))
                pushed.append(number)

    pusher = threading.Thread(target=push)
    pusher.start()
    while len(pushed) < 20:
        pass
    before = len(pushed)
    file = tmp_path / "backup"
    code, told, stderr = db("backup", str(file))
    after = len(pushed) + 1
    stop.set()
    pusher.join()
    assert code == 0, stderr
    assert told["bytes"] == file.stat().st_size
    assert "backup: done" in stderr
    code, _, stderr = db("backup", str(file))
    assert (code, "there already" in stderr) == (1, True)

    process.terminate()
    process.wait(20)
    code, _, stderr = db("restore", str(file))
    assert (code, "--replace" in stderr) == (1, True)
    diary = tmp_path / "diary"
    diary.write_text("my holidays")
    code, _, stderr = db("restore", str(diary), "--replace")
    assert code in {1, 2}
    code, told, stderr = db("restore", str(file), "--replace")
    assert code == 0, stderr
    assert told["schema"] == told["schema_before"]
    restored = starts(service(database)[1])
    assert restored == [1.7e9 + i for i in range(len(restored))]
    assert len(restored) % 100 == 0
    assert before * 100 <= len(restored) <= after * 100


@pytest.mark.only("postgresql")
def test_a_program_that_is_missing_is_named(db, database, tmp_path):
    code, _, stderr = db("backup", str(tmp_path / "backup"), programs=False)
    assert code == 1
    assert "pg_dump is not installed" in stderr
    assert "postgresql-client" in stderr


def test_pruning_beside_the_service(service, database, db, big_batch, packed):
    _, url = service(database)
    with Client(url) as client:
        client.push_windows(packed(big_batch(100)))
    # The service asks for a minute of quiet before it rolls an hour up; there is nothing to forget until then.
    code, told, stderr = db("prune", "--keep-days", "1")
    assert code == 0, stderr
    assert told["windows_forgotten"] == 0
    assert len(starts(url)) == 100


def test_the_schema_goes_down_and_up(service, database, db):
    process, _ = service(database)
    if database.startswith("sqlite"):
        code, _, stderr = db("downgrade", "0001")
        assert (code, "another service" in stderr) == (1, True)
    process.terminate()
    process.wait(20)
    code, told, stderr = db("downgrade", "0001")
    assert (code, told["schema"]) == (0, "0001"), stderr
    assert db("downgrade", "nonsense")[0] == 2
    code, again, _ = db("upgrade")
    assert (again["schema_before"], again["schema"]) == ("0001", told["schema_before"])
