"""The store, on a real SQLite file and a real Postgres."""

import math
import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from search.candidates import FailureReason, Interruption, Measurement, Outcome, RejectionReason, Status
from search.errors import DatabaseLost, SettingsError
from search.layer_string import parse
from search.messages import MOST_LOSSES, Task, WorkerTime
from search.run import News, Reply
from search.samplers import RejectionSampler
from search.settings import Recipe, SearchSettings
from search.shapes import Verdict, check
from search.sieve import Drawn, judge_with
from search.space import CLASSIC
from storage import maintenance, queries, summary
from storage.engine import open_for_reading, open_for_writing
from storage.schema import attempt, candidate, coordinator, lease, search, tally
from storage.store import SqlStore
from tests.stored import candidates

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
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_for_writing(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> SqlStore:
    return joined(engine)


def joined(engine: Engine, **options: float) -> SqlStore:
    """A coordinator's view of the search."""
    store = SqlStore.open(engine, "first", SETTINGS, target=100, **options)
    store.join()
    return store


def begun(task: Task, times: int = 1) -> Task:
    """The task in training for the nth time."""
    return replace(task, attempt=task.attempt + times, begun=task.begun + times)


def end(store: SqlStore, *outcomes: Outcome) -> Reply:
    """Claim as many candidates as there are outcomes, and end them so."""
    tasks = store.claim(len(outcomes), held=()).tasks
    return store.record(News(outcomes=[(begun(t), o) for t, o in zip(tasks, outcomes, strict=True)]))


def rows(engine: Engine, name: str = "first") -> list[queries.CandidateRow]:
    with engine.connect() as connection:
        search = queries.require(connection, name)
        return candidates(connection, search.id)


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


def test_what_workers_did_is_summed_over_coordinators(engine: Engine) -> None:
    """Each tells its own sums, again and again; only the last ones count, also after a sign of life without any."""

    def worked() -> WorkerTime:
        with engine.connect() as connection:
            return queries.worked(connection, 1)

    one, other = joined(engine), joined(engine)
    assert worked() == WorkerTime()
    one.record(News(worked=WorkerTime(10.0, 8.0)))
    for _ in range(2):
        one.record(News(worked=WorkerTime(20.0, 18.0)))
    other.record(News(worked=WorkerTime(5.0, 1.0)))
    one.renew()
    one.leave(None)
    assert worked() == WorkerTime(25.0, 19.0)
    assert worked().training_share == 0.76
    other.leave("asked to", WorkerTime(10.0, 3.0))
    assert worked() == WorkerTime(30.0, 21.0)


def test_a_target_can_only_grow(engine: Engine, store: SqlStore) -> None:
    """A larger target extends the search; a smaller one, of a coordinator that started with less, changes nothing."""
    assert SqlStore.open(engine, "first", SETTINGS, target=200).counts().target == 200
    assert SqlStore.open(engine, "first", SETTINGS, target=100).counts().target == 200


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


def test_open_candidates_are_claimed_in_order(store: SqlStore) -> None:
    """Only open ones, so many at the most; the next claim gives those after them."""
    store.extend(100, judge)
    valid = list({drawn.layers: drawn for drawn in reversed(judge(0, 100)) if drawn.verdict.valid}.values())[::-1]
    first = store.claim(3, held=()).tasks
    assert [(t.index, t.layers, t.macs) for t in first] == [(d.index, d.layers, d.verdict.macs) for d in valid[:3]]
    second = store.claim(1000, held={1})
    assert [task.index for task in second.tasks] == [drawn.index for drawn in valid[3:]]
    assert not second.open_elsewhere


def test_an_outcome_ends_its_candidate(engine: Engine, store: SqlStore) -> None:
    """Losses of the last epoch, the whole curve, seconds and attempts are kept."""
    store.extend(1, judged(*VALID))  # type: ignore[arg-type]
    end(store, COMPLETED)
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
    end(store, Outcome(CURVE[:1], 1.0, FailureReason.NON_FINITE_LOSS, "in epoch 2"))
    (row,) = rows(engine)
    assert (row.status, row.reason, row.epochs, row.val_loss) == (Status.FAILED, "non_finite_loss", 1, 1.5)
    with engine.connect() as connection:
        found = queries.details(connection, 1, 0)
    assert found is not None
    assert found.detail == "in epoch 2"


def test_the_first_outcome_stays(engine: Engine, store: SqlStore) -> None:
    """A second outcome, another start, or the same news again, change neither the row nor a tally."""
    store.extend(2, judged(*VALID))  # type: ignore[arg-type]
    task, _ = store.claim(2, held=()).tasks
    news = News(dispatched=[begun(task)], started=[begun(task)], outcomes=[(begun(task), COMPLETED)])
    store.record(news)
    before, counts = rows(engine), store.counts()
    store.record(news)
    late = begun(task, 2)
    store.record(News(started=[late], outcomes=[(late, Outcome((), 9.0, FailureReason.TIMEOUT, "late"))]))
    assert rows(engine) == before
    assert store.counts() == counts


def test_attempts_are_counted_before_the_outcome(engine: Engine, store: SqlStore) -> None:
    """A start that was recorded and never ended shows in attempts, once."""
    store.extend(1, judged(*VALID))  # type: ignore[arg-type]
    (task,) = store.claim(1, held=()).tasks
    for _ in range(2):
        store.record(News(started=[begun(task)]))
    assert rows(engine)[0].attempts == 1
    store.record(News(outcomes=[(begun(task, 2), COMPLETED)]))
    assert rows(engine)[0].attempts == 2


def test_tallies_agree_with_the_rows(engine: Engine, store: SqlStore) -> None:
    """Counts by status, reason and layer are what counting the rows gives."""
    store.extend(100, judge)
    for number in range(store.counts().open):
        end(store, replace(COMPLETED, reason=FailureReason.EXCEPTION if number % 3 == 0 else None))
    found = rows(engine)
    counts = store.counts()
    assert counts.open == 0
    for status in (Status.REJECTED, Status.COMPLETED, Status.FAILED):
        assert getattr(counts, status) == sum(row.status is status for row in found)
    with engine.connect() as connection:
        for failure in queries.failures(connection, 1):
            key = (failure.status, failure.reason, failure.layer)
            these = [row for row in found if (row.status, row.reason, row.layer) == key]
            assert failure.candidates == len(these)
            assert (failure.example, failure.example_layers) == (these[0].index, these[0].layers)
        for by, name in ((queries.By.REASON, "reason"), (queries.By.LAYER, "layer")):
            for failure in queries.failures(connection, 1, by):
                group = (failure.status, getattr(failure, name))
                these = [row for row in found if (row.status, getattr(row, name)) == group]
                assert (failure.candidates, failure.example) == (len(these), these[0].index)


def test_a_rejection_without_a_layer_is_counted(engine: Engine, store: SqlStore) -> None:
    """over_budget belongs to the whole network."""
    verdict = Verdict((), RejectionReason.OVER_BUDGET, None, "too large")
    store.extend(1, lambda start, _stop: [Drawn(start, REJECTED, verdict)])
    with engine.connect() as connection:
        assert queries.failures(connection, 1) == [
            queries.FailureCount(Status.REJECTED, RejectionReason.OVER_BUDGET, None, 1, 0, REJECTED)
        ]


def test_the_ranking_is_by_accuracy_then_loss_then_index(engine: Engine, store: SqlStore) -> None:
    """Ties are broken the same way every time."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    end(store, *(Outcome((Measurement(1, 1.0, loss, 0.5),), 1.0) for loss in (0.9, 0.8, 0.8)))
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

    if engine.dialect.name == "postgresql":
        pytest.skip("Postgres plans by its statistics; tests/benchmarks shows times")
    store.extend(100, judge)
    store.claim(5, held=())
    store.best()
    assert "uq_candidate_search_id_digest" in plans[0] or "sqlite_autoindex" in plans[0]
    assert "ix_candidate_open" in plans[1]
    assert "ix_candidate_ranking" in plans[-1]
    assert not any("TEMP B-TREE" in plan for plan in plans)


def test_what_goes_through_all_candidates_does_so_in_their_order(tmp_path: Path) -> None:
    """By the index of digests SQLite would fetch each row from another place of the file."""
    engine = open_for_writing(f"sqlite:///{tmp_path / 'search.db'}")
    store = joined(engine)
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    end(store, *(replace(COMPLETED, reason=r) for r in (FailureReason.TIMEOUT, FailureReason.EXCEPTION)))
    asked: list[tuple[str, object]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *of: asked.append((of[2], of[3])))
    assert maintenance.reopen(engine, store.search_id, {FailureReason.OUT_OF_MEMORY}) == 0
    assert not any("FROM candidate" in statement for statement, _ in asked)
    maintenance.reopen(engine, store.search_id, set(FailureReason))
    with engine.connect() as connection:
        summary.failure_details(connection, store.search_id, 10)
        summary.stretches(connection, store.search_id, 3, 2)
        walks = [of for of in asked if re.search(r"candidate SET|FROM candidate", of[0])]
        plans = [str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", of).all()) for text, of in walks]  # type: ignore[arg-type]
    assert len(plans) == 5
    assert [plan for plan in plans if "candidate_1 (search_id=? AND draw_index" not in plan] == []


def test_a_second_coordinator_is_refused_unless_it_may_work_beside_the_first(engine: Engine, store: SqlStore) -> None:
    """The refusal names the first one's process and host; after that one left there is none."""
    second = SqlStore.open(engine, "first", SETTINGS, target=100)
    with pytest.raises(SettingsError, match=rf"is being run by process {os.getpid()} on {platform.node()}"):
        second.join(queries.Beside.NOBODY)
    second.join()
    store.leave(None)
    second.leave(None)
    SqlStore.open(engine, "first", SETTINGS, target=100).join(queries.Beside.NOBODY)


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 2**22 + 1},  # no such process
        {"pid_started": 1},  # another process has the id now
    ],
)
def test_a_dead_coordinator_does_not_bar_the_next(engine: Engine, store: SqlStore, change: dict[str, int]) -> None:
    """Kill -9 leaves a row behind; the process is not there any more, so a new run may begin at once."""
    with engine.begin() as connection:
        connection.execute(coordinator.update().values(**change))
        standing = queries.standing(connection, 1)
    assert standing.state is queries.State.STOPPED
    assert "ended without a word: killed, or" in str(standing.stopped_because)
    SqlStore.open(engine, "first", SETTINGS, target=100).join(queries.Beside.NOBODY)


