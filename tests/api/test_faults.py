"""What may break under a running service, with real processes: what was acknowledged is there, once."""

import itertools
import os
import signal
import subprocess
import sys
import threading

import httpx
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

from api.housekeeping import keep_house
from api.store.engine import connect
from api.store.migrate import MIGRATIONS
from tokenstone.client import Client
from tokenstone.errors import ServiceRefused, ServiceUnreachable, StoreUnavailable

pytestmark = pytest.mark.slow
ROWS = 50
T0 = 1.7e9


@pytest.fixture
def pusher(big_batch, packed):
    """Push batches one after the other, whatever happens; know which of them were acknowledged."""

    class Pusher:
        def __init__(self) -> None:
            self.acknowledged: list[int] = []
            self.refused: list[ServiceRefused] = []
            self._numbers = itertools.count()

        def body(self, number: int, rows: int = ROWS) -> bytes:
            return packed(big_batch(rows, start=T0 + number * rows, sequence=number))

        def push(self, client: Client, rows: int = ROWS) -> None:
            number = next(self._numbers)
            client.push_windows(self.body(number, rows))
            self.acknowledged.append(number)

        def push_for_ever(self, client: Client, reached, then, rows: int = ROWS) -> None:
            while True:
                self.push(client, rows)
                if reached():
                    threading.Thread(target=then).start()

        def push_until(self, url: str, done) -> None:
            """Push, and push again what was not acknowledged, until `done`."""
            with Client(url, timeout=20) as client:
                while not done():
                    number = next(self._numbers)
                    while True:
                        try:
                            client.push_windows(self.body(number))
                            break
                        except ServiceRefused as error:
                            self.refused.append(error)
                    self.acknowledged.append(number)

        def check(self, url: str, rows: int = ROWS) -> None:
            """Every acknowledged batch is there, whole and once; none is there by halves."""
            with Client(url) as client:
                starts = [row.start_unix_seconds for row in client.windows()]
                again = [client.push_windows(self.body(number, rows)).status for number in self.acknowledged[-20:]]
            assert set(again) == {"duplicate"}
            assert len(set(starts)) == len(starts)
            assert {T0 + n * rows + i for n in self.acknowledged for i in range(rows)} <= set(starts)
            assert len(starts) % rows == 0

    return Pusher()


def test_a_killed_service_has_lost_nothing_that_it_acknowledged(service, database, pusher):
    """Killed three times in the midst of ingest."""
    for _ in range(3):
        process, url = service(database)
        before = len(pusher.acknowledged)
        with Client(url) as client, pytest.raises(ServiceUnreachable):
            pusher.push_for_ever(client, lambda before=before: len(pusher.acknowledged) == before + 20, process.kill)
        process.wait(10)
    assert len(pusher.acknowledged) >= 60
    pusher.check(service(database)[1])


