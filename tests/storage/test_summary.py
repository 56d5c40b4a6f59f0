"""The reads of a report, on SQLite and on Postgres."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection

from search.candidates import Status
from storage import queries, summary
from storage.engine import open_for_reading
from tests import recorded
from tests.recorded import BEGAN, STRINGS

DRAWN = 60  # 50 distinct


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """A search of 50 candidates of every status, and two runs."""
    endings = (None, None, "cancelled")
    recorded.record(database_url, recorded.mixed(50), drawn=DRAWN, runs=2, attempts=endings)
    engine = open_for_reading(database_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_runs_are_listed_oldest_first(connection: Connection) -> None:
    """The last ones, where there are more than asked for."""
    runs = summary.runs(connection, 1, 10)
    assert [(run.host, run.pid, run.at_work) for run in runs] == [("node0", 41, False), ("node1", 42, False)]
    assert (runs[0].started_at, runs[0].ending) == (BEGAN, "SIGINT <once>")
    assert [run.host for run in summary.runs(connection, 1, 1)] == ["node1"]
    assert summary.count_runs(connection, 1) == 2


def test_attempts_are_counted_by_ending(connection: Connection) -> None:
    """Those in flight have none."""
    assert summary.attempts(connection, 1) == {None: 2, "cancelled": 1}


def test_the_first_candidate_of_each_reason_is_its_example(connection: Connection) -> None:
    """With how many it stands for, the most frequent reason first."""
    found = {example.reason: example for example in summary.examples(connection, 1)}
    assert set(found) == {"kernel_exceeds_input", "channels_below_one", "timeout", "exception"}
    first = found["channels_below_one"]
    assert (first.index, first.candidates, first.status, first.layer) == (2, 5, Status.REJECTED, 2)
    assert (first.layers, first.detail) == (STRINGS[2], "rejected 2")
    assert sum(example.candidates for example in found.values()) == 20


def test_what_failures_say_is_counted(connection: Connection) -> None:
    """The most frequent first, as many as asked for."""
    found = summary.failure_details(connection, 1, 10)
    assert sum(detail.candidates for detail in found) == 10
    assert [d.candidates for d in found] == sorted((d.candidates for d in found), reverse=True)
    assert {(d.reason, d.detail) for d in found} >= {("timeout", "failed 3"), ("exception", "failed 0")}
    assert summary.failure_details(connection, 1, 1) == found[:1]


def test_stretches_tell_what_became_of_each_draw(connection: Connection) -> None:
    """They cover all draws once; what they do not name were repeats."""
    found = summary.stretches(connection, 1, DRAWN, 7)
    assert [(s.first, s.stop) for s in found] == [(start, min(start + 9, 60)) for start in range(0, 60, 9)]
    totals = {status: sum(s.statuses[status] for s in found) for status in Status}
    assert totals == {Status.COMPLETED: 20, Status.REJECTED: 10, Status.FAILED: 10, Status.OPEN: 10}
    assert summary.stretches(connection, 1, 0, 7) == []


def test_completed_candidates_come_in_draw_order(connection: Connection) -> None:
    """With all their numbers."""
    found = list(summary.completed(connection, 1))
    assert [row.draw_index for row in found] == [i for i in range(50) if i % 5 < 2]
    assert (found[1].layers, found[1].train_loss, found[1].val_loss, found[1].seconds) == (STRINGS[1], 1.0, 0.9, 2.0)
    assert found[0].val_accuracy == pytest.approx(0.1)


def test_layer_strings_are_found_by_index(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several queries where there are many; what is not there is left out."""
    monkeypatch.setattr(queries, "AT_ONCE", 2)
    found = queries.layer_strings(connection, 1, [0, 3, 4, 49, 1_000])
    assert found == {0: STRINGS[0], 3: STRINGS[3], 4: STRINGS[4], 49: STRINGS[4]}
    assert queries.layer_strings(connection, 1, []) == {}
