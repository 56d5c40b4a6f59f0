"""The shell of a run: the loop that owns the executor, the store, the clock and the signals.

It draws and checks candidates for the store, feeds the state machine of ``coordinator.py``, and
carries out its commands. Attempts are recorded before they are dispatched; results about once a
second, so a ``kill -9`` costs what was in training plus a second of results, and nothing that was
recorded. While the database is away nothing is dispatched, training goes on, and results wait.
"""

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from search.candidates import AttemptEnding, Outcome
from search.coordinator import Coordinator
from search.errors import DatabaseAway, Stopped
from search.messages import (
    Avoid,
    Claim,
    Claimed,
    Command,
    End,
    Event,
    GiveBack,
    LeasesLost,
    Record,
    RecordAttempt,
    Recorded,
    RecordStart,
    Release,
    Replace,
    StoodStill,
    StopAsked,
    Submit,
    Submitted,
    Task,
    Tick,
    WorkerEvent,
    WorkerGone,
    WorkerLost,
    WorkerTime,
)
from search.settings import Limits

if TYPE_CHECKING:
    from search.sieve import Judge

POLL_S = 0.25  # seconds; how late a signal, a deadline or the display may be
RECORD_S = 1.0  # seconds between writes of results
DISPATCH_S = 0.25  # seconds between writes for dispatch, while every worker has something to do meanwhile
ASK_S = 2.0  # seconds after which the store is asked even if there is nothing to record, for a stop from elsewhere
FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 15.0  # seconds between tries to reach a database that is away
DRAWS = 1_024  # indices that one transaction draws
DRAWS_PER_TURN = 16 * DRAWS  # before the loop looks at its workers again


@dataclass(frozen=True)
class Counts:
    """How a search stands."""

    target: int  # draws, over the whole search
    drawn: int
    rejected: int
    completed: int
    failed: int
    open: int

    @property
    def distinct(self) -> int:
        """Distinct architectures drawn."""
        return self.rejected + self.completed + self.failed + self.open

    @property
    def repeats(self) -> int:
        """Draws of an architecture that had been drawn before."""
        return self.drawn - self.distinct


@dataclass(frozen=True)
class Best:
    """The best completed candidate: by accuracy, then loss, then index."""

    index: int
    val_accuracy: float  # 0 to 1
    val_loss: float
    layers: str


class Executor(Protocol):
    """Where candidates are trained. Workers are numbered from 0; ids stay when a worker is replaced."""

    @property
    def workers(self) -> int:
        """How many candidates can be in training at once."""
        ...

    @property
    def worked(self) -> WorkerTime:
        """What all workers so far have done with their time, those that were lost included."""
        ...

    @property
    def trains_in_poll(self) -> bool:
        """Whether it trains only while it is polled."""
        ...

    def submit(self, worker: int, tasks: Sequence[Task]) -> bool:
        """Queue a batch at a worker; its tasks start in order. Returns at once.

        False: the worker is lost, of which the news is still to come; the batch goes nowhere.
        """
        ...

    def poll(self, timeout_s: float) -> list[WorkerEvent]:
        """What happened since the last call; waits up to ``timeout_s`` for something to.

        A lost worker is replaced without being asked. Raises Stopped when workers cannot be had.
        """
        ...

    def replace(self, worker: int) -> None:
        """Kill a worker with what it has and start another; no event of the killed one follows."""
        ...

    def avoid(self, node: str, why: str) -> None:
        """Start no more workers on a node, as long as there is another."""
        ...

    def release(self, worker: int) -> None:
        """Kill a worker with what it has; no event of it follows."""
        ...

    def close(self) -> None:
        """Kill what is left."""
        ...


@dataclass(frozen=True)
class Claims:
    """What a coordinator has claimed."""

    tasks: tuple[Task, ...]
    open_elsewhere: bool  # candidates may be open that it does not hold


@dataclass
class News:
    """What is to be recorded, in one transaction; what was recorded already is recorded once."""

    dispatched: list[Task] = field(default_factory=list)  # an attempt each, before it is queued at a worker
    started: list[Task] = field(default_factory=list)
    attempts: list[tuple[Task, AttemptEnding, str]] = field(default_factory=list)  # ended; the candidate stays open
    outcomes: list[tuple[Task, Outcome]] = field(default_factory=list)  # ended, with its candidate
    given_back: set[int] = field(default_factory=set)  # leases, once all the rest is recorded
    worked: WorkerTime = WorkerTime()  # what this coordinator's workers have done so far, over all of its run

    def __bool__(self) -> bool:
        """Whether there is something to record; ``worked`` alone is none, it goes with whatever is written next."""
        return bool(self.dispatched or self.started or self.attempts or self.outcomes or self.given_back)

    @property
    def tasks(self) -> list[Task]:
        """Of which there is something to record."""
        ended = [*(task for task, *_ in self.attempts), *(task for task, _ in self.outcomes)]
        return [*self.dispatched, *self.started, *ended]


