"""The coordinator of a run, as a state machine: events in, commands out.

It decides what is trained where, who is blamed when a worker is lost, and when the run ends. It does
no I/O and reads no clock: ``run.py`` feeds it events with the time at which they came, and carries
out its commands. So every decision can be tested without a process, a database or a second passing.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from search.candidates import FailureReason, Outcome, Status
from search.settings import Limits

BATCH_S = 2.0  # seconds of training that a batch aims at: far above a call's cost, far below a person's patience
LARGEST_BATCH = 64  # candidates
OPEN_BATCHES = 3  # batches a worker that are kept open: one in training, one queued there, one to be dispatched
QUEUED_BATCHES = 2  # of those, at the worker
OVERHEAD_MACS = 100_000  # what an image costs beyond its multiply-adds, as multiply-adds; calls dominate tiny networks
SUSPICIONS = 2  # times that a worker may be lost before a candidate's start was seen, before it is blamed


@dataclass(frozen=True)
class Task:
    """An open candidate, ready to be trained."""

    index: int
    layers: str  # canonical layer string
    macs: int  # multiply-adds per image: predicts its cost


# ------------------------------------------------------------------ events


@dataclass(frozen=True)
class WorkerReady:
    """A worker, or its replacement, can take batches."""

    worker: int


@dataclass(frozen=True)
class WorkerLost:
    """A worker's process ended with what it had; the executor replaces it."""

    worker: int
    reason: FailureReason  # what its candidate is charged with
    detail: str


@dataclass(frozen=True)
class Started:
    """A worker began to train a candidate."""

    worker: int
    index: int


@dataclass(frozen=True)
class Finished:
    """A worker ended training a candidate, in whatever way."""

    worker: int
    index: int
    outcome: Outcome


@dataclass(frozen=True)
class Opened:
    """The answer to Open."""

    tasks: tuple[Task, ...]
    exhausted: bool  # nothing more can be opened: the target is drawn


@dataclass(frozen=True)
class StopAsked:
    """Someone wants the run to end: what is training is finished, nothing new begins."""

    why: str
    grace_s: float | None  # how long that may take; None: as long as it takes


@dataclass(frozen=True)
class Tick:
    """Time passed."""


WorkerEvent = WorkerReady | WorkerLost | Started | Finished
Event = WorkerEvent | Opened | StopAsked | Tick


# ------------------------------------------------------------------ commands


@dataclass(frozen=True)
class Open:
    """Open at least ``count`` more candidates, if there are so many; answer with Opened."""

    count: int


@dataclass(frozen=True)
class Submit:
    """Queue a batch at a worker."""

    worker: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Replace:
    """Kill a worker with what it has, and start another in its place."""

    worker: int


@dataclass(frozen=True)
class Release:
    """Kill a worker with what it has; it is not needed any more."""

    worker: int


@dataclass(frozen=True)
class RecordStart:
    """Record that an attempt at a candidate began."""

    index: int


@dataclass(frozen=True)
class Record:
    """Record a candidate's outcome."""

    index: int
    outcome: Outcome


@dataclass(frozen=True)
class End:
    """The run is over. ``why`` is None when the search is finished."""

    why: str | None


Command = Open | Submit | Replace | Release | RecordStart | Record | End


# ------------------------------------------------------------------ the machine


@dataclass
class _Worker:
    """What the machine knows of a worker."""

    ready: bool = False
    batches: deque[deque[Task]] = field(default_factory=deque)  # not finished; the first task may be in training
    training: Task | None = None
    since: float = 0.0  # when it last made progress

    @property
    def waiting(self) -> list[Task]:
        """Tasks at the worker that did not start."""
        return [task for batch in self.batches for task in batch if task is not self.training]


