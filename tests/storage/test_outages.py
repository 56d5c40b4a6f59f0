"""The store when its database is slow, cut off, or silent about a success; and who keeps leases meanwhile."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

import storage.store
from search.candidates import Measurement, Outcome
from search.errors import DatabaseAway, NetsieveError, Stopped
from search.run import News
from search.samplers import RejectionSampler
from search.settings import Recipe, SearchSettings
from search.sieve import judge_with
from search.space import CLASSIC
from storage import postgres, queries
from storage.engine import open_for_writing
from storage.renewal import Renewal
from storage.schema import coordinator, lease
from storage.store import SqlStore
from tests.databases import PostgresServer, admin
from tests.stored import candidates

ROOT = Path(__file__).parents[2]
SETTINGS = SearchSettings(CLASSIC, "rejection", 1, 0, "digits", "00", Recipe(), "cpu")
COMPLETED = Outcome((Measurement(1, 1.0, 0.9, 0.75),), 3.5)
judge = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_for_writing(database_url)
    yield engine
    engine.dispose()


def joined(engine: Engine, lease_s: float = 60.0) -> SqlStore:
    store = SqlStore.open(engine, "first", SETTINGS, 100, lease_s)
    store.join()
    return store


def everything(engine: Engine) -> list[queries.CandidateRow]:
    with engine.connect() as connection:
        return candidates(connection, 1)


# ------------------------------------------------------------------ a success that nobody heard of


def silence_the_next_commit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database commits, and the connection is cut before its answer arrives."""
    commit = engine.dialect.do_commit

    def cut(connection: Any) -> None:
        commit(connection)
        monkeypatch.undo()
        raise engine.dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(engine.dialect, "do_commit", cut)


def test_what_was_committed_in_silence_counts_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing, claiming and recording, each repeated after such a commit: the rows of an undisturbed search."""
    store = joined(engine)
    silence_the_next_commit(engine, monkeypatch)
    with pytest.raises(NetsieveError):
        store.extend(60, judge)
    assert store.extend(40, judge) == 0
    silence_the_next_commit(engine, monkeypatch)
    with pytest.raises(NetsieveError):
        store.claim(10, ())
    tasks = [replace(t, attempt=1, begun=1) for t in store.claim(10, ()).tasks]
    assert {task.lease for task in tasks} == {1}
    store.record(News(dispatched=tasks))
    news = News(started=tasks, outcomes=[(task, COMPLETED) for task in tasks])
    silence_the_next_commit(engine, monkeypatch)
    with pytest.raises(NetsieveError):
        store.record(news)
    counts = store.record(news).counts
    assert (counts.drawn, counts.completed) == (100, 10)
    assert sum(row.status == "completed" for row in everything(engine)) == 10
    assert {row.attempts for row in everything(engine) if row.status == "completed"} == {1}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_connection_that_is_cut_while_rows_are_copied_leaves_none(
    moment: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after COPY, in the middle of the transaction: DatabaseAway, no row, and the next try draws all."""
    engine = open_for_writing(postgres_url)
    store = joined(engine)
    insert = storage.store.insert_candidates

    def cut(connection: sa.Connection, rows: Any) -> None:
        monkeypatch.undo()
        if moment == "after":
            insert(connection, rows)
        pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
        admin(postgres_url, f"SELECT pg_terminate_backend({pid})")
        insert(connection, rows)

    monkeypatch.setattr(storage.store, "insert_candidates", cut)
    with pytest.raises((DatabaseAway, Stopped)) as caught:
        store.extend(100, judge)
    assert isinstance(caught.value, DatabaseAway), caught.value
    assert everything(engine) == []
    assert store.extend(100, judge) == 0
    engine.dispose()