def test_a_coordinator_of_another_machine_is_believed_while_it_gives_signs(engine: Engine, store: SqlStore) -> None:
    """Its process cannot be looked up, so its last sign of life decides."""
    with engine.begin() as connection:
        connection.execute(coordinator.update().values(host="elsewhere"))
        assert queries.standing(connection, 1).state is queries.State.RUNNING
        long_ago = queries.now(connection) - 2 * queries.SEEN_WITHIN
        connection.execute(coordinator.update().values(seen_at=long_ago))
        assert queries.standing(connection, 1).state is queries.State.STOPPED


def test_a_silent_process_that_lives_is_told_of(engine: Engine, store: SqlStore) -> None:
    """It is paused, or the database is a copy of the one that it writes to: who is refused can tell."""
    with engine.begin() as connection:
        with pytest.raises(SettingsError, match="the search is being run by process") as soon:
            queries.require_room(connection, 1)
        connection.execute(coordinator.update().values(seen_at=queries.now(connection) - 2 * queries.SEEN_WITHIN))
        with pytest.raises(SettingsError, match=r"without a sign since .*in a copy of its database: free once it ends"):
            queries.require_room(connection, 1)
    assert "copy" not in str(soon.value)


def test_states_are_read_from_the_rows(engine: Engine) -> None:
    """Stopped with its reason, running, and finished when all is drawn and nothing is open."""

    def standing() -> queries.Standing:
        with engine.connect() as connection:
            return queries.standing(connection, 1)

    store = SqlStore.open(engine, "first", SETTINGS, target=100)
    assert standing().state is queries.State.STOPPED
    store.join()
    assert standing().state is queries.State.RUNNING
    store.leave("--max-time 1 s reached")
    assert standing().stopped_because == "--max-time 1 s reached"
    store.join()
    store.extend(100, judged(*VALID))  # type: ignore[arg-type]
    end(store, COMPLETED, COMPLETED, COMPLETED)
    assert standing().state is queries.State.FINISHED


