"""Backups while the service runs: SQLite by its own online copy, PostgreSQL by pg_dump."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from api.store.engine import Store
from api.store.faults import translated
from tokenstone.errors import Conflict, InvalidFile, MissingTool, NotWritable, OperationError

PAGES_A_STEP = 2048
POLL_SECONDS = 0.2
Progress = Callable[[int, int | None], None]
"""Told bytes that are done, and bytes in all where that is known."""


def back_up(store: Store, file: Path, progress: Progress) -> int:
    """Write one moment of the database to `file`, whole or not at all; return its bytes.

    Raises Conflict where the file is there already, NotWritable, MissingTool and what the database says.
    """
    if file.exists():
        raise Conflict("the file is there already", where=str(file), hint="name another one, or remove it")
    with _written_whole(file) as partial:
        if store.is_sqlite:
            _copy_sqlite(store.file, partial, progress)
        else:
            _dump(store, partial, progress)
    return file.stat().st_size


def restore(store: Store, file: Path, progress: Progress, *, replace: bool) -> None:
    """Put a backup in the place of the database, whole or not at all. SQLite: no service may use it.

    Raises Conflict where the database holds something and `replace` is not said, InvalidFile, MissingTool.
    """
    if not file.is_file():
        raise InvalidFile("there is no such file", where=str(file), hint="name a file that `db backup` wrote")
    store.hold()
    if not replace and _holds_something(store):
        raise Conflict(
            "the database holds data, which a restore would lose",
            where=store.where,
            hint="say --replace if you mean it",
        )
    if store.is_sqlite:
        _check_backup(file)
        store.close_connections()
        with _written_whole(store.file) as partial:
            _copy_sqlite(file, partial, progress)
            for suffix in ("-wal", "-shm"):  # they belong to the database that goes
                store.file.with_name(store.file.name + suffix).unlink(missing_ok=True)
    else:
        _load(store, file, progress)


@contextmanager
def _written_whole(file: Path) -> Iterator[Path]:
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    except OSError as error:
        raise NotWritable(f"cannot write: {error.strerror}", where=str(file), hint="choose another place") from error
    finally:
        partial.unlink(missing_ok=True)


def _copy_sqlite(source: Path, target: Path, progress: Progress) -> None:
    with (
        translated(str(source)),
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, isolation_level=None)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        page_bytes = reading.execute("PRAGMA page_size").fetchone()[0]
        # One snapshot for the whole copy: without it, every write of the service would begin the copy anew.
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_master").fetchone()

        def tell(_status: int, left: int, total: int) -> None:
            progress((total - left) * page_bytes, total * page_bytes)

        reading.backup(writing, pages=PAGES_A_STEP, progress=tell, sleep=0)


def _check_backup(file: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            ours = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'").fetchone()[0]
    except sqlite3.Error as error:
        raise InvalidFile(f"not a backup: {error}", where=str(file), hint="name a file of `db backup`") from error
    if found != "ok" or not ours:
        what = f"the backup is damaged: {found}" if found != "ok" else "a database of another program"
        raise InvalidFile(what, where=str(file), hint="name a file that `db backup` wrote")


def _holds_something(store: Store) -> bool:
    tables = store.table_names()
    return "alembic_version" in tables


def _dump(store: Store, target: Path, progress: Progress) -> None:
    _run(store, ["pg_dump", "--format=custom", "--no-owner", f"--file={target}"], progress, target)


def _load(store: Store, file: Path, progress: Progress) -> None:
    """All in one transaction: the tables that are there go, those of the backup come.

    pg_restore's own --clean cannot drop the keys of partitions, so the tables are dropped by name.
    """
    _run(store, ["pg_restore", "--list", str(file)], lambda *_: None, None, connects=False)
    names = ", ".join(f'"{name}"' for name in store.table_names())
    drop = f"DROP TABLE IF EXISTS {names} CASCADE;\n" if names else ""
    restoring = subprocess.Popen(
        [_program(store, "pg_restore"), "--no-owner", "--file=-", str(file)], stdout=subprocess.PIPE
    )
    address, environment = _address(store)
    options = ["--quiet", "--no-psqlrc", "--single-transaction", "--set=ON_ERROR_STOP=1", "--output=/dev/null"]
    loading = subprocess.Popen(
        [_program(store, "psql"), f"--dbname={address}", *options],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    done = 0
    with restoring, loading:
        assert restoring.stdout is not None  # noqa: S101  asked for above
        assert loading.stdin is not None  # noqa: S101
        try:
            loading.stdin.write(drop.encode())
            while part := restoring.stdout.read(1 << 20):
                loading.stdin.write(part)
                done += len(part)
                progress(done, None)
            if restoring.wait():
                loading.kill()  # what came is not all, and the end of its input would make it commit
        except BrokenPipeError:
            restoring.kill()  # psql has ended with an error, and says which
        _, said = loading.communicate()
    if loading.returncode or restoring.returncode:
        raise _failure(store, "the restore", said.decode(errors="replace"), loading.returncode)


def _run(store: Store, command: list[str], progress: Progress, growing: Path | None, *, connects: bool = True) -> None:
    """Run a program of PostgreSQL's."""
    address, environment = _address(store)
    arguments = [_program(store, command[0]), *([f"--dbname={address}"] if connects else []), *command[1:]]
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None:
            progress(growing.stat().st_size if growing is not None and growing.exists() else 0, None)
            time.sleep(POLL_SECONDS)
        _, said = process.communicate()
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise _failure(store, command[0], said, process.returncode)


def _program(store: Store, name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MissingTool(
            f"{name} is not installed",
            where=store.where,
            hint="install PostgreSQL's client programs of the server's version (Debian: postgresql-client), or use "
            "what your database's operators use",
        )
    return found


def _address(store: Store) -> tuple[str, dict[str, str]]:
    """URL and environment for a program; the password goes by the environment, where `ps` shows it to nobody."""
    url = store.url.set(drivername="postgresql")
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    return url._replace(password=None).render_as_string(hide_password=False), environment


def _failure(store: Store, what: str, said: str, code: int) -> OperationError:
    reason = " / ".join(said.strip().splitlines()[:2]) or f"exit code {code}"
    return OperationError(f"{what} failed: {reason}", where=store.where, hint="nothing was changed")
