"""``netsieve db check`` finds what is wrong: a sound search is sound, and every planted fault is named."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy import Engine

from search.candidates import FailureReason, Measurement, Outcome
from search.cli import main
from search.messages import Task
from search.run import News
from search.samplers import RejectionSampler
from search.settings import Recipe, SearchSettings
from search.sieve import judge_with
from search.space import CLASSIC
from storage import check, queries
from storage.engine import open_for_reading, open_for_writing
from storage.schema import attempt, candidate, coordinator, lease, search, tally
from storage.store import SqlStore

SETTINGS = SearchSettings(CLASSIC, "rejection", 1, 0, "digits", "00", Recipe(epochs=2), "cpu")
COMPLETED = Outcome((Measurement(1, 2.0, 1.5, 0.5), Measurement(2, 1.0, 0.9, 0.75)), 3.5)
FAILED = Outcome((), 1.0, FailureReason.TIMEOUT, "no end")
judge = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A search with candidates of every status, leases and attempts."""
    engine = open_for_writing(database_url)
    store = SqlStore.open(engine, "first", SETTINGS, 2_000)
    store.join()
    store.extend(1_500, judge)
    done = [Task(t.index, t.layers, t.macs, t.lease, 1, 1) for t in store.claim(20, ()).tasks]
    store.record(News(dispatched=done))
    store.record(News(outcomes=[(task, FAILED if task is done[0] else COMPLETED) for task in done]))
    begun = [Task(t.index, t.layers, t.macs, t.lease, 1, 1) for t in store.claim(5, ()).tasks]
    store.record(News(dispatched=begun, started=begun[:1]))
    store.claim(5, {task.lease for task in begun})
    yield engine
    engine.dispose()