def test_a_reader_cannot_write(engine: Engine, store: SqlStore, database_url: str) -> None:
    """The database refuses it, not we."""
    reader = open_for_reading(database_url)
    with reader.connect() as connection, pytest.raises(sa.exc.DBAPIError, match=r"read-?only"):
        connection.execute(sa.text("DELETE FROM candidate"))
    reader.dispose()


def test_a_measurement_survives_to_the_last_bit(engine: Engine, store: SqlStore) -> None:
    """Losses are stored as doubles, and the curve as their shortest exact text."""
    store.extend(1, judged(*VALID))  # type: ignore[arg-type]
    exact = Measurement(1, math.pi, 0.1 + 0.2, 1 / 3)
    end(store, Outcome((exact,), 1.0))
    assert rows(engine)[0].val_loss == exact.val_loss
    with engine.connect() as connection:
        found = queries.details(connection, 1, 0)
    assert found is not None
    assert found.curve == ((exact.train_loss, exact.val_loss, exact.val_accuracy),)


# ------------------------------------------------------------------ claims


def expire(engine: Engine) -> None:
    """Let every lease run out, as if its coordinator had been silent for so long."""
    with engine.begin() as connection:
        long_ago = queries.now(connection) - timedelta(seconds=1)
        connection.execute(lease.update().values(expires_at=long_ago))


