"""The shell of a run: the loop that owns the executor, the store, the clock and the signals.

It draws and checks candidates for the store, feeds the state machine of ``coordinator.py``, and
carries out its commands. Results are written about once a second, so a ``kill -9`` costs what was in
training plus a second of results, and nothing that was recorded.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from search.candidates import Outcome
from search.coordinator import (
    Command,
    Coordinator,
    End,
    Event,
    Open,
    Opened,
    Record,
    RecordStart,
    Release,
    Replace,
    StopAsked,
    Submit,
    Task,
    Tick,
    WorkerEvent,
)
from search.errors import Stopped
from search.layer_string import format_architecture
from search.layers import Architecture
from search.settings import Limits
from search.shapes import Rules, Verdict, check

POLL_S = 0.25  # seconds; how late a signal, a deadline or the display may be
RECORD_S = 1.0  # seconds between writes
SIGN_OF_LIFE_S = 10.0  # seconds after which a write is made even if there is nothing to record
DRAWS = 1_024  # indices that one transaction draws
DRAWS_PER_TURN = 16 * DRAWS  # before the loop looks at its workers again


@dataclass(frozen=True)
class Drawn:
    """A candidate as drawn and checked, for the store."""

    index: int
    layers: str  # canonical layer string
    verdict: Verdict


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


class Sampler(Protocol):
    """Draws candidates by index: index i always gives the same architecture."""

    def draw(self, start: int, stop: int) -> Sequence[Architecture]:
        """The architectures of indices start to stop - 1, invalid ones included."""
        ...


class Executor(Protocol):
    """Where candidates are trained. Workers are numbered from 0; ids stay when a worker is replaced."""

    @property
    def workers(self) -> int:
        """How many candidates can be in training at once."""
        ...

    def submit(self, worker: int, tasks: Sequence[Task]) -> None:
        """Queue a batch at a worker; its tasks start in order. Returns at once."""
        ...

    def poll(self, timeout_s: float) -> list[WorkerEvent]:
        """What happened since the last call; waits up to ``timeout_s`` for something to.

        A lost worker is replaced without being asked. Raises Stopped when workers cannot be had.
        """
        ...

    def replace(self, worker: int) -> None:
        """Kill a worker with what it has and start another; no event of the killed one follows."""
        ...

    def release(self, worker: int) -> None:
        """Kill a worker with what it has; no event of it follows."""
        ...

    def close(self) -> None:
        """Kill what is left."""
        ...


class CandidateStore(Protocol):
    """Where a search is recorded. Every method is one transaction."""

    def extend(self, count: int, judge: Callable[[int, int], Sequence[Drawn]]) -> int:
        """Insert the next ``count`` indices as ``judge(start, stop)`` gives them; how many were left to draw."""
        ...

    def open_after(self, index: int, limit: int) -> list[Task]:
        """The first ``limit`` open candidates with an index above ``index``, in order."""
        ...

    def record(self, started: Collection[int], outcomes: Mapping[int, Outcome]) -> None:
        """Count an attempt for each started index, and end those that have an outcome; the first one stays.

        Also without either a sign of life of this coordinator.
        """
        ...

    def counts(self) -> Counts:
        """How the search stands."""
        ...

    def best(self) -> Best | None:
        """The best completed candidate so far."""
        ...


@dataclass(frozen=True)
class Progress:
    """What a display shows, about four times a second."""

    counts: Counts
    best: Best | None
    training: int  # candidates
    workers: int
    elapsed_s: float
    ended: int  # candidates that ended in this run
    stopping: str | None  # why the run is about to end


class StopRequest:
    """Set by signal handlers, read by the loop: a first request drains, a second one stops at once."""

    def __init__(self) -> None:
        self.times = 0
        self.why = ""

    def ask(self, why: str) -> None:
        """Ask the run to stop."""
        self.times += 1
        self.why = self.why or why


def judge_with(sampler: Sampler, rules: Rules) -> Callable[[int, int], list[Drawn]]:
    """Draws and checks: what the store inserts for indices start to stop - 1."""

    def judge(start: int, stop: int) -> list[Drawn]:
        architectures = sampler.draw(start, stop)
        return [
            Drawn(index, format_architecture(architecture), check(architecture, rules))
            for index, architecture in enumerate(architectures, start)
        ]

    return judge


class Run:
    """One run of a search, from what the store holds to an end."""

    def __init__(
        self,
        store: CandidateStore,
        executor: Executor,
        judge: Callable[[int, int], Sequence[Drawn]],
        limits: Limits,
        stop: StopRequest,
        show: Callable[[Progress], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._executor, self._judge, self._limits = store, executor, judge, limits
        self._stop, self._show, self._clock = stop, show, clock
        self._counts, self._best = store.counts(), store.best()
        self._machine = Coordinator(
            range(executor.workers),
            limits,
            completed=self._counts.completed,
            best_accuracy=self._best.val_accuracy if self._best else None,
        )
        self._last_opened = -1  # highest index handed to the machine
        self._answers: list[Opened] = []  # to the machine, for the next turn
        self._started: list[int] = []
        self._outcomes: dict[int, Outcome] = {}
        self._ended = 0
        self._asked = False

    def __call__(self) -> str | None:
        """Run to an end: None if the search is finished, else why not. Raises Stopped, with all results kept."""
        began = recorded = self._clock()
        end: End | None = None
        try:
            while end is None and self._stop.times < 2:
                answers, self._answers = self._answers, []
                events: list[Event] = [*answers, *self._executor.poll(0 if answers else POLL_S), Tick()]
                if self._stop.times and not self._asked:
                    self._asked = True
                    events.append(StopAsked(self._stop.why, self._limits.grace_s))
                for event in events:
                    end = self._step(event) or end
                now = self._clock()
                something = self._started or self._outcomes
                if now - recorded >= (RECORD_S if something else SIGN_OF_LIFE_S):
                    self._write()
                    recorded = now
                self._show(self._progress(now - began))
        finally:
            self._write()
        self._show(self._progress(self._clock() - began))
        return end.why if end else self._stop.why

    def _step(self, event: Event) -> End | None:
        """Feed one event to the machine and carry out what it commands; an answer waits for the next turn.

        So a space in which hardly anything is valid is drawn from turn by turn, and signals are heard between.
        """
        end = None
        for command in self._machine.step(event, self._clock()):
            if isinstance(command, End):
                end = command
            else:
                self._do(command)
        return end

    def _do(self, command: Command) -> None:
        match command:
            case Open(count):
                self._answers.append(self._open(count))
            case Submit(worker, tasks):
                self._executor.submit(worker, tasks)
            case Replace(worker):
                self._executor.replace(worker)
            case Release(worker):
                self._executor.release(worker)
            case RecordStart(index):
                self._started.append(index)
            case Record(index, outcome):
                self._outcomes[index] = outcome
                self._ended += 1
            case _:
                raise Stopped(f"the coordinator gave a command that nobody carries out: {command}")

    def _open(self, count: int) -> Opened:
        """Open candidates: those that an earlier run left, then new draws."""
        tasks = self._store.open_after(self._last_opened, count)
        draws, left = 0, 1
        while len(tasks) < count and left > 0 and draws < DRAWS_PER_TURN:
            left = self._store.extend(DRAWS, self._judge)
            draws += DRAWS
            above = tasks[-1].index if tasks else self._last_opened
            tasks += self._store.open_after(above, count - len(tasks))
        if tasks:
            self._last_opened = tasks[-1].index
        self._counts = self._store.counts()
        return Opened(tuple(tasks), exhausted=len(tasks) < count and left <= 0)

    def _write(self) -> None:
        """Record what came in since the last time, and with it that this coordinator is at work."""
        self._store.record(self._started, self._outcomes)
        self._started, self._outcomes = [], {}
        self._counts, self._best = self._store.counts(), self._store.best()

    def _progress(self, elapsed_s: float) -> Progress:
        training = len(self._machine.training)
        return Progress(
            self._counts, self._best, training, self._executor.workers, elapsed_s, self._ended, self._machine.stopping
        )