@dataclass(frozen=True)
class Reply:
    """What a coordinator learns when it records."""

    counts: Counts
    best: Best | None
    lost: frozenset[int]  # leases of the news that are not held any more: what was written under them did not count
    stop_asked: bool  # by another process


class CandidateStore(Protocol):
    """Where a search is recorded. Every method is one transaction, which may be repeated: it counts once.

    Every method raises DatabaseAway when it is worth trying again, and then may have taken effect or not.
    """

    def extend(self, count: int, judge: "Judge") -> int:
        """Insert the next ``count`` indices as ``judge(start, stop)`` gives them; how many are left to draw."""
        ...

    def claim(self, count: int, held: Collection[int]) -> Claims:
        """Lease up to ``count`` open candidates, in order; first those of own leases that are not in ``held``.

        Those were given in an answer that never came, or were opened again after they had ended; of them too no more
        than ``count`` are given, and the rest is free. Leases that expired, or whose coordinator is known to be dead,
        are taken over.
        """
        ...

    def record(self, news: News) -> Reply:
        """Write down what happened under leases that are still held; the first outcome of a candidate stays."""
        ...

    def counts(self) -> Counts:
        """How the search stands."""
        ...

    def best(self) -> Best | None:
        """The best completed candidate so far."""
        ...


@dataclass(frozen=True)
class Away:
    """The database cannot be reached."""

    cause: str
    seconds: float  # so far
    limit_s: float  # after which the run gives up
    results: int  # that wait to be recorded


@dataclass(frozen=True)
class Progress:
    """What a display shows, about four times a second."""

    counts: Counts
    best: Best | None
    training: int  # candidates
    workers: int | None  # None: not known
    elapsed_s: float
    ended: int  # candidates that ended in this run
    stopping: str | None  # why the run is about to end
    away: Away | None = None
    worked: WorkerTime = WorkerTime()  # by what was recorded last


class StopRequest:
    """Set by signal handlers, read by the loop: a first request drains, a second one stops at once."""

    def __init__(self) -> None:
        self.times = 0
        self.why = ""

    def ask(self, why: str) -> None:
        """Ask the run to stop."""
        self.times += 1
        self.why = self.why or why


class Outage:
    """When to try again what a database refuses while it is away, and when to give up."""

    def __init__(self, limit_s: float, jitter: Callable[[], float]) -> None:
        self._limit_s, self._jitter = limit_s, jitter
        self._since: float | None = None
        self._tries = 0
        self._retry_at = 0.0
        self.cause: str | None = None  # while the database is away

    def may_try(self, now: float) -> bool:
        """Whether it is time for another try."""
        return self.cause is None or now >= self._retry_at

    def told(self, now: float, results: int) -> Away | None:
        """What there is to say of it, while the database is away."""
        if self.cause is None or self._since is None:
            return None
        return Away(self.cause, now - self._since, self._limit_s, results)

    def over(self) -> None:
        """The database did it."""
        self._since, self._tries, self.cause = None, 0, None

    def hope(self) -> None:
        """The database did something else: this may be tried at once."""
        self._retry_at = 0.0

    def failed(self, error: DatabaseAway, now: float) -> None:
        """Wait twice as long as last time, within half to one and a half of it. Raises DatabaseAway at the limit."""
        self.cause = str(error)
        self._since = now if self._since is None else self._since
        if now - self._since >= self._limit_s:
            raise DatabaseAway(f"the database was away for --db-outage-limit {self._limit_s:g} s: {error}") from error
        delay = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(self._tries, 20))
        self._tries += 1
        self._retry_at = now + delay * (0.5 + self._jitter())