def elsewhere(engine: Engine) -> None:
    """Let all coordinators so far be of another machine, where they cannot be looked up."""
    with engine.begin() as connection:
        connection.execute(coordinator.update().values(host="elsewhere"))


def test_no_candidate_is_claimed_twice(engine: Engine, store: SqlStore) -> None:
    """Coordinators share the open candidates; who finds none learns that they are elsewhere."""
    store.extend(100, judge)
    second, third = joined(engine), joined(engine)
    mine, theirs, none = store.claim(5, ()), second.claim(1000, ()), third.claim(5, ())
    claimed = [task.index for task in (*mine.tasks, *theirs.tasks)]
    assert sorted(claimed) == [row.index for row in rows(engine) if row.status is Status.OPEN]
    assert (none.tasks, none.open_elsewhere) == ((), True)


def test_a_claim_whose_answer_was_lost_is_given_again(store: SqlStore) -> None:
    """A coordinator that says what it holds gets what it does not know that it holds, and no more leases."""
    store.extend(100, judge)
    lost = store.claim(5, held=())
    assert store.claim(5, held=()) == lost
    assert not set(store.claim(5, held={1}).tasks) & set(lost.tasks)


def test_a_claim_gives_no_more_than_was_asked_for(engine: Engine, store: SqlStore) -> None:
    """Nor of own leases, as after a retry of what they once held; what is not given is there for others."""
    store.extend(100, judge)
    first, second = store.claim(4, held=()), store.claim(4, held={1})
    beside = joined(engine)
    assert store.claim(3, held={2}).tasks == first.tasks[:3]
    assert store.claim(3, held={1}).tasks == second.tasks[:3]
    taken = beside.claim(100, held=()).tasks
    assert {task.index for task in (*first.tasks[3:], *second.tasks[3:])} <= {task.index for task in taken}
    assert store.claim(3, held=()) == replace(first, tasks=first.tasks[:3])
    assert {task.index for task in beside.claim(100, held={t.lease for t in taken}).tasks} == {
        task.index for task in second.tasks[:3]
    }
    assert store.record(News(started=[begun(second.tasks[0])])).lost == {second.tasks[0].lease}


def test_what_is_given_back_is_there_for_others(engine: Engine, store: SqlStore) -> None:
    """At once, with its history; what came with it counts, and the same once more changes nothing."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    (first, second, _) = store.claim(3, held=()).tasks
    store.record(News(dispatched=[begun(first), begun(second)], started=[begun(first), begun(second)]))
    lost = (begun(second), Interruption.WORKER_UNAVAILABLE, "its node went")
    news = News(outcomes=[(begun(first), COMPLETED)], attempts=[lost], given_back={first.lease})
    for _ in range(2):
        store.record(news)
        assert store.counts().completed == 1
    (taken, other) = joined(engine).claim(3, held=()).tasks
    assert [(t.lease, t.losses, t.begun) for t in (taken, other)] == [(2, 1, 1), (2, 0, 0)]
    assert store.record(News(given_back={taken.lease})).lost == frozenset()
    assert not joined(engine).claim(3, held=()).tasks  # nobody gives back what another holds


def test_a_lease_that_expired_is_taken_over_and_its_old_owner_changes_nothing(engine: Engine, store: SqlStore) -> None:
    """Fencing: what a paused coordinator writes late does not count, and it learns so."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    (task, *_) = store.claim(3, held=()).tasks
    store.record(News(dispatched=[begun(task)], started=[begun(task)]))
    elsewhere(engine)
    second = joined(engine)
    assert second.claim(3, held=()).tasks == ()
    expire(engine)
    (taken, *_) = second.claim(3, held=()).tasks
    assert (taken.index, taken.lease, taken.losses, taken.charges, taken.begun) == (task.index, 2, 1, 0, 1)
    before = rows(engine)
    assert store.record(News(outcomes=[(begun(task), COMPLETED)])).lost == {task.lease}
    assert rows(engine) == before
    assert second.record(News(outcomes=[(begun(taken), COMPLETED)])).lost == frozenset()
    assert rows(engine)[task.index].status is Status.COMPLETED


