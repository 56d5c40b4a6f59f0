"""A whole run with the in-process executor, a real database, and a trainer that is a function of the string."""

import itertools
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from search.candidates import FailureReason, Measurement, Outcome, Status
from search.coordinator import FEWEST_WAITING
from search.errors import DatabaseAway, Stopped
from search.run import Away, Claims, News, Progress, Reply, Run, StopRequest
from search.samplers import RejectionSampler
from search.settings import Limits, Recipe, SearchSettings
from search.sieve import Drawn, judge_with
from search.space import CLASSIC
from storage import maintenance, queries
from storage.engine import open_for_writing
from storage.schema import candidate
from storage.store import SqlStore
from tests.stored import candidates
from workers.executors import InProcessExecutor

SETTINGS = SearchSettings(CLASSIC, "rejection", 1, 0, "digits", "00", Recipe(), "cpu")
LIMITS = Limits(candidates=300)
judge = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)


class HashTrainer:
    """Outcomes that follow from the layer string, without torch."""

    def __init__(self) -> None:
        self.trained: list[str] = []

    def prepare(self) -> "HashTrainer":
        return self

    def train(self, layers: str) -> Iterator[Outcome | None]:
        self.trained.append(layers)
        yield None
        number = zlib.crc32(layers.encode())
        loss = number / 2**32
        reason = FailureReason.NON_FINITE_LOSS if number % 10 == 0 else None
        yield Outcome((Measurement(1, loss, loss, 1 - loss),), 0.001, reason, reason and "in epoch 2")


class Search:
    """A search in a file, and what its runs trained."""

    def __init__(self, path: Path) -> None:
        self.engine = open_for_writing(f"sqlite:///{path}")
        self.trainer = HashTrainer()

    def run(
        self, limits: Limits = LIMITS, stop: StopRequest | None = None, **more: Callable[[Progress], None]
    ) -> str | None:
        store = self.join(limits.candidates)
        executor = InProcessExecutor(self.trainer)
        try:
            return Run(store, executor, judge, limits, stop or StopRequest(), **more)()
        finally:
            store.leave(None)

    def join(self, candidates: int) -> SqlStore:
        store = SqlStore.open(self.engine, "first", SETTINGS, candidates)
        store.join()
        return store

    def rows(self) -> list[queries.CandidateRow]:
        with self.engine.connect() as connection:
            return [replace(row, seconds=None) for row in candidates(connection, 1)]

    def standing(self) -> queries.Standing:
        with self.engine.connect() as connection:
            return queries.standing(connection, 1)


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    found = Search(tmp_path / "search.db")
    yield found
    found.engine.dispose()


@pytest.fixture
def whole(tmp_path: Path) -> list[queries.CandidateRow]:
    """The rows of a search that ran through."""
    uninterrupted = Search(tmp_path / "whole.db")
    uninterrupted.run()
    uninterrupted.engine.dispose()
    return uninterrupted.rows()


def test_a_run_draws_sieves_trains_and_records(search: Search) -> None:
    """Every index is accounted for; exactly the valid, distinct strings are trained, once each, in order."""
    assert search.run() is None
    standing = search.standing()
    assert standing.state is queries.State.FINISHED
    assert standing.counts.drawn == 300
    drawn = judge(0, 300)
    expected = list(dict.fromkeys(d.layers for d in drawn if d.verdict.valid))
    assert search.trainer.trained == expected
    rows = search.rows()
    assert {row.layers for row in rows} == {d.layers for d in drawn}
    assert all(row.attempts == 1 for row in rows if row.status is not Status.REJECTED)


def test_a_run_records_what_its_workers_did(search: Search) -> None:
    """Of the workers' time, up to the last result: what was in training, and all there was."""
    shown: list[Progress] = []
    search.run(show=shown.append)
    with search.engine.connect() as connection:
        worked = queries.worked(connection, 1)
    assert 0 < worked.training_s < worked.worker_s
    assert shown[-1].worked == worked


def test_an_idle_worker_is_given_its_batch_at_once(search: Search, whole: list[queries.CandidateRow]) -> None:
    """It does not wait for a time to come: the search ends as ever while the clock stands still."""
    store = search.join(LIMITS.candidates)
    run = Run(store, InProcessExecutor(search.trainer), judge, LIMITS, StopRequest(), clock=lambda: 7.0)
    assert any(run.turn() for _ in range(10 * len(whole)))
    run.finish()
    store.leave(None)
    assert search.rows() == whole


def test_a_finished_search_trains_nothing_again(search: Search) -> None:
    """Another run finds nothing to do."""
    search.run()
    trained = list(search.trainer.trained)
    assert search.run() is None
    assert search.trainer.trained == trained


