"""What an operator can get wrong: every case is one line that says what, where and what to do."""

import errno
import os
import socket
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from deploy_support import USER, needs_another_user

from api.main import create_app
from api.settings import Settings, load_settings
from api.store.engine import connect, open_store
from collector.batch import Origin
from collector.spool import Spool
from tokenstone.errors import InvalidFile, InvalidValue, NotWritable, StoreDamaged, StoreUnavailable

URL = "postgresql://tokenstone@db:5433/tokenstone?sslmode=require"


def test_an_occupied_port_is_named(tokenstone, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = tokenstone("serve", "--port", str(port), "--data", str(tmp_path))
    assert code == 1
    assert f"127.0.0.1:{port}: another program listens there (choose another --port" in err


@contextmanager
def as_in_a_container():
    """Have the rights of the images' user while the block runs."""
    os.setegid(USER)
    os.seteuid(USER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def place():
    """A folder that everybody may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="tokenstone-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@needs_another_user
@pytest.mark.parametrize(
    "use",
    [lambda folder: create_app(Settings(data=folder)), lambda folder: Spool(folder, 10**6, Origin("c", "n", "e"))],
    ids=["service", "agent"],
)
def test_a_volume_of_another_owner_is_named_with_the_command_that_helps(use, place):
    # A volume that root made, under a container that runs as 10001: the most frequent of all mistakes.
    (place / "volume").mkdir(mode=0o755)
    with as_in_a_container(), pytest.raises(NotWritable) as caught:
        use(place / "volume")
    assert str(place / "volume") in caught.value.where
    assert "Permission denied" in caught.value.what
    assert "user 10001, as whom this runs, must own the folder: chown -R 10001" in caught.value.hint


def test_a_folder_on_a_read_only_file_system_asks_for_a_volume():
    error = OSError(errno.EROFS, "Read-only file system")
    told = NotWritable.of("the spool cannot be written", error, where="/spool", otherwise="choose another")
    assert str(told) == (
        "/spool: the spool cannot be written: Read-only file system "
        "(mount a volume there that can be written, or choose another)"
    )


@pytest.fixture
def old(tmp_path):
    """A database of the present schema, closed: its URL and its file."""
    file = tmp_path / "tokenstone.db"
    store = connect(f"sqlite:///{file}")
    store.upgrade()
    store.close()
    return f"sqlite:///{file}", file


def schema(file: Path) -> str:
    with closing(sqlite3.connect(file)) as database:
        [(revision,)] = database.execute("SELECT version_num FROM alembic_version")
    return revision


def test_a_database_of_a_newer_version_is_refused_and_left_alone(old):
    url, file = old
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreDamaged, match=r"'9999', which this Tokenstone does not know \(.*upgrade Tokenstone"):
        open_store(url)
    assert schema(file) == "9999"


def test_a_database_of_an_older_version_is_brought_up_to_date_at_start(old):
    url, file = old
    store = connect(url)
    head, _ = store.downgrade("0001")
    store.close()
    assert schema(file) == "0001"
    open_store(url).close()
    assert schema(file) == head


def test_a_password_in_a_file_goes_into_the_url(tmp_path):
    file = tmp_path / "password"
    file.write_text("p@ss/w:rd\n")
    settings = load_settings(database=URL, database_password_file=file)
    assert settings.database_url == "postgresql://tokenstone:p%40ss%2Fw%3Ard@db:5433/tokenstone?sslmode=require"
    assert "p@ss" not in repr(settings)
    other = "postgresql://u:own@db/n"
    assert load_settings(database=other, database_password_file=file).database_url == other


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"database_password_file": "/nowhere"}, "no file '/nowhere'"),
        ({"database": None}, "SQLite has none"),
        ({"database": "postgresql://db/tokenstone"}, "name the user"),
    ],
)
def test_a_password_that_helps_nobody_is_refused(given, advice, tmp_path):
    (tmp_path / "password").write_text("x")
    with pytest.raises(InvalidValue, match=advice):
        _ = load_settings(**{"database": URL, "database_password_file": tmp_path / "password"} | given).database_url


def test_an_empty_password_is_refused(tmp_path):
    (tmp_path / "password").write_text("\n")
    with pytest.raises(InvalidFile, match="is empty"):
        _ = load_settings(database=URL, database_password_file=tmp_path / "password").database_url


@needs_another_user
def test_a_password_that_others_may_not_read_says_who_must(place):
    (place / "password").write_text("secret")
    (place / "password").chmod(0o600)
    settings = load_settings(database=URL, database_password_file=place / "password")
    with (
        as_in_a_container(),
        pytest.raises(InvalidFile, match="user 10001, as whom this runs, must be able to read it"),
    ):
        _ = settings.database_url


def test_a_database_that_is_away_says_where_it_should_be():
    with pytest.raises(StoreUnavailable, match=r"tokenstone@127\.0\.0\.1:9/tokenstone: .* \(check the URL and that"):
        open_store("postgresql://tokenstone@127.0.0.1:9/tokenstone")