def test_a_lease_that_is_renewed_is_not_taken_over(engine: Engine, store: SqlStore) -> None:
    """Renewal puts off the expiry by a whole lease, from the database's now."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    store.claim(3, held=())
    elsewhere(engine)
    expire(engine)
    store.renew()
    assert joined(engine).claim(3, held=()).tasks == ()


def test_what_a_dead_process_held_is_free_at_once(engine: Engine, store: SqlStore) -> None:
    """On the same machine nobody waits for a lease to expire: kill -9 can be seen."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    (task, *_) = store.claim(3, held=()).tasks
    store.record(News(dispatched=[begun(task)]))
    with engine.begin() as connection:
        connection.execute(coordinator.update().values(pid=2**22 + 1))
    taken = joined(engine).claim(3, held=()).tasks
    assert [(t.attempt, t.losses) for t in taken] == [(1, 1), (0, 0), (0, 0)]


def test_who_leaves_frees_what_it_held_and_blames_nobody(engine: Engine, store: SqlStore) -> None:
    """What was in flight at an orderly end is cancelled."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    (task, *_) = store.claim(3, held=()).tasks
    store.record(News(dispatched=[begun(task)], started=[begun(task)]))
    store.leave("interrupted")
    (again, *_) = joined(engine).claim(3, held=()).tasks
    assert (again.attempt, again.losses, again.charges, again.begun) == (1, 0, 0, 1)


def test_a_lease_ends_with_its_last_candidate(engine: Engine, store: SqlStore) -> None:
    """Nothing is left of leases and attempts when all have completed."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    for task in store.claim(3, held=()).tasks:
        store.record(News(dispatched=[begun(task)]))
        store.record(News(started=[begun(task)], outcomes=[(begun(task), COMPLETED)]))
    with engine.connect() as connection:
        for table in (lease, attempt):
            assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 0


def test_what_was_charged_is_known_to_the_next_coordinator(engine: Engine, store: SqlStore) -> None:
    """Attempts that a candidate is blamed for add up over runs; others are kept and do not count."""
    store.extend(1, judged(*VALID))  # type: ignore[arg-type]
    (task,) = store.claim(1, held=()).tasks
    first, second = begun(task), begun(task, 2)
    store.record(News(dispatched=[first]))
    store.record(News(dispatched=[second], attempts=[(first, FailureReason.TIMEOUT, "no end")]))
    store.record(News(attempts=[(second, Interruption.WORKER_UNAVAILABLE, "its node went")]))
    store.leave(None)
    (again,) = joined(engine).claim(1, held=()).tasks
    assert (again.attempt, again.charges, again.losses) == (2, 1, 1)


def test_an_isolated_candidate_is_charged_with_the_loss_of_its_coordinator(engine: Engine, store: SqlStore) -> None:
    """Nothing else was in flight, and it had started; where no start was seen, three losses are one charge."""
    store.extend(1, judged(*VALID))  # type: ignore[arg-type]
    (task,) = store.claim(1, held=()).tasks
    alone = replace(begun(task), losses=MOST_LOSSES)
    store.record(News(dispatched=[alone]))
    store.record(News(started=[alone]))
    elsewhere(engine)
    expire(engine)
    (taken,) = joined(engine).claim(1, held=()).tasks
    assert (taken.charges, taken.losses) == (1, 1)
    for unseen in range(1, 4):
        store = joined(engine)
        expire(engine)
        (taken,) = store.claim(1, held=()).tasks
        store.record(News(dispatched=[replace(begun(taken), losses=MOST_LOSSES)]))
        elsewhere(engine)
        expire(engine)
        last = joined(engine)
        (taken,) = last.claim(1, held=()).tasks
        assert (taken.charges, taken.losses) == (1 + (unseen == 3), 1 + unseen)
        elsewhere(engine)


