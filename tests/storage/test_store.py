"""The store's contract, on a real database file."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from search.candidates import FailureReason, Measurement, Outcome, RejectionReason, Status
from search.errors import SettingsError
from search.layer_string import parse
from search.run import Drawn, judge_with
from search.samplers import RejectionSampler
from search.settings import Recipe, SearchSettings
from search.shapes import Verdict, check
from search.space import CLASSIC
from storage import queries
from storage.engine import open_for_reading, open_for_writing
from storage.schema import coordinator
from storage.store import SqlStore

SETTINGS = SearchSettings(CLASSIC, "rejection", 1, 0, "digits", "00", Recipe(), "cpu")
VALID = ("conv=channel_factor:3,kernel_size:3,stride:1,padding:0-", "dropout=p:0.2-", "dropout=p:0.4-")
REJECTED = "conv=channel_factor:0.4,kernel_size:3,stride:1,padding:0-"
CURVE = (Measurement(1, 2.0, 1.5, 0.5), Measurement(2, 1.0, 0.9, 0.75))
COMPLETED = Outcome(CURVE, 3.5)
judge = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)


def judged(*strings: str) -> object:
    """A judge that draws these strings, over and over."""

    def draw(start: int, stop: int) -> list[Drawn]:
        chosen = [strings[i % len(strings)] for i in range(start, stop)]
        return [Drawn(i, s, check(parse(s), CLASSIC.rules)) for i, s in enumerate(chosen, start)]

    return draw


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'search.db'}"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = open_for_writing(url)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> SqlStore:
    return SqlStore.open(engine, "first", SETTINGS, target=100)


def rows(engine: Engine, name: str = "first") -> list[queries.CandidateRow]:
    with engine.connect() as connection:
        search = queries.require(connection, name)
        return list(queries.candidates(connection, search.id, None))


def test_a_search_is_created_once(engine: Engine, store: SqlStore) -> None:
    """Opening it again finds it, with what was drawn."""
    store.extend(10, judge)
    again = SqlStore.open(engine, "first", SETTINGS, target=100)
    assert again.counts() == store.counts()
    assert again.counts().drawn == 10


def test_settings_come_back_as_they_were_stored(engine: Engine, store: SqlStore) -> None:
    """The stored settings equal the given ones, space and recipe included."""
    with engine.connect() as connection:
        assert queries.require(connection, "first").settings == SETTINGS


def test_another_settings_under_the_same_name_is_refused(engine: Engine, store: SqlStore) -> None:
    """A race between two creations is won by the first."""
    with pytest.raises(SettingsError, match="other settings"):
        SqlStore.open(engine, "first", replace(SETTINGS, seed=1), target=100)


def test_a_target_can_only_grow(engine: Engine, store: SqlStore) -> None:
    """A larger target extends the search, a smaller one is refused."""
    assert SqlStore.open(engine, "first", SETTINGS, target=200).counts().target == 200
    with pytest.raises(SettingsError, match="extended to 200"):
        SqlStore.open(engine, "first", SETTINGS, target=100)


def test_draws_are_inserted_in_order_up_to_the_target(engine: Engine, store: SqlStore) -> None:
    """Each index is drawn once, by the judge's word, and never beyond the target."""
    assert store.extend(60, judge) == 40
    assert store.extend(60, judge) == 0
    assert store.extend(60, judge) == 0
    assert store.counts().drawn == 100
    found = rows(engine)
    assert [row.index for row in found] == sorted(row.index for row in found)
    by_index = {drawn.index: drawn for drawn in judge(0, 100)}
    for row in found:
        assert (row.layers, row.reason, row.layer) == (
            by_index[row.index].layers,
            by_index[row.index].verdict.reason,
            by_index[row.index].verdict.layer,
        )


def test_an_architecture_is_stored_once(engine: Engine, store: SqlStore) -> None:
    """Where it was first drawn; repeats within a transaction and across them are counted, not stored."""
    store.extend(5, judged(*VALID))  # type: ignore[arg-type]
    store.extend(5, judged(*VALID))  # type: ignore[arg-type]
    counts = store.counts()
    assert (counts.drawn, counts.distinct, counts.repeats) == (10, 3, 7)
    assert [(row.index, row.layers) for row in rows(engine)] == list(enumerate(VALID))