class Coordinator:
    """Decides, from one event to the next. ``completed`` and ``best_accuracy`` are the search's so far."""

    def __init__(
        self, workers: Iterable[int], limits: Limits, *, completed: int = 0, best_accuracy: float | None = None
    ) -> None:
        self._limits = limits
        self._workers = {worker: _Worker() for worker in workers}
        self._slots = len(self._workers)
        self._pool: deque[Task] = deque()
        self._exhausted = False
        self._opening = False
        self._completed = completed
        self._best_accuracy = best_accuracy or 0.0
        self._suspicions: Counter[int] = Counter()
        self._seconds = self._cost = 0.0  # of the trainings seen, for predictions
        self._began: float | None = None
        self._stop: StopAsked | None = None
        self._stop_by: float | None = None
        self._ended = False

    @property
    def training(self) -> list[Task]:
        """What is in training now."""
        return [worker.training for worker in self._workers.values() if worker.training]

    @property
    def stopping(self) -> str | None:
        """Why the run is about to end, once it is."""
        return self._stop.why if self._stop else None

    def step(self, event: Event, now: float) -> list[Command]:
        """Take in one event at ``now`` (seconds, monotonic); what to do next, in order."""
        if self._ended:
            return []
        if self._began is None:
            self._began = now
        commands = self._take_in(event, now)
        if isinstance(event, Tick):
            commands += self._watch(now)
        if self._stop is None:
            commands += self._dispatch(now)
        else:
            commands += self._drain(now)
        if any(isinstance(command, End) for command in commands):
            self._ended = True
        return commands

    # -------------------------------------------------- taking events in

    def _take_in(self, event: Event, now: float) -> list[Command]:
        match event:
            case Opened(tasks, exhausted):
                self._opening = False
                self._pool.extend(tasks)
                self._exhausted = exhausted
            case StopAsked():
                self._begin_stop(event, now)
            case WorkerReady(worker) if worker in self._workers:
                self._workers[worker] = _Worker(ready=True, since=now)
            case Started(worker, index) if worker in self._workers:
                return self._started(self._workers[worker], index, now)
            case Finished(worker, index, outcome) if worker in self._workers:
                return self._finished(self._workers[worker], index, outcome, now)
            case WorkerLost(worker, reason, detail) if worker in self._workers:
                if self._stop and self._stop.grace_s is not None:
                    # A signal to the whole process group, as batch systems send it, takes the workers too.
                    self._workers[worker] = _Worker(since=now)
                    return []
                return self._lost(worker, reason, detail, now)
            case _:  # time passed, or a released worker speaks
                pass
        return []

    def _begin_stop(self, stop: StopAsked, now: float) -> None:
        if self._stop is None or stop.grace_s is not None:
            self._stop = stop
            self._stop_by = None if stop.grace_s is None else now + stop.grace_s

    def _started(self, worker: _Worker, index: int, now: float) -> list[Command]:
        task = next((task for task in worker.waiting if task.index == index), None)
        if task is None:  # it was taken from this worker in the meantime
            return []
        worker.training, worker.since = task, now
        return [RecordStart(index)]

    def _finished(self, worker: _Worker, index: int, outcome: Outcome, now: float) -> list[Command]:
        task = worker.training
        if task is None or task.index != index:  # it was taken from this worker in the meantime
            return []
        worker.batches[0].remove(task)
        if not worker.batches[0]:
            worker.batches.popleft()
        worker.training = None
        worker.since = now
        self._seconds += outcome.seconds
        self._cost += task.macs + OVERHEAD_MACS
        return self._record(index, outcome, now)

    def _record(self, index: int, outcome: Outcome, now: float) -> list[Command]:
        if outcome.status is Status.COMPLETED:
            self._completed += 1
            self._best_accuracy = max(self._best_accuracy, outcome.measurements[-1].val_accuracy)
        self._check_limits(now)
        return [Record(index, outcome)]

    def _lost(self, number: int, reason: FailureReason, detail: str, now: float) -> list[Command]:
        """Charge what was in training; what was not goes back to the front, in order, uncharged."""
        worker = self._workers[number]
        waiting, blamed, seconds = worker.waiting, worker.training, now - worker.since
        if blamed is None and waiting:
            # It may have died of its next candidate before the start was seen. Once may be chance.
            self._suspicions[waiting[0].index] += 1
            if self._suspicions[waiting[0].index] >= SUSPICIONS:
                blamed = waiting.pop(0)
        self._pool.extendleft(reversed(waiting))
        self._workers[number] = _Worker(since=now)
        return self._record(blamed.index, Outcome((), seconds, reason, detail), now) if blamed else []

    # -------------------------------------------------- deciding what to do

    def _check_limits(self, now: float) -> None:
        limits, why = self._limits, None
        if limits.max_completed is not None and self._completed >= limits.max_completed:
            why = f"--max-completed {limits.max_completed} reached"
        elif limits.target_accuracy is not None and self._best_accuracy >= limits.target_accuracy:
            why = f"--target-accuracy {limits.target_accuracy} reached"
        elif limits.max_time_s is not None and self._began is not None and now - self._began >= limits.max_time_s:
            why = f"--max-time {limits.max_time_s:g} s reached"
        if why and self._stop is None:
            self._begin_stop(StopAsked(why, None), now)

    def _watch(self, now: float) -> list[Command]:
        """Replace workers that have made no progress for too long."""
        self._check_limits(now)
        commands: list[Command] = []
        for number, worker in self._workers.items():
            if worker.batches and now - worker.since > self._limits.trial_timeout_s:
                detail = f"no end after --trial-timeout {self._limits.trial_timeout_s:g} s"
                commands += [Replace(number), *self._lost(number, FailureReason.TIMEOUT, detail, now)]
        return commands

    def _dispatch(self, now: float) -> list[Command]:
        commands: list[Command] = []
        for depth in range(QUEUED_BATCHES):
            # Every worker's first batch comes before anyone's second, also one's that is still starting.
            kept = sum(not worker.batches for worker in self._workers.values()) if depth else 0
            for number, worker in self._workers.items():
                if len(self._pool) <= kept:
                    break
                if worker.ready and len(worker.batches) <= depth:
                    batch = self._next_batch()
                    if not worker.batches:
                        worker.since = now
                    worker.batches.append(deque(batch))
                    commands.append(Submit(number, batch))
        busy = any(worker.batches for worker in self._workers.values())
        if self._exhausted and not self._pool and not busy:
            return [*commands, End(None)]
        wanted = OPEN_BATCHES * self._slots * self._typical_batch()
        if len(self._pool) < wanted and not self._exhausted and not self._opening:
            self._opening = True
            commands.append(Open(wanted - len(self._pool)))
        return commands

    def _next_batch(self) -> tuple[Task, ...]:
        """From the front of the pool, about BATCH_S of training, and no more than a fair share."""
        most = min(LARGEST_BATCH, -(-len(self._pool) // self._slots))
        batch = [self._pool.popleft()]
        seconds = self._predicted_s(batch[0])
        while self._pool and len(batch) < most and seconds + self._predicted_s(self._pool[0]) <= BATCH_S:
            seconds += self._predicted_s(self._pool[0])
            batch.append(self._pool.popleft())
        return tuple(batch)

    def _predicted_s(self, task: Task) -> float:
        """Seconds that a task will train, from its multiply-adds and what was seen; a batch alone until then."""
        return self._seconds / self._cost * (task.macs + OVERHEAD_MACS) if self._cost else BATCH_S

    def _typical_batch(self) -> int:
        """How many candidates make a batch, about."""
        pooled = list(islice(self._pool, LARGEST_BATCH))
        mean = sum(map(self._predicted_s, pooled)) / len(pooled) if pooled else BATCH_S
        return max(1, min(LARGEST_BATCH, int(BATCH_S / mean))) if mean else LARGEST_BATCH

    def _drain(self, now: float) -> list[Command]:
        """Release every worker that is not training, or all when the grace is over; end with the last."""
        assert self._stop is not None
        late = self._stop_by is not None and now >= self._stop_by
        released = [number for number, worker in self._workers.items() if late or not worker.training]
        for number in released:
            del self._workers[number]
        commands: list[Command] = [Release(number) for number in released]
        return commands if self._workers else [*commands, End(self._stop.why)]
