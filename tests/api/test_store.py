"""The database: made, upgraded, and refused where it is not one of ours."""

import sqlite3
from contextlib import closing

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from api.main import create_app
from api.settings import load_settings
from api.store import connect
from api.store.migrate import MIGRATIONS, upgrade
from api.store.tables import Base
from tokenstone.errors import InvalidValue, NotWritable, StoreDamaged


@pytest.fixture
def connection(tmp_path):
    made = create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    with made.begin() as connection:
        yield connection
    made.dispose()


def test_the_migrations_make_the_tables_that_the_code_knows(connection):
    upgrade(connection, "here")
    assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_migrations_can_be_taken_back(connection):
    upgrade(connection, "here")
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS))
    command.downgrade(config, "base")
    tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
    assert tables == ["alembic_version"]
    command.upgrade(config, "head")


def test_a_restart_keeps_everything(open_api, batch, end_run):
    api = open_api()
    api.post("/v1/windows", json=batch())
    end_run(api)
    paths = ("/v1/runs", "/v1/windows", "/v1/nodes", "/v1/runs/train-1/score", "/v1/runs/train-1/scores",
             "/v1/price-books")  # fmt: skip
    before = {path: api.get(path).json() for path in paths}
    api = open_api()
    assert {path: api.get(path).json() for path in paths} == before
    assert api.post("/v1/windows", json=batch()).json()["status"] == "duplicate"


@pytest.mark.only("sqlite")
def test_an_upgrade_that_is_interrupted_has_not_begun(open_api, data, monkeypatch):
    def die(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", die)
        with pytest.raises(KeyboardInterrupt):
            open_api()
    with closing(sqlite3.connect(data / "tokenstone.db")) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert open_api().get("/readyz").status_code == 200


def start(data, **settings) -> None:
    create_app(load_settings(data=data, **settings))


def test_a_file_that_is_no_database_is_left_alone(data):
    data.mkdir()
    file = data / "tokenstone.db"
    file.write_bytes(b"my holiday diary" * 1000)
    with pytest.raises(StoreDamaged, match="file is not a database") as caught:
        start(data)
    assert caught.value.hint
    assert file.read_bytes() == b"my holiday diary" * 1000


@pytest.mark.only("sqlite")
def test_a_damaged_database_is_told(open_api, data, big_batch):
    open_api().post("/v1/windows", json=big_batch(2000))
    open_api.end()
    with closing(sqlite3.connect(data / "tokenstone.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file = data / "tokenstone.db"
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = b"\x5a" * (len(content) - len(content) // 2)
    file.write_bytes(content)
    with pytest.raises(StoreDamaged, match="damaged"):
        start(data)


@pytest.mark.only("sqlite")
def test_damage_in_mid_flight_is_a_problem_document(open_api, data, problem):
    api = open_api()
    with closing(sqlite3.connect(data / "tokenstone.db")) as database:
        database.execute("DROP TABLE run_nodes")
        database.execute("DROP TABLE facts")
        database.execute("DROP TABLE evaluations")
        database.execute("DROP TABLE runs")
        database.commit()
    problem(api.get("/v1/runs"), 503)
    assert api.get("/healthz").status_code == 200


@pytest.mark.only("sqlite")
def test_a_database_of_a_newer_version_is_refused(open_api, data):
    open_api()
    open_api.end()
    with closing(sqlite3.connect(data / "tokenstone.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    with pytest.raises(StoreDamaged, match=r"'9999'.*newer version"):
        start(data)


def test_a_database_of_another_program_is_refused(data):
    data.mkdir()
    with closing(sqlite3.connect(data / "tokenstone.db")) as database:
        database.execute("CREATE TABLE invoices (id INTEGER)")
    with pytest.raises(StoreDamaged, match="another program"):
        start(data)
    with closing(sqlite3.connect(data / "tokenstone.db")) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("invoices",)]


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable, match="data folder") as caught:
        start(tmp_path / "file" / "data")
    assert str(tmp_path / "file" / "data") in str(caught.value)
    with pytest.raises(NotWritable, match=r"is a folder|Is a directory"):
        start(tmp_path / "data", database=f"sqlite:///{tmp_path}")
    with pytest.raises(NotWritable):
        start(tmp_path / "data", database=f"sqlite:///{tmp_path}/file/below.db")


@pytest.mark.only("sqlite")
def test_a_database_held_by_another_program_is_told(open_api, data, problem, monkeypatch, batch):
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.05)
    api = open_api()
    with closing(sqlite3.connect(data / "tokenstone.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = api.post("/v1/windows", json=batch())
        assert "another program" in problem(refused, 503)["detail"]
        assert refused.headers["Retry-After"]
        assert api.get("/v1/windows").json()["items"] == []
    assert api.post("/v1/windows", json=batch()).json()["status"] == "accepted"


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", "sqlite://", "sqlite:///:memory:", "://", "sqlite:x"])
def test_a_url_that_makes_no_sense_is_refused(data, url):
    with pytest.raises(InvalidValue) as caught:
        start(data, database=url)
    assert caught.value.where == "--database"


def test_a_password_is_never_shown(data):
    settings = load_settings(data=data, database="nonsense:swordfish")
    assert "swordfish" not in repr(settings)
    with pytest.raises(InvalidValue) as caught:
        create_app(settings)
    assert "swordfish" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("port", 70000), ("port", "http"), ("max_body_bytes", 0), ("host", ""), ("database", "")]
)
def test_settings_that_make_no_sense_are_named(name, value, monkeypatch):
    monkeypatch.setenv(f"TOKENSTONE_{name.upper()}", str(value))
    with pytest.raises(InvalidValue, match=f"TOKENSTONE_{name.upper()}"):
        load_settings()


def test_an_argument_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("TOKENSTONE_PORT", "1")
    assert (load_settings().port, load_settings(port=2).port, load_settings(port=None).port) == (1, 2, 1)