def test_the_chunks_of_drawing_leave_no_trace(engine: Engine) -> None:
    """Drawing by ones and drawing at once give the same rows."""
    by_ones = SqlStore.open(engine, "ones", SETTINGS, target=300)
    while by_ones.extend(1, judge):
        pass
    SqlStore.open(engine, "at-once", SETTINGS, target=300).extend(1000, judge)
    assert rows(engine, "ones") == rows(engine, "at-once")


def test_open_candidates_come_in_order(store: SqlStore) -> None:
    """Only open ones, above an index, so many at the most."""
    store.extend(100, judge)
    valid = [drawn for drawn in judge(0, 100) if drawn.verdict.valid]
    opened = store.open_after(-1, 1000)
    assert [task.index for task in opened][:5] == [drawn.index for drawn in valid][:5]
    assert opened[0].macs == valid[0].verdict.macs
    assert store.open_after(opened[2].index, 2) == opened[3:5]


def test_an_outcome_ends_its_candidate(engine: Engine, store: SqlStore) -> None:
    """Losses of the last epoch, the whole curve, seconds and attempts are kept."""
    store.extend(1, judged(*VALID))  # type: ignore[arg-type]
    store.record([0], {0: COMPLETED})
    (row,) = rows(engine)
    assert (row.status, row.epochs, row.attempts, row.seconds) == (Status.COMPLETED, 2, 1, 3.5)
    assert (row.train_loss, row.val_loss, row.val_accuracy) == (1.0, 0.9, 0.75)
    with engine.connect() as connection:
        found = queries.details(connection, 1, 0)
    assert found is not None
    assert found.curve == ((2.0, 1.5, 0.5), (1.0, 0.9, 0.75))


def test_a_failure_keeps_its_reason_and_finished_epochs(engine: Engine, store: SqlStore) -> None:
    """A failure after one epoch has that epoch's losses."""
    store.extend(1, judged(*VALID))  # type: ignore[arg-type]
    store.record([0], {0: Outcome(CURVE[:1], 1.0, FailureReason.NON_FINITE_LOSS, "in epoch 2")})
    (row,) = rows(engine)
    assert (row.status, row.reason, row.epochs, row.val_loss) == (Status.FAILED, "non_finite_loss", 1, 1.5)
    with engine.connect() as connection:
        found = queries.details(connection, 1, 0)
    assert found is not None
    assert found.detail == "in epoch 2"


def test_the_first_outcome_stays(engine: Engine, store: SqlStore) -> None:
    """A second outcome, or another start, changes neither the row nor a tally."""
    store.extend(1, judged(*VALID))  # type: ignore[arg-type]
    store.record([0], {0: COMPLETED})
    before, counts = rows(engine), store.counts()
    store.record([0], {0: Outcome((), 9.0, FailureReason.TIMEOUT, "late")})
    assert rows(engine) == before
    assert store.counts() == counts


def test_attempts_are_counted_before_the_outcome(engine: Engine, store: SqlStore) -> None:
    """A start that was recorded and never ended shows in attempts."""
    store.extend(1, judged(*VALID))  # type: ignore[arg-type]
    store.record([0], {})
    store.record([0], {0: COMPLETED})
    assert rows(engine)[0].attempts == 2


def test_tallies_agree_with_the_rows(engine: Engine, store: SqlStore) -> None:
    """Counts by status, reason and layer are what counting the rows gives."""
    store.extend(100, judge)
    for number, task in enumerate(store.open_after(-1, 1000)):
        reason = FailureReason.EXCEPTION if number % 3 == 0 else None
        store.record([task.index], {task.index: replace(COMPLETED, reason=reason)})
    found = rows(engine)
    counts = store.counts()
    assert counts.open == 0
    for status in (Status.REJECTED, Status.COMPLETED, Status.FAILED):
        assert getattr(counts, status) == sum(row.status is status for row in found)
    with engine.connect() as connection:
        for failure in queries.failures(connection, 1):
            key = (failure.status, failure.reason, failure.layer)
            assert failure.candidates == sum((row.status, row.reason, row.layer) == key for row in found)


def test_a_rejection_without_a_layer_is_counted(engine: Engine, store: SqlStore) -> None:
    """over_budget belongs to the whole network."""
    verdict = Verdict((), RejectionReason.OVER_BUDGET, None, "too large")
    store.extend(1, lambda start, _stop: [Drawn(start, REJECTED, verdict)])
    with engine.connect() as connection:
        assert queries.failures(connection, 1) == [
            queries.FailureCount(Status.REJECTED, RejectionReason.OVER_BUDGET, None, 1)
        ]


