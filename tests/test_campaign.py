"""Killed anywhere, a search goes on to the exact table: every commit, single statements, and a storm of signals.

The storm is a small one; ``python -m tests.campaign`` is the large one, whose results are in tests/README.md.
"""

import itertools
import multiprocessing
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from search.run import Run, StopRequest
from search.settings import Limits
from storage.engine import open_for_writing
from storage.schema import coordinator
from storage.store import SqlStore
from tests import campaign
from tests.campaign import SETTINGS, Faults, Log, Trainer, coordinate, expected, found, judge
from tests.databases import PostgresServer, admin
from workers.executors import InProcessExecutor

DRAWS = 60
NO_PROCESS = 2**22 + 1  # a process id that none can have


class WatchedStore(SqlStore):
    """Calls back after each commit."""

    on_commit: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with super()._transaction() as connection:
            yield connection
        self.on_commit()


def search(url: str, log: Path, on_commit: Callable[[], None] = lambda: None) -> None:
    """Run the search to its end, or from where it is; time passes quickly."""
    engine = open_for_writing(url)
    with engine.begin() as connection:  # whoever worked on it is gone
        connection.execute(coordinator.update().values(pid=NO_PROCESS))
    store = WatchedStore.open(engine, "campaign", SETTINGS, DRAWS)
    store.on_commit = on_commit  # type: ignore[attr-defined]
    store.join()
    ticks = itertools.count()
    executor = InProcessExecutor(Trainer(Log(log), 0.0))
    limits, stop = Limits(candidates=DRAWS), StopRequest()
    assert Run(store, executor, judge, limits, stop, clock=lambda: 0.05 * next(ticks))() is None  # type: ignore[attr-defined]
    store.leave(None)
    engine.dispose()


def require_exact(url: str, log: Path) -> None:
    assert found(url) == (expected(DRAWS), [])
    assert campaign.repeated(log) == (0, 0)


def trained_so_far(log: Path) -> str:
    return log.read_text() if log.exists() else ""


# ------------------------------------------------------------------ every commit


def test_sqlite_goes_on_from_every_commit(tmp_path: Path) -> None:
    """A copy of the database after each commit of a search, gone on with: always the table of the whole."""
    whole, log = tmp_path / "whole.db", tmp_path / "log"
    copies: list[Path] = []

    def copy() -> None:
        copies.append(tmp_path / f"{len(copies)}.db")
        with closing(sqlite3.connect(whole)) as source, closing(sqlite3.connect(copies[-1])) as target:
            source.backup(target)
        copies[-1].with_suffix(".log").write_text(trained_so_far(log))

    search(f"sqlite:///{whole}", log, copy)
    require_exact(f"sqlite:///{whole}", log)
    assert len(copies) >= 20
    for snapshot in copies:
        search(f"sqlite:///{snapshot}", snapshot.with_suffix(".log"))
        require_exact(f"sqlite:///{snapshot}", snapshot.with_suffix(".log"))


def test_postgres_goes_on_from_every_commit(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """The same; copies are databases made from the first as a template."""
    whole, log = postgres_server.new_database(), tmp_path / "log"
    copies: list[str] = []

    def copy() -> None:
        copies.append(f"copy_{len(copies)}")
        name = sa.make_url(whole).database
        everyone = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        admin(postgres_server.get_uri(), everyone, f"CREATE DATABASE {copies[-1]} TEMPLATE {name}")
        (tmp_path / copies[-1]).write_text(trained_so_far(log))

    search(whole, log, copy)
    require_exact(whole, log)
    assert len(copies) >= 20
    for name in copies:
        search(postgres_server.get_uri(name), tmp_path / name)
        require_exact(postgres_server.get_uri(name), tmp_path / name)
        admin(postgres_server.get_uri(), f"DROP DATABASE {name}")


# ------------------------------------------------------------------ single statements


@pytest.mark.parametrize("number", [1, 2, 5, 12, 13, 14, 20, 25, 26, 27, 31, 40, 41, 42, 55, 70, 71, 85, 100, 130, 160])
def test_a_kill_between_any_two_statements_leaves_all_or_nothing(
    number: int, tmp_path: Path, database_url: str
) -> None:
    """Kill -9 before or after it, or before a commit, of a new database's first run: its migration included."""
    log = tmp_path / "log"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([campaign.__name__])
    process = context.Process(target=coordinate, args=(database_url, DRAWS, log, number, 0.0))
    process.start()
    process.join()
    assert process.exitcode == -9
    search(database_url, log)
    require_exact(database_url, log)


# ------------------------------------------------------------------ a power cut


@pytest.mark.parametrize("share", [0.6, 0.8, 0.97])
def test_a_log_that_ends_anywhere_is_a_state_that_there_was(share: float, tmp_path: Path) -> None:
    """A file and its write-ahead log copied while the search runs, the log cut as a power cut may: it goes on."""
    whole, cut, log = tmp_path / "whole.db", tmp_path / "cut.db", tmp_path / "log"
    commits = itertools.count()

    def copy() -> None:
        if next(commits) == 15:
            shutil.copy(whole, cut)
            written = Path(f"{whole}-wal").read_bytes()
            Path(f"{cut}-wal").write_bytes(written[: int(len(written) * share)])

    search(f"sqlite:///{whole}", log, copy)
    search(f"sqlite:///{cut}", tmp_path / "cut.log")
    assert found(f"sqlite:///{cut}") == (expected(DRAWS), [])


# ------------------------------------------------------------------ a storm


@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_storm_of_signals_changes_nothing(database: str, request: pytest.FixtureRequest) -> None:
    """20 kills, 5 stops for longer than a lease and, of Postgres, 3 crashes: the exact table, nothing trained again."""
    server = request.getfixturevalue("postgres_server") if database == "postgres" else None
    result = campaign.campaign(database, Faults(kills=20, stops=5, crashes=3), seed=1, server=server)
    assert result.wrong == []
    assert (result.injected["kill"], result.injected["stop"]) == (20, 5)
    assert result.injected["crash"] == (3 if server else 0)
    assert result.trained > result.distinct  # something was lost on the way, and done again