class Run:
    """One run of a search, from what the store holds to an end."""

    def __init__(
        self,
        store: CandidateStore,
        executor: Executor,
        judge: "Judge",
        limits: Limits,
        stop: StopRequest,
        show: Callable[[Progress], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        stood_still: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._store, self._executor, self._judge, self._limits = store, executor, judge, limits
        self._stop, self._show, self._clock, self._sleep = stop, show, clock, sleep
        self._counts, self._best = store.counts(), store.best()
        self._machine = Coordinator(
            range(executor.workers),
            limits,
            completed=self._counts.completed,
            best_accuracy=self._best.val_accuracy if self._best else None,
        )
        self._stood_still = stood_still  # seconds so far, of this process
        self._stood_before = 0.0
        self._began = self._wrote = self._polled = clock()
        self._answers: list[Event] = []  # to the machine, for the next turn
        self._news = News()
        self._submits: list[Submit] = []  # until their attempts are recorded
        self._is_urgent = False  # there is news that nothing may come before
        self._wanted = 0  # candidates that the machine asked for, and did not get yet
        self._replaced: set[int] = set()  # workers, in this turn
        self._writing = Outage(limits.db_outage_limit_s, jitter)
        self._drawing = Outage(limits.db_outage_limit_s, jitter)  # of its own: a full disk may take what is short
        self._end: End | None = None
        self._ended = 0
        self._worked = WorkerTime()
        self._stop_by: float | None = None  # once it was asked to

    def __call__(self) -> str | None:
        """Run to an end: None if the search is finished, else why not. Raises Stopped, with all results kept."""
        try:
            while self.turn() is None and self._stop.times < 2:
                pass
        finally:
            self.finish()
        self._show(self._progress())
        if self._end and self._end.is_fault:
            raise Stopped(f"{self._end.why}, then go on with netsieve resume")
        return self._end.why if self._end else self._stop.why

    def turn(self) -> End | None:
        """Hear what happened, decide, and carry it out; the end, once it has come. Raises Stopped."""
        answers, self._answers = self._answers, []
        is_away = self._writing.cause is not None or self._drawing.cause is not None
        is_waiting = not answers and (is_away or not self._wanted)
        lost_s = self._clock() - self._polled if self._executor.trains_in_poll else 0.0
        heard = self._executor.poll(min(POLL_S, self._due_in_s()) if is_waiting else 0)
        self._polled = self._clock()
        events: list[Event] = [*answers, *self._standstill(lost_s), *heard, *self._stops(), Tick()]
        self._replaced.clear()
        for event in events:
            if isinstance(event, WorkerEvent) and event.worker in self._replaced and not isinstance(event, WorkerGone):
                continue  # of the process that was killed
            if isinstance(event, WorkerLost):
                self._unqueue(event.worker)
            for command in self._machine.step(event, self._clock()):
                self._do(command)
        if self._end is None and not self._due_in_s():  # at the end, finish does it
            self._write()
        may_claim = self._writing.cause is None and self._drawing.may_try(self._clock())
        if self._end is None and self._wanted and may_claim:
            self._claim()
        self._show(self._progress())
        return self._end

    def finish(self) -> None:
        """Record what is not recorded yet, however long it takes within the limits. Raises DatabaseAway."""
        self._drop_submits(lambda _: True)
        while self._news:
            self._stops()
            is_late = self._stop.times >= 2 or (self._stop_by is not None and self._clock() >= self._stop_by)
            if self._writing.cause and is_late:  # another try may wait for a lock as long as the last one
                lost = len(self._news.outcomes)
                raise DatabaseAway(f"{lost} results could not be recorded: {self._writing.cause}")
            if self._writing.may_try(self._clock()) and self._write():
                return
            self._show(self._progress())
            self._sleep(POLL_S)

    def _standstill(self, lost_s: float) -> list[Event]:
        """The time since the last turn in which nothing could train, if there was any."""
        stood_s, before = self._stood_still(), self._stood_before
        self._stood_before = stood_s
        seconds = max(lost_s, stood_s - before)  # not their sum: one may have been during the other
        return [StoodStill(seconds)] if seconds > 0 else []

    def _stops(self) -> list[Event]:
        """The request to stop, once; nothing is waited for longer than --grace from then on."""
        if not self._stop.times or self._stop_by is not None:
            return []
        self._stop_by = self._clock() + self._limits.grace_s
        return [StopAsked(self._stop.why, self._limits.grace_s)]

    def _do(self, command: Command) -> None:
        match command:
            case Claim(count):
                self._wanted = count
            case Submit(_, tasks):
                self._submits.append(command)
                self._news.dispatched += tasks
            case Replace() | Release() | Avoid():
                self._manage(command)
            case End():
                self._end = command
            case _:
                self._note(command)

    def _manage(self, command: Replace | Release | Avoid) -> None:
        """Have the executor do it."""
        match command:
            case Replace(worker):
                self._unqueue(worker)
                self._replaced.add(worker)
                self._executor.replace(worker)
            case Release(worker):
                self._unqueue(worker)
                self._executor.release(worker)
            case Avoid(node, why):
                self._executor.avoid(node, why)

    def _note(self, command: RecordStart | RecordAttempt | Record | GiveBack) -> None:
        """For the next write."""
        match command:
            case RecordStart(task):
                self._news.started.append(task)
                self._is_urgent = self._is_urgent or task.isolated
            case RecordAttempt(task, ending, detail):
                self._news.attempts.append((task, ending, detail))
            case Record(task, outcome):
                self._news.outcomes.append((task, outcome))
                self._is_urgent = self._is_urgent or task.isolated
                self._ended += 1
            case GiveBack(leases):
                self._news.given_back |= leases
                self._is_urgent = True  # a claim before it would be answered with what is given back

    def _unqueue(self, worker: int) -> None:
        """What waited for a worker that is no more is not given to its successor: the machine has it back."""
        self._drop_submits(lambda submit: submit.worker == worker)

    def _drop_submits(self, which: Callable[[Submit], bool]) -> None:
        dropped = {id(task) for submit in self._submits if which(submit) for task in submit.tasks}
        self._submits = [submit for submit in self._submits if not which(submit)]
        self._news.dispatched = [task for task in self._news.dispatched if id(task) not in dropped]

    # -------------------------------------------------- the store

    def _due_in_s(self) -> float:
        """Seconds until it is time to write."""
        if not self._writing.may_try(self._clock()):
            return POLL_S
        if self._is_urgent:  # a coordinator that is lost before it says so blames it wrongly
            return 0.0
        if self._submits and self._machine.is_anyone_idle:
            return 0.0
        wait = DISPATCH_S if self._submits else RECORD_S if self._news else ASK_S
        return max(0.0, self._wrote + wait - self._clock())

    def _write(self) -> bool:
        """Record what came in since the last time, then give the workers what was to be dispatched."""
        self._news.worked = self._executor.worked
        try:
            reply = self._store.record(self._news)
        except DatabaseAway as error:
            self._writing.failed(error, self._clock())
            return False
        self._writing.over()
        self._drawing.hope()
        self._counts, self._best, self._wrote = reply.counts, reply.best, self._clock()
        self._worked = self._news.worked
        self._news, submits, self._submits, self._is_urgent = News(), self._submits, [], False
        counts, accuracy = reply.counts, reply.best.val_accuracy if reply.best else 0.0
        self._answers.append(Recorded(counts.completed, accuracy, counts.open, counts.drawn < counts.target))
        if reply.lost:
            self._answers.append(LeasesLost(reply.lost))
        if reply.stop_asked:
            self._answers.append(StopAsked("netsieve stop", None))
        for submit in submits:
            tasks = [task for task in submit.tasks if task.lease not in reply.lost]
            if tasks and self._executor.submit(submit.worker, tasks):
                self._answers.append(Submitted(submit.worker))
        return True

    def _claim(self) -> None:
        """Claim what is open, and draw what is missing, for a turn; the rest is for the next turns.

        So a space in which hardly anything is valid is drawn from turn by turn, and signals are heard between.
        """
        tasks: list[Task] = []
        left, draws, elsewhere = 1, 0, True
        try:
            elsewhere = self._claim_into(tasks)
            while len(tasks) < self._wanted and left and draws < DRAWS_PER_TURN:
                left = self._store.extend(DRAWS, self._judge)
                draws += DRAWS
                elsewhere = self._claim_into(tasks)
        except DatabaseAway as error:
            if not tasks:
                self._drawing.failed(error, self._clock())
                return
            elsewhere = True  # nobody knows what was drawn meanwhile; the next claim tries again
        self._drawing.over()
        self._wanted = 0
        self._answers.append(Claimed(tuple(tasks), left_to_draw=left > 0, open_elsewhere=elsewhere))

    def _claim_into(self, tasks: list[Task]) -> bool:
        """Add what is open to ``tasks``, up to what is wanted; whether more is open elsewhere."""
        in_hand = (*tasks, *self._news.tasks)  # also what has ended, as long as that is not recorded
        claims = self._store.claim(self._wanted - len(tasks), self._machine.leases | {task.lease for task in in_hand})
        tasks += claims.tasks
        return claims.open_elsewhere

    def _progress(self) -> Progress:
        return Progress(
            self._counts,
            self._best,
            len(self._machine.training),
            self._executor.workers,
            self._clock() - self._began,
            self._ended,
            self._machine.stopping,
            (self._writing if self._writing.cause else self._drawing).told(self._clock(), len(self._news.outcomes)),
            self._worked,
        )