def test_a_restart_of_postgresql_loses_nothing(service, postgresql, pusher):
    _, url = service(postgresql.new_database())
    ended = threading.Event()
    thread = threading.Thread(target=pusher.push_until, args=(url, ended.is_set))
    thread.start()

    def push_more() -> None:
        reached = len(pusher.acknowledged) + 20
        while len(pusher.acknowledged) < reached:
            pass

    push_more()
    postgresql.stop()
    answer = httpx.get(f"{url}/readyz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    assert httpx.get(f"{url}/healthz").status_code == 200
    postgresql.start()
    push_more()
    ended.set()
    thread.join(30)
    assert {error.status for error in pusher.refused} == {503}
    pusher.check(url)


def test_a_full_disk_is_told_and_over_when_there_is_room(service, tmp_path, pusher):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs root and the right to mount")
    try:
        process, url = service(f"sqlite:///{folder}/tokenstone.db")
        with Client(url) as client:
            with pytest.raises(ServiceRefused) as caught:
                pusher.push_for_ever(client, lambda: False, None, rows=500)
            assert caught.value.status == 507
            assert "full" in caught.value.what
            assert httpx.get(f"{url}/v1/windows").status_code == 200
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
            for _ in range(5):
                pusher.push(client, 500)
        pusher.check(url, 500)
        process.kill()
        process.wait(10)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_two_services_on_one_sqlite_file_refuse(service, data, pusher):
    first, url = service()
    second = subprocess.run(
        [sys.executable, "-m", "cli", "serve", "--port", "0", "--data", str(data)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert second.stderr.startswith("tokenstone: ")
    assert "another service" in second.stderr
    with Client(url) as client:
        pusher.push(client)
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    pusher.check(service()[1])  # the dead hold nothing


def test_a_slow_reader_blocks_neither_ingest_nor_housekeeping(service, database, pusher):
    _, url = service(database)
    store = connect(database)
    with Client(url) as client:
        pusher.push(client)
        with store.reading() as reader:
            assert reader.execute(text("SELECT count(*) FROM windows")).scalar() == ROWS
            for _ in range(20):
                pusher.push(client)
            try:
                keep_house(store, keep_days=1, now=T0 + 30 * 86_400, stop=threading.Event())
            except StoreUnavailable:
                assert not store.is_sqlite  # a partition is dropped when its readers have gone
            for _ in range(20):
                pusher.push(client)
            assert reader.execute(text("SELECT count(*) FROM windows")).scalar() in {ROWS, 41 * ROWS}
    store.close()


UPGRADE = """
import sys
from api.store.engine import connect
import alembic.op
create = alembic.op.create_table
def create_table(name, *args, **kwargs):
    create(name, *args, **kwargs)
    if name == "hours":
        print("midway", flush=True)
        sys.stdin.read()
alembic.op.create_table = create_table
connect(sys.argv[1]).upgrade()
"""


def to(store, revision: str) -> None:
    with store.writing() as session:
        config = Config(attributes={"connection": session.connection()})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, revision)


@pytest.fixture
def old_store(database, request):
    """A database of the first schema, with data."""
    if not database.startswith("sqlite"):
        database = request.getfixturevalue("postgresql").new_database(empty=True)
    store = connect(database)
    to(store, "0001")
    with store.writing() as session:
        for statement in (
            "INSERT INTO nodes VALUES (1, 'default', 'n', 1)",
            "INSERT INTO series VALUES (1, 1, 'accel_busy_ratio', 'GPU-0', '{}')",
            *(f"INSERT INTO windows VALUES (1, {T0 + 3601.7 * i}, 10, 10, 0.5, 0.1, 1, NULL)" for i in range(60)),  # noqa: S608
            "INSERT INTO runs VALUES (1, 'r', 'default', 's', '{}', '[]', 'complete', '', 60, 1, 1, 1, 1)",
            'INSERT INTO facts VALUES (1, 1, \'{"started_unix_seconds": 1700000000.5, "allocated_seconds": 100.0}\')',
        ):
            session.connection().exec_driver_sql(statement)
    yield store
    store.close()


def everything(store) -> list:
    with store.reading() as session:
        windows = session.execute(text("SELECT * FROM windows ORDER BY series_id, start_unix_seconds")).all()
        return [tuple(row) for row in windows]


def test_data_goes_up_and_down_through_the_schemas(old_store):
    before = everything(old_store)
    old_store.upgrade()
    assert everything(old_store) == before
    with old_store.reading() as session:
        run = session.execute(text("SELECT started_unix_seconds, ended_unix_seconds FROM facts")).one()
        assert tuple(run) == (1700000000.5, 1700000100.5)
        pending = session.execute(text("SELECT start_unix_seconds FROM pending_hours ORDER BY 1")).scalars().all()
        assert pending == [(T0 + 3601.7 * i) // 3600 * 3600 for i in range(60)]
    keep_house(old_store, keep_days=1, now=T0 + 10 * 86_400, stop=threading.Event())
    everything_kept = everything(old_store)
    assert len(everything_kept) < len(before)
    with old_store.writing() as session:  # as if they were of a run
        session.connection().exec_driver_sql("INSERT INTO run_windows VALUES (1, 5, 10, 10, 0.5, 0.1, 1, NULL)")
    head = old_store.upgrade()[1]
    assert old_store.downgrade("0001") == (head, "0001")
    assert everything(old_store) == [(1, 5, 10, 10, 0.5, 0.1, 1, None), *everything_kept]
    old_store.upgrade()


def test_an_upgrade_that_is_killed_has_not_begun_and_runs_again(old_store):
    before = everything(old_store)
    url = old_store.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, "-c", UPGRADE, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "midway\n"
        process.kill()
    assert "hours" not in old_store.table_names()
    with old_store.reading() as session:
        assert session.execute(text("SELECT version_num FROM alembic_version")).scalar() == "0001"
    old_store.upgrade()
    assert everything(old_store) == before
    with old_store.reading() as session:
        assert "windows_before" not in inspect(session.connection()).get_table_names()