def test_the_ranking_is_by_accuracy_then_loss_then_index(engine: Engine, store: SqlStore) -> None:
    """Ties are broken the same way every time."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    outcome = {index: Outcome((Measurement(1, 1.0, loss, 0.5),), 1.0) for index, loss in ((0, 0.9), (1, 0.8), (2, 0.8))}
    store.record([], outcome)
    with engine.connect() as connection:
        assert [row.index for row in queries.ranked(connection, 1, 10)] == [1, 2, 0]
    best = store.best()
    assert best is not None
    assert best.index == 1


def test_questions_use_their_indexes(engine: Engine, store: SqlStore) -> None:
    """The ranking and the open candidates are read from partial indexes, not sorted out of all rows."""
    plans = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def explain(conn, cursor, statement, parameters, context, many):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        if statement.startswith("SELECT candidate"):
            cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.append(" ".join(str(row) for row in cursor.fetchall()))

    store.open_after(-1, 5)
    store.best()
    assert "ix_candidate_open" in plans[0]
    assert "ix_candidate_ranking" in plans[1]
    assert not any("TEMP B-TREE" in plan for plan in plans)


def test_one_coordinator_at_a_time(engine: Engine, store: SqlStore) -> None:
    """A second one is refused with the first one's process, until it leaves."""
    store.join()
    second = SqlStore.open(engine, "first", SETTINGS, target=100)
    with pytest.raises(SettingsError, match="is being run by process"):
        second.join()
    store.leave(None)
    second.join()


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 2**22 + 1},  # no such process
        {"pid_started": 1},  # another process has the id now
    ],
)
def test_a_dead_coordinator_does_not_bar_the_next(engine: Engine, store: SqlStore, change: dict[str, int]) -> None:
    """Kill -9 leaves a row behind; the process is not there any more, so a new run may begin at once."""
    store.join()
    with engine.begin() as connection:
        connection.execute(coordinator.update().values(**change))
        standing = queries.standing(connection, 1)
    assert standing.state is queries.State.STOPPED
    assert "killed" in str(standing.stopped_because)
    SqlStore.open(engine, "first", SETTINGS, target=100).join()


def test_a_coordinator_of_another_machine_is_believed_while_it_gives_signs(engine: Engine, store: SqlStore) -> None:
    """Its process cannot be looked up, so its last sign of life decides."""
    store.join()
    with engine.begin() as connection:
        connection.execute(coordinator.update().values(host="elsewhere"))
        assert queries.standing(connection, 1).state is queries.State.RUNNING
        long_ago = queries.datetime.now(queries.UTC) - 2 * queries.SEEN_WITHIN
        connection.execute(coordinator.update().values(seen_at=long_ago))
        assert queries.standing(connection, 1).state is queries.State.STOPPED


def test_states_are_read_from_the_rows(engine: Engine, store: SqlStore) -> None:
    """Stopped with its reason, running, and finished when all is drawn and nothing is open."""

    def standing() -> queries.Standing:
        with engine.connect() as connection:
            return queries.standing(connection, 1)

    assert standing().state is queries.State.STOPPED
    store.join()
    assert standing().state is queries.State.RUNNING
    store.leave("--max-time 1 s reached")
    assert standing().stopped_because == "--max-time 1 s reached"
    store.extend(100, judged(*VALID))  # type: ignore[arg-type]
    store.record([], dict.fromkeys(range(3), COMPLETED))
    assert standing().state is queries.State.FINISHED


def test_a_reader_cannot_write(engine: Engine, store: SqlStore, url: str) -> None:
    """The database refuses it, not we."""
    reader = open_for_reading(url)
    with reader.connect() as connection, pytest.raises(sa.exc.OperationalError, match="readonly"):
        connection.execute(sa.text("DELETE FROM candidate"))
    reader.dispose()


def test_a_measurement_survives_to_the_last_bit(engine: Engine, store: SqlStore) -> None:
    """Losses are stored as doubles, and the curve as their shortest exact text."""
    store.extend(1, judged(*VALID))  # type: ignore[arg-type]
    exact = Measurement(1, math.pi, 0.1 + 0.2, 1 / 3)
    store.record([], {0: Outcome((exact,), 1.0)})
    assert rows(engine)[0].val_loss == exact.val_loss
    with engine.connect() as connection:
        found = queries.details(connection, 1, 0)
    assert found is not None
    assert found.curve == ((exact.train_loss, exact.val_loss, exact.val_accuracy),)