def test_a_coordinator_that_was_asked_to_stop_learns_it(engine: Engine, store: SqlStore) -> None:
    """With its next transaction, also if there is nothing to record."""
    assert not store.record(News()).stop_asked
    with engine.begin() as connection:
        connection.execute(coordinator.update().values(stop_asked=True))
    assert store.record(News()).stop_asked


def test_recording_does_not_wait_for_another_coordinators_drawing(postgres_url: str) -> None:
    """Draws are judged under a lock of the search, which an attempt that refers to the search does not need."""
    engine = open_for_writing(postgres_url)
    drawing, recording = joined(engine), joined(engine)
    drawing.extend(3, judged(*VALID))  # type: ignore[arg-type]
    first, second, _ = (begun(task) for task in recording.claim(3, held=()).tasks)

    def judge_meanwhile(start: int, stop: int) -> list[Drawn]:
        recording.record(News(dispatched=[first]))
        recording.record(News(outcomes=[(first, COMPLETED)], dispatched=[second]))
        return judge(start, stop)  # type: ignore[return-value]

    drawing.extend(10, judge_meanwhile)
    assert drawing.counts().completed == 1
    engine.dispose()


def test_what_is_opened_again_under_a_lease_is_given_again(engine: Engine, store: SqlStore) -> None:
    """Once its coordinator has nothing else of that lease; until then nobody may have it."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    first, *others = (begun(task) for task in store.claim(3, held=()).tasks)
    store.record(News(outcomes=[(first, replace(COMPLETED, reason=FailureReason.TIMEOUT))]))
    assert maintenance.reopen(engine, store.search_id, {FailureReason.TIMEOUT}) == 1
    assert store.claim(3, held={first.lease}).tasks == ()
    beside = joined(engine)
    assert beside.claim(3, held=()).tasks == ()
    store.record(News(outcomes=[(task, COMPLETED) for task in others]))
    (again,) = store.claim(3, held=()).tasks
    assert (again.index, again.lease, again.charges) == (first.index, first.lease, 0)
    assert beside.claim(3, held=()).tasks == ()


def test_a_search_that_is_deleted_under_a_run_ends_it(engine: Engine, store: SqlStore) -> None:
    """As when its coordinator, elsewhere, was silent for too long: an error of ours, and nothing is written."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    task, *_ = (begun(task) for task in store.claim(3, held=()).tasks)
    delete(engine)
    require_lost(store, task)
    assert rows_of(engine, attempt) == rows_of(engine, lease) == 0


def delete(engine: Engine) -> None:
    """Delete the search, whose coordinators, elsewhere, were silent for too long."""
    with engine.begin() as connection:
        long_ago = queries.now(connection) - 2 * queries.SEEN_WITHIN
        connection.execute(coordinator.update().values(host="elsewhere", seen_at=long_ago))
        found = queries.require(connection, "first")
    maintenance.delete(engine, found)


def require_lost(store: SqlStore, task: Task) -> None:
    """Whatever a coordinator does, it hears that its search was deleted."""
    calls: list[Callable[[], object]] = [
        lambda: store.record(News(dispatched=[task], outcomes=[(task, COMPLETED)])),
        lambda: store.record(News(given_back={task.lease})),
        lambda: store.claim(3, ()),
        lambda: store.extend(3, judge),
        store.renew,
        lambda: store.leave(None),
    ]
    for call in calls:
        with pytest.raises(DatabaseLost, match="the search was deleted"):
            call()


def test_a_search_that_took_the_number_of_a_deleted_one_is_left_alone(engine: Engine) -> None:
    """SQLite numbers a search and its coordinator as the deleted ones: who slept over that, writes nothing there."""
    paused = joined(engine)
    paused.extend(3, judged(*VALID))  # type: ignore[arg-type]
    task, *_ = (begun(task) for task in paused.claim(3, held=()).tasks)
    delete(engine)
    store = joined(engine)
    assert (store.search_id == paused.search_id) is (engine.dialect.name == "sqlite")
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    store.claim(3, held=())
    store.record(News(dispatched=[task]))
    before = contents(engine)
    require_lost(paused, task)
    assert contents(engine) == before