def test_a_longer_search_begins_with_the_shorter_one(search: Search, whole: list[queries.CandidateRow]) -> None:
    """Extending leaves the rows that there were, and ends like a search that was long from the start."""
    search.run(replace(LIMITS, candidates=120))
    short = search.rows()
    search.run()
    assert search.rows()[: len(short)] == short
    assert search.rows() == whole


def test_a_run_that_is_cut_anywhere_resumes_to_the_same_rows(search: Search, whole: list[queries.CandidateRow]) -> None:
    """A second stop request cuts a run at once; whatever was recorded by then is not trained again."""
    cuts = 0
    while search.trainer.trained == [] or search.standing().state is not queries.State.FINISHED:
        stop = StopRequest()
        seen = 0

        def cut(progress: Progress, stop: StopRequest = stop) -> None:
            nonlocal seen
            seen += 1
            if seen == 8:
                stop.ask("cut")
                stop.ask("cut")

        why = search.run(stop=stop, show=cut)
        cuts += why is not None
    assert cuts >= 10
    assert [replace(row, attempts=0) for row in search.rows()] == [replace(row, attempts=0) for row in whole]
    repeated = len(search.trainer.trained) - len(set(search.trainer.trained))
    assert repeated <= cuts


def test_a_stop_finishes_what_is_training_and_says_why(search: Search) -> None:
    """What had begun is recorded; the rest stays open."""
    stop = StopRequest()

    def ask(progress: Progress) -> None:
        if progress.training and not stop.times:
            stop.ask("interrupted")

    assert search.run(stop=stop, show=ask) == "interrupted"
    counts = search.standing().counts
    assert counts.completed + counts.failed == 1
    assert counts.open > 0


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ({"max_completed": 5}, "--max-completed 5 reached"),
        ({"target_accuracy": 0.9}, "--target-accuracy 0.9 reached"),
    ],
)
def test_limits_end_a_run_and_a_later_one_goes_on(
    search: Search, whole: list[queries.CandidateRow], limit: dict[str, float], why: str
) -> None:
    """Ending early leaves a search that ends like any other."""
    assert search.run(replace(LIMITS, **limit)) == why  # type: ignore[arg-type]
    assert search.standing().counts.open > 0
    assert search.run() is None
    assert search.rows() == whole