def test_a_lock_that_copying_meets_can_be_waited_for(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """COPY is the driver's own call; its errors are told like all others, also on a connection that lives on."""
    monkeypatch.setitem(postgres.WRITER_LIMITS, "lock_timeout", "100ms")
    engine, other = open_for_writing(postgres_url), open_for_writing(postgres_url)
    store = joined(engine)
    with other.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE candidate IN SHARE MODE")  # as CREATE INDEX does
        with pytest.raises(DatabaseAway, match="lock timeout"):
            store.extend(100, judge)
    assert everything(engine) == []
    assert store.extend(100, judge) == 0
    other.dispose()
    engine.dispose()


def test_a_server_that_only_reads_since_a_failover_is_waited_for(postgres_server: PostgresServer) -> None:
    """Until it writes again, or the outage's limit."""
    url = postgres_server.new_database()
    engine = open_for_writing(url)
    store = joined(engine)
    setting = f"ALTER DATABASE {sa.make_url(url).database} SET default_transaction_read_only = "
    admin(postgres_server.get_uri(), setting + "on")
    engine.dispose()  # new connections see it
    with pytest.raises(DatabaseAway, match="read-only transaction; the server only reads, as after a failover"):
        store.extend(100, judge)
    admin(postgres_server.get_uri(), setting + "off")
    engine.dispose()
    assert store.extend(100, judge) == 0
    engine.dispose()


# ------------------------------------------------------------------ leases


def test_leases_are_kept_while_the_database_is_slow(engine: Engine) -> None:
    """Statements that take a twentieth of a lease each, and a main thread that waits: nobody takes anything over."""
    store = joined(engine, lease_s=2.0)
    store.extend(100, judge)
    held = store.claim(10, ()).tasks
    with engine.begin() as connection:
        connection.execute(coordinator.update().values(host="elsewhere"))
    other = joined(engine)
    sa.event.listen(engine, "before_cursor_execute", lambda *_: time.sleep(0.1))
    with Renewal(store) as renewal:
        for _ in range(4):
            time.sleep(1.0)
            assert not {task.index for task in other.claim(1000, ()).tasks} & {task.index for task in held}
    renewal._thread.join()  # it may be in the middle of a renewal, with a connection of the engine


class Failing:
    """Leases whose renewal fails at first."""

    lease_s = 0.3

    def __init__(self) -> None:
        self.tries = 0

    def renew(self) -> None:
        self.tries += 1
        if self.tries < 4:
            raise DatabaseAway("away")


def test_a_renewal_that_fails_is_tried_again() -> None:
    """The thread survives what the database does, and ends with its context."""
    store = Failing()
    with Renewal(store):
        deadline = time.monotonic() + 10
        while store.tries < 6 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert store.tries >= 6
    tries = store.tries
    time.sleep(0.3)
    assert store.tries == tries


# ------------------------------------------------------------------ clocks


CLOCKS: list[Callable[[str], bool]] = [
    lambda text: "datetime.now" in text,
    lambda text: "time.time(" in text,
    lambda text: "utcnow" in text,
]


def test_no_clock_but_the_databases_decides() -> None:
    """A host whose clock is an hour off has no say: nothing that is stored or compared comes from it."""
    for path in [*(ROOT / "storage").rglob("*.py"), ROOT / "search/run.py", ROOT / "search/coordinator.py"]:
        assert not any(clock(path.read_text()) for clock in CLOCKS), path


def test_a_jump_of_the_databases_clock_changes_nothing_that_is_recorded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour ahead all leases expire and are taken over; an hour back nobody is locked out for longer than a lease."""
    first = joined(engine)
    first.extend(100, judge)
    task = replace(first.claim(10, ()).tasks[0], attempt=1, begun=1)
    with engine.begin() as connection:
        connection.execute(coordinator.update().values(host="elsewhere"))
    now = queries.now
    second = joined(engine)
    jump = queries.timedelta(hours=1)
    monkeypatch.setattr(queries, "now", lambda connection: now(connection) + jump)
    taken = second.claim(1000, ()).tasks
    assert task.index in {task.index for task in taken}
    assert first.record(News(outcomes=[(task, COMPLETED)])).lost == {task.lease}
    monkeypatch.setattr(queries, "now", now)
    second.renew()
    with engine.connect() as connection:
        latest = connection.scalar(sa.select(sa.func.max(lease.c.expires_at)))
        assert latest is not None
        assert latest - now(connection) <= queries.timedelta(seconds=61)


@pytest.mark.parametrize("year", [1970, 9000])
def test_a_clock_that_is_far_off_keeps_leases_all_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    """Only differences count: a lease of that clock is held, renewed, and taken over once it has expired."""
    moment = datetime(year, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(queries, "now", lambda connection: moment)
    first, second = joined(engine), joined(engine)
    first.extend(100, judge)
    held = {task.index for task in first.claim(10, ()).tasks}
    with engine.begin() as connection:
        connection.execute(coordinator.update().values(host="elsewhere"))
    moment += timedelta(seconds=59)
    first.renew()
    moment += timedelta(seconds=59)
    assert not held & {task.index for task in second.claim(1000, ()).tasks}
    moment += timedelta(seconds=2)
    assert held == {task.index for task in second.claim(1000, ()).tasks} & held