def wrong(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        report = check.check_search(connection, 1, SETTINGS.recipe, judge)
        assert report.drawn == 1_500
        return check.check_file(connection) + report.wrong


def test_a_sound_search_is_sound(engine: Engine) -> None:
    """In the middle of its run, with rows of every status."""
    assert wrong(engine) == []


def of(status: str, number: int = 0) -> sa.ColumnElement[bool]:
    """One candidate of that status."""
    found = sa.select(candidate.c.draw_index).where(candidate.c.status == status).order_by(candidate.c.draw_index)
    return candidate.c.draw_index == found.offset(number).limit(1).scalar_subquery()


VALUES = candidate.update().values
FAULTS: dict[str, tuple[list[sa.Executable], str]] = {
    "a row is gone": (
        [
            attempt.delete(),
            candidate.delete().where(of("completed")),
            tally.update().where(tally.c.status == "completed").values(candidates=tally.c.candidates - 1),
        ],
        "is drawn there, and is missing",
    ),
    "other layers": ([VALUES(layers="dropout=p:0.2-").where(of("rejected"))], "drawn are"),
    "another digest": ([VALUES(digest=b"0123456789abcdef").where(of("open", 3))], "digest"),
    "a wrong reason": ([VALUES(reason="over_budget").where(of("rejected"))], "reason is 'over_budget'"),
    "a wrong layer": ([VALUES(layer=99).where(of("rejected"))], "layer is '99'"),
    "a rejection that is none": (
        [VALUES(status="rejected", reason="over_budget").where(of("open", 7))],
        "is rejected, and the shape checker says valid",
    ),
    "other parameters": ([VALUES(parameters=1).where(of("completed"))], "parameters is '1'"),
    "a loss that the curve has not": ([VALUES(val_loss=0.1).where(of("completed"))], "its columns say otherwise"),
    "a curve that is too short": (
        [VALUES(curve=[[1.0, 0.9, 0.75]], epochs=1).where(of("completed"))],
        "is completed after 1 epochs of 2",
    ),
    "an accuracy of 2": (
        [VALUES(curve=[[2.0, 1.5, 0.5], [1.0, 0.9, 2.0]], val_accuracy=2.0).where(of("completed"))],
        "accuracy that is not from 0 to 1",
    ),
    "no seconds": ([VALUES(seconds=None).where(of("completed"))], "is completed after 1 attempts and None s"),
    "no such reason": ([VALUES(reason="bad luck").where(of("failed"))], "which is no reason"),
    "open with an outcome": ([VALUES(seconds=1.0).where(of("open", 7))], "is open, and has an outcome"),
    "trained, and rejected": ([VALUES(attempts=1).where(of("rejected"))], "is rejected, and was trained"),
    "a wrong tally": ([tally.update().where(tally.c.status == "open").values(candidates=1)], "the tally of open"),
    "a tally of nothing": (
        [tally.insert().values(search_id=1, status="failed", reason="exception", layer=-1, candidates=3)],
        "the tally of failed exception is 3, there are 0",
    ),
    "a wrong example": (
        [tally.update().where(tally.c.status == "rejected").values(first_index=1_499)],
        "the example of rejected",
    ),
    "more drawn than asked": ([search.update().values(target=100)], "1500 candidates are drawn of 100"),
    "an index beyond": (
        [VALUES(draw_index=1_999).where(of("open", 20))],
        "1 candidates have an index that was not drawn",
    ),
    "leases that overlap": ([lease.update().where(lease.c.epoch == 3).values(first_index=80)], "overlap"),
    "a lease of no claim": ([search.update().values(claims=1)], "is of no claim that was made"),
    "a lease of nobody": (
        [coordinator.update().values(ended_at=coordinator.c.started_at)],
        "is of coordinator 1, which has ended",
    ),
    "in flight without a lease": ([lease.delete()], "in flight under epoch"),
    "in flight, and done": (
        [attempt.update().values(ending=None, ended_at=None)],
        "in flight under epoch 1, the candidate failed",
    ),
    "blamed three times": (
        [
            attempt.insert().from_select(
                ["search_id", "draw_index", "number", "epoch", "coordinator_id", "isolated", "dispatched_at", "ending"],
                sa.select(
                    attempt.c.search_id, attempt.c.draw_index, attempt.c.number + more, attempt.c.epoch,
                    attempt.c.coordinator_id, attempt.c.isolated, attempt.c.dispatched_at, attempt.c.ending,
                ).where(attempt.c.ending == "timeout", attempt.c.number == 1),
            )
            for more in (1, 2)
        ],
        "is blamed for 3 attempts, 2 at the most",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "named"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(changes: list[sa.Executable], named: str, engine: Engine) -> None:
    """Each of them, on both databases."""
    with engine.begin() as connection:
        for change in changes:
            connection.execute(change)
    assert any(named in line for line in wrong(engine)), wrong(engine)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """SQLite's own check is part of it: here a row refers to a search that is not there."""
    engine = open_for_writing(f"sqlite:///{tmp_path / 'search.db'}")
    store = SqlStore.open(engine, "first", SETTINGS, 10)
    store.extend(10, judge)
    with engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("UPDATE candidate SET search_id = 7 WHERE draw_index = 3")
        assert check.check_file(connection) == ["table candidate: a row refers to search, where there is none"]
    engine.dispose()


def test_it_asks_in_one_snapshot(engine: Engine, database_url: str) -> None:
    """What is recorded while it looks does not show."""
    reader = open_for_reading(database_url)
    with reader.connect() as connection:
        before = queries.counts(connection, 1)
        SqlStore.open(engine, "first", SETTINGS, 2_000).extend(100, judge)
        assert queries.counts(connection, 1) == before
        assert check.check_search(connection, 1, SETTINGS.recipe, judge).wrong == []
    reader.dispose()


def test_the_command_exits_with_what_is_wrong(engine: Engine, database_url: str) -> None:
    """0 and a line a search; 1 and what is wrong."""
    sound = CliRunner().invoke(main, ["db", "check", "--db", database_url])
    assert (sound.exit_code, sound.stderr) == (0, "")
    assert sound.stdout == "first: sound; 1,500 drawn = 1,441 distinct + 59 repeats\n"
    with engine.begin() as connection:
        connection.execute(VALUES(val_loss=0.1).where(candidate.c.status == "completed"))
    faulty = CliRunner().invoke(main, ["db", "check", "first", "--db", database_url])
    assert faulty.exit_code == 1
    assert faulty.stdout.startswith("first: 19 wrong;")