def test_results_survive_an_executor_that_gives_up(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """When workers cannot be had the run raises, with everything recorded that came in."""
    poll = InProcessExecutor.poll
    calls = 0

    def tiring(self: InProcessExecutor, timeout_s: float) -> list:  # type: ignore[type-arg]
        nonlocal calls
        calls += 1
        if calls > 20:
            raise Stopped("workers do not start")
        return poll(self, timeout_s)

    monkeypatch.setattr(InProcessExecutor, "poll", tiring)
    with pytest.raises(Stopped, match="do not start"):
        search.run()
    counts = search.standing().counts
    assert counts.completed + counts.failed == len(search.trainer.trained)


def test_a_search_that_only_draws_hears_a_stop(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing that is drawn is valid, the loop still comes round to signals and the display."""
    monkeypatch.setattr("search.run.DRAWS_PER_TURN", 1)
    monkeypatch.setattr("search.run.DRAWS", 1)
    invalid = next(drawn for drawn in judge(0, 100) if not drawn.verdict.valid)
    store = search.join(10**12)
    stop, turns = StopRequest(), 0

    def ask(_: Progress) -> None:
        nonlocal turns
        turns += 1
        if turns == 5:
            stop.ask("interrupted")

    def only_invalid(start: int, end: int) -> list[Drawn]:
        return [replace(invalid, index=index) for index in range(start, end)]

    run = Run(store, InProcessExecutor(search.trainer), only_invalid, Limits(candidates=10**12), stop, ask)
    assert run() == "interrupted"
    counts = store.counts()
    assert (counts.distinct, counts.rejected) == (1, 1)
    assert 0 < counts.drawn < 20


def test_training_goes_on_while_a_sparse_space_is_drawn(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate is trained, and does not time out, while the loop looks for the next valid one."""
    monkeypatch.setattr("search.run.DRAWS_PER_TURN", 1)
    monkeypatch.setattr("search.run.DRAWS", 1)
    invalid = next(drawn for drawn in judge(0, 100) if not drawn.verdict.valid)
    valid = next(drawn for drawn in judge(0, 100) if drawn.verdict.valid)

    def sparse(start: int, end: int) -> list[Drawn]:
        return [replace(valid if index == 0 else invalid, index=index) for index in range(start, end)]

    store = search.join(2_000)
    limits = Limits(candidates=2_000, max_completed=1, trial_timeout_s=0.5)
    assert Run(store, InProcessExecutor(search.trainer), sparse, limits, StopRequest())() is not None
    assert (store.counts().completed, store.counts().failed) == (1, 0)
    assert store.counts().drawn < 2_000


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> str:
    """The first valid string, whose training does not end."""
    hanging = next(d.layers for d in judge(0, 300) if d.verdict.valid)
    train = HashTrainer.train

    def hang(self: HashTrainer, layers: str) -> Iterator[Outcome | None]:
        while layers == hanging:
            yield None
        yield from train(self, layers)

    monkeypatch.setattr(HashTrainer, "train", hang)
    return hanging


def test_a_timeout_is_an_outcome_and_the_others_go_on(search: Search, hanging: str) -> None:
    """A training that does not end fails, and the search finishes."""
    assert search.run(replace(LIMITS, candidates=30, trial_timeout_s=0.3)) is None
    failed = [row for row in search.rows() if row.reason == FailureReason.TIMEOUT]
    assert [row.layers for row in failed] == [hanging]


def test_in_one_process_slow_batches_are_training_and_a_slow_database_is_not(search: Search, hanging: str) -> None:
    """By a clock that goes on by six seconds a look: what hangs fails, what waited for the database does not."""
    ticks = itertools.count(0.0, 6.0)
    limits = replace(LIMITS, candidates=100, trial_timeout_s=30.0)
    assert search.run(limits, clock=lambda: next(ticks)) is None
    assert [row.layers for row in search.rows() if row.reason == FailureReason.TIMEOUT] == [hanging]


def test_progress_adds_up(search: Search) -> None:
    """What a display is shown agrees with the database at the end."""
    shown: list[Progress] = []
    search.run(show=shown.append)
    last = shown[-1]
    assert last.counts == search.standing().counts
    assert last.ended == last.counts.completed + last.counts.failed
    assert last.best is not None
    assert last.best.val_accuracy == max(row.val_accuracy or 0 for row in search.rows() if row.status == "completed")


# ------------------------------------------------------------------ the database is away


class AwayStore(SqlStore):
    """Can be away."""

    away = False

    def record(self, news: News) -> Reply:
        if self.away:
            raise DatabaseAway("the server is gone")
        return super().record(news)

    def claim(self, count: int, held: Collection[int]) -> Claims:
        if self.away:
            raise DatabaseAway("the server is gone")
        return super().claim(count, held)


class Outing:
    """A run whose database goes away after some trainings, and the seconds that it slept."""

    def __init__(self, search: Search, returns_after: int, **limits: float) -> None:
        self.store = AwayStore.open(search.engine, "first", SETTINGS, 300)
        self.store.join()
        self.stop, self.turns, self.returns_after = StopRequest(), 0, returns_after
        self.aways: list[Away] = []
        self.ticks, self.asked_at = itertools.count(), 0
        limits_ = Limits(candidates=300, **limits)  # type: ignore[arg-type]
        self.run = Run(self.store, InProcessExecutor(search.trainer), judge, limits_, self.stop, self.look,
                       clock=lambda: 0.1 * next(self.ticks), sleep=lambda _: self.look(None))  # fmt: skip

    def look(self, progress: Progress | None) -> None:
        """Called in every turn."""
        if progress and progress.away:
            self.aways.append(progress.away)
        if progress is None or progress.ended >= 5 or self.store.away:
            self.turns += 1
            self.store.away = self.turns < self.returns_after


def test_a_draw_that_fails_is_no_outage_while_candidates_are_claimed(
    search: Search, whole: list[queries.CandidateRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next one that fails, hours of training later, would end the run: --db-outage-limit would be over."""
    store = search.join(300)
    store.extend(12, judge)
    assert 0 < store.counts().open < FEWEST_WAITING
    tries, extend = itertools.count(), store.extend

    def fail(count: int, judge: Callable[[int, int], Sequence[Drawn]]) -> int:
        if next(tries) < 1:
            raise DatabaseAway("locked for a moment")
        return extend(count, judge)

    monkeypatch.setattr(store, "extend", fail)
    shown: list[Progress] = []
    run = Run(store, InProcessExecutor(search.trainer), judge, LIMITS, StopRequest(), shown.append)
    assert run() is None
    assert next(tries) > 1
    assert [progress.away for progress in shown if progress.away] == []
    store.leave(None)
    assert search.rows() == whole


def test_training_goes_on_while_the_database_is_away(search: Search, whole: list[queries.CandidateRow]) -> None:
    """What was queued is trained, its results wait, nothing is dispatched; then the search ends as ever."""
    outing = Outing(search, 60)
    assert outing.run() is None
    assert {away.cause for away in outing.aways} == {"the server is gone"}
    assert [away.seconds for away in outing.aways] == sorted(away.seconds for away in outing.aways)
    assert 1 <= max(away.results for away in outing.aways) < len(whole)
    assert search.rows() == whole
    assert len(search.trainer.trained) == len(set(search.trainer.trained))


def test_an_outage_that_lasts_too_long_stops_the_run(search: Search, whole: list[queries.CandidateRow]) -> None:
    """Exit 75 with the cause; a later run goes on to the same rows."""
    outing = Outing(search, 10**9, db_outage_limit_s=30.0)
    with pytest.raises(Stopped, match="away for --db-outage-limit 30 s: the server is gone"):
        outing.run()
    outing.store.leave("away")
    assert search.run() is None
    assert [replace(row, attempts=0) for row in search.rows()] == [replace(row, attempts=0) for row in whole]


class FullStore(SqlStore):
    """Takes what goes into the rows that are there, and no new ones."""

    is_full = True

    def extend(self, count: int, judge: Callable[[int, int], Sequence[Drawn]]) -> int:
        if self.is_full:
            raise DatabaseAway("the disk is full")
        return super().extend(count, judge)


@pytest.mark.parametrize("ends", [True, False])
def test_a_full_disk_that_only_drawing_meets_is_an_outage(
    search: Search, whole: list[queries.CandidateRow], ends: bool
) -> None:
    """What can be written meanwhile does not put off its end; once there is room the search goes on."""
    store = FullStore.open(search.engine, "first", SETTINGS, 300)
    store.join()
    ticks, aways = itertools.count(), list[Away]()

    def look(progress: Progress) -> None:
        if progress.away:
            aways.append(progress.away)
            store.is_full = not ends or progress.away.seconds < 60

    limits = Limits(candidates=300, db_outage_limit_s=1_000.0 if ends else 30.0)
    run = Run(store, InProcessExecutor(search.trainer), judge, limits, StopRequest(), look,
              clock=lambda: 0.1 * next(ticks), sleep=lambda _: None)  # fmt: skip
    if ends:
        assert run() is None
        assert search.rows() == whole
    else:
        with pytest.raises(Stopped, match="away for --db-outage-limit 30 s: the disk is full"):
            run()
    assert [away.seconds for away in aways] == sorted(away.seconds for away in aways)
    assert aways[-1].seconds > 25
    store.leave(None)


def test_a_stop_in_an_outage_waits_for_the_database_and_a_second_does_not(search: Search) -> None:
    """What was trained is worth a wait; a person who has no patience loses it, and is told how much."""
    outing = Outing(search, 10**9)
    look, asked = outing.look, itertools.count()

    def impatient(progress: Progress | None) -> None:
        look(progress)
        if outing.store.away and next(asked) in {40, 80}:
            outing.stop.ask("interrupted by SIGTERM")

    outing.run._show, outing.run._sleep = impatient, lambda _: impatient(None)
    with pytest.raises(Stopped, match=r"\d+ results could not be recorded: the server is gone"):
        outing.run()
    patient = Outing(search, 100)
    patient.stop.ask("interrupted by SIGTERM")
    assert patient.run() == "interrupted by SIGTERM"


def test_a_stop_in_an_outage_waits_no_longer_than_its_grace(search: Search) -> None:
    """Whoever sends SIGTERM sends SIGKILL soon; what could not be recorded is trained again."""
    outing = Outing(search, 10**9, grace_s=3.0)
    look = outing.look

    def once_away(progress: Progress | None) -> None:
        look(progress)
        if outing.store.away and not outing.stop.times:
            outing.stop.ask("interrupted by SIGTERM")
            outing.asked_at = next(outing.ticks)

    outing.run._show, outing.run._sleep = once_away, lambda _: once_away(None)
    with pytest.raises(Stopped, match=r"\d+ results could not be recorded: the server is gone"):
        outing.run()
    assert 0.1 * (next(outing.ticks) - outing.asked_at) < 5.0


def test_a_stop_from_elsewhere_waits_for_what_is_training(tmp_path: Path) -> None:
    """``netsieve stop`` drains: --grace bounds what a signal may take, not this."""
    search = Search(tmp_path / "search.db")
    asked: list[int] = []

    def ask(progress: Progress) -> None:
        if progress.training and not asked:
            asked.append(1)
            with search.engine.connect() as connection:
                search_id = queries.require(connection, "first").id
            maintenance.ask_to_stop(search.engine, search_id)

    ticks = itertools.count()
    why = search.run(replace(LIMITS, grace_s=0.0), show=ask, clock=lambda: 3.0 * next(ticks))  # type: ignore[arg-type]
    assert why == "netsieve stop"
    with search.engine.connect() as connection:
        assert queries.counts(connection, 1).completed >= 1
        begun = sa.select(candidate.c.draw_index).where(candidate.c.attempts > 0, candidate.c.status == Status.OPEN)
        assert connection.scalars(begun).all() == []
