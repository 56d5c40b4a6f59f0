"""What netsieve watch reads: who is at work, with what; on both databases, and without a scan."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from search.candidates import FailureReason, Interruption, Outcome
from search.errors import DatabaseLost
from search.run import News
from storage import maintenance, queries, watching
from storage.engine import open_for_reading, open_for_writing
from storage.queries import State
from storage.store import SqlStore
from storage.watching import View
from tests.filled import SETTINGS, fill


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database with two searches; ``filled`` is stopped, with 8 open candidates."""
    engine = open_for_writing(database_url)
    fill(engine, draws=120, still_open=8)
    fill(engine, "other", draws=9, still_open=1)
    yield engine
    engine.dispose()


def look(url: str, search_id: int = 1) -> View:
    with open_for_reading(url).connect() as connection:
        return watching.view(connection, search_id)


def at_work(engine: Engine) -> SqlStore:
    """This process, at work on the search: it has claimed 5, and dispatched 3, of which one failed."""
    store = SqlStore.open(engine, "filled", SETTINGS, 120)
    store.join()
    tasks = [replace(task, attempt=task.attempt + 1, begun=1) for task in store.claim(5, held=()).tasks]
    store.record(News(dispatched=tasks[:3]))
    store.record(News(outcomes=[(tasks[1], Outcome((), 1.0, FailureReason.EXCEPTION, "the last one"))]))
    return store


def test_a_search_at_rest_has_nobody_at_work(engine: Engine, database_url: str) -> None:
    """It says why it stopped, with counts, the best five and the reasons as status, top and failures do."""
    seen = look(database_url)
    with engine.connect() as connection:
        assert seen.standing == queries.standing(connection, 1)
        assert seen.best == queries.ranked(connection, 1, 5)
        assert seen.reasons == queries.failures(connection, 1, queries.By.REASON)
    assert (seen.standing.state, seen.standing.stopped_because, seen.at_work) == (State.STOPPED, "asked to", [])


def test_who_is_at_work_is_seen_with_what(engine: Engine, database_url: str) -> None:
    """Held are the open candidates of its leases, in flight those that it dispatched; others' do not count."""
    at_work(engine)
    seen = look(database_url)
    (one,) = seen.at_work
    assert seen.standing.state is State.RUNNING
    assert (one.holds, one.in_flight, one.stop_asked) == (4, 2, False)
    assert one.oldest_dispatched_at is not None
    assert one.started_at <= one.oldest_dispatched_at <= one.seen_at <= seen.at
    maintenance.ask_to_stop(engine, 1)
    assert look(database_url).at_work[0].stop_asked
    assert look(database_url, 2).at_work == []


def test_the_latest_failures_come_first(engine: Engine, database_url: str) -> None:
    """Failures only: an attempt that was interrupted is none, and neither is one in flight."""
    at_work(engine)
    failures = look(database_url).failures
    assert failures[0].detail == "the last one"
    assert [one.ended_at for one in failures] == sorted((one.ended_at for one in failures), reverse=True)
    with engine.connect() as connection:
        failed = queries.counts(connection, 1).failed
    assert len(failures) == failed > 1
    assert not {one.reason for one in failures} & set(Interruption)


def test_a_deleted_search_is_missed(engine: Engine, database_url: str) -> None:
    """It is no search with nothing in it."""
    with engine.connect() as connection:
        filled = queries.require(connection, "filled")
    maintenance.delete(engine, filled)
    with pytest.raises(DatabaseLost):
        look(database_url)


def test_no_look_scans_a_table(tmp_path: Path) -> None:
    """Every statement reaches candidates and attempts by an index, as SQLite plans them (so small, Postgres scans)."""
    database_url = f"sqlite:///{tmp_path / 'search.db'}"
    engine = open_for_writing(database_url)
    fill(engine, draws=120, still_open=8)
    at_work(engine)
    engine.dispose()
    statements: list[tuple[str, object]] = []
    reader = open_for_reading(database_url)
    event.listen(reader, "before_cursor_execute", lambda *of: statements.append((of[2], of[3])))
    with reader.connect() as connection:
        watching.view(connection, 1)
        asked = [of for of in statements if re.search(r"FROM (candidate|attempt|lease)\b", of[0])]
        plans = [str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", of).all()) for text, of in asked]  # type: ignore[arg-type]
    assert len(plans) >= 4
    assert [plan for plan in plans if re.search(r"SCAN (candidate|attempt|lease)\b|TEMP B-TREE FOR ORDER", plan)] == []
    assert "ix_candidate_open" in "".join(plans)
    assert "ix_attempt_in_flight" in "".join(plans)