def test_a_copy_of_a_deleted_search_is_left_alone(engine: Engine) -> None:
    """It was created when the original was: who slept over the copying is none of its coordinators."""
    paused = joined(engine)
    with engine.connect() as connection:
        created_at = queries.require(connection, "first").created_at
    delete(engine)
    store = joined(engine)
    with engine.begin() as connection:
        connection.execute(search.update().values(created_at=created_at))
    with pytest.raises(DatabaseLost):
        paused.extend(3, judge)
    assert joined(engine).extend(3, judge) == 97
    with pytest.raises(DatabaseLost):  # it has seen another one
        store.extend(3, judge)


def contents(engine: Engine) -> list[list[tuple[object, ...]]]:
    """All rows of all tables but ``listed``, which has none here."""
    with engine.connect() as connection:
        return [
            list(map(tuple, connection.execute(sa.select(table).order_by(*table.primary_key))))
            for table in (search, candidate, tally, coordinator, lease, attempt)
        ]


def rows_of(engine: Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def test_any_number_of_results_can_be_asked_for(engine: Engine, store: SqlStore) -> None:
    """Databases take 65,535 or 32,766 parameters, and 512 workers with full queues end as many in an outage."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    with engine.connect() as connection:
        is_one = queries.one_of(connection, candidate.c.draw_index, range(1, 70_000))
        assert connection.scalars(sa.select(candidate.c.draw_index).where(is_one)).all() == [1, 2]


def test_a_failure_beside_a_retry_keeps_its_example(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another coordinator's candidate fails for the same reason while failed ones are opened again."""
    engine = open_for_writing(postgres_url)
    store = joined(engine)
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    timeout = replace(COMPLETED, reason=FailureReason.TIMEOUT)
    first, second = (begun(task) for task in store.claim(2, held=()).tasks)
    store.record(News(outcomes=[(first, timeout)]))
    real = maintenance.count_changes

    def late(*words: object) -> None:
        store.record(News(outcomes=[(second, timeout)]))  # committed between the reopening and its counting
        real(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(maintenance, "count_changes", late)
    assert maintenance.reopen(engine, store.search_id, {FailureReason.TIMEOUT}) == 1
    with engine.connect() as connection:
        (failure,) = queries.failures(connection, store.search_id)
    failed = [row.index for row in rows(engine) if row.status is Status.FAILED]
    assert (failure.candidates, [failure.example]) == (1, failed)
    engine.dispose()


def test_a_retry_is_not_undone_by_a_record_that_is_repeated(engine: Engine, store: SqlStore) -> None:
    """Its answer was lost, and the candidate opened again meanwhile; the next attempt at it counts as ever."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    task, *_ = (begun(task) for task in store.claim(3, held=()).tasks)
    failed = replace(COMPLETED, reason=FailureReason.TIMEOUT)
    news = News(dispatched=[task]), News(outcomes=[(task, failed)])
    for one in (*news, news[1]):
        store.record(one)
    assert maintenance.reopen(engine, store.search_id, {FailureReason.TIMEOUT}) == 1
    assert store.record(news[1]).counts.open == 3
    (task,) = (begun(task) for task in store.claim(1, held=()).tasks)
    store.record(News(dispatched=[task]))
    assert store.record(News(outcomes=[(task, failed)])).counts.failed == 1


def test_a_retry_leaves_no_example_behind(engine: Engine, store: SqlStore) -> None:
    """Of a reason for which nothing is failed any more; others keep theirs."""
    store.extend(3, judged(*VALID))  # type: ignore[arg-type]
    end(store, *(replace(COMPLETED, reason=r) for r in (FailureReason.TIMEOUT, FailureReason.EXCEPTION)))
    maintenance.reopen(engine, store.search_id, {FailureReason.TIMEOUT, FailureReason.OUT_OF_MEMORY})
    with engine.connect() as connection:
        kept = sa.select(tally.c.reason, tally.c.candidates, tally.c.first_index).where(tally.c.status == "failed")
        assert {row.reason: tuple(row)[1:] for row in connection.execute(kept)} == {
            "timeout": (0, None),
            "exception": (1, 1),
        }
