"""The coordinator of a run, as a state machine: events in, commands out.

It decides what is trained where, who is blamed when a worker is lost, and when the run ends. It does
no I/O and reads no clock: ``run.py`` feeds it events with the time at which they came, and carries
out its commands. So every decision can be tested without a process, a database or a second passing.

Blame. What a candidate may have caused (its worker died, it timed out, memory ran out) is charged to
it; it gets a second try, alone at its worker, and fails with the second charge. Where it is not known
whose fault a lost worker is, the first candidate in line is tried alone. Candidates that were in flight
when their coordinator was lost, or in training when their worker's node was, are not charged; after
``messages.MOST_LOSSES`` of that they are trained last, one at a time with nothing else in flight, so that the one
that takes hosts down is found (``candidates.charges_of_losses``): a coordinator that is killed by somebody
must not look like it.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from search.candidates import CHARGED, MOST_CHARGES, AttemptEnding, FailureReason, Interruption, Outcome, Status
from search.messages import (
    Avoid,
    Claim,
    Claimed,
    Command,
    End,
    Event,
    Finished,
    LeasesLost,
    Record,
    RecordAttempt,
    Recorded,
    RecordStart,
    Release,
    Replace,
    Started,
    StopAsked,
    Submit,
    Submitted,
    Task,
    Tick,
    WorkerEvent,
    WorkerLost,
    WorkerReady,
)
from search.settings import Limits

BATCH_S = 2.0  # seconds of training that a batch aims at: far above a call's cost, far below a person's patience
LARGEST_BATCH = 64  # candidates
OPEN_BATCHES = 3  # batches a worker that are kept claimed: one in training, one queued there, one to be dispatched
QUEUED_BATCHES = 2  # of those, at the worker
OVERHEAD_MACS = 100_000  # what an image costs beyond its multiply-adds, as multiply-adds; calls dominate tiny networks
CLAIM_AGAIN_S = 2.0  # seconds until a search is asked again for candidates that others may have given up
PAUSE_S = 5.0  # seconds between two events that mean that the coordinator itself stood still
MOST_FAULTS = 20  # attempts in a row that end in a fault before the run stops: the cause is not the candidates
MOST_FAULTS_OF_A_NODE = 5  # likewise, before a node is avoided while another one works
MOST_EXCEPTIONS_OF_A_PROCESS = 2  # in a row, before it is replaced: an error may stay in a process (CUDA's do)


@dataclass
class _Batch:
    """What is left of a batch."""

    tasks: deque[Task]
    submitted: bool = False  # it is at the worker; until then it waits for its attempts to be recorded


@dataclass
class _Worker:
    """What the machine knows of a worker."""

    node: str = ""
    ready: bool = False
    batches: deque[_Batch] = field(default_factory=deque)  # not finished; the first task may be in training
    training: Task | None = None
    since: float = 0.0  # when it last made progress
    exceptions: int = 0  # in a row

    @property
    def waiting(self) -> list[Task]:
        """Tasks at the worker that did not start."""
        return [task for task in self.tasks if self.training is None or task.index != self.training.index]

    @property
    def tasks(self) -> list[Task]:
        """Tasks at the worker."""
        return [task for batch in self.batches for task in batch.tasks]

    def find(self, index: int, attempt: int) -> Task | None:
        """That attempt's task, if it is here."""
        return next((task for task in self.tasks if (task.index, task.attempt) == (index, attempt)), None)

    def drop(self, task: Task) -> None:
        """Take a task away."""
        for batch in self.batches:
            if task in batch.tasks:
                batch.tasks.remove(task)
        self.batches = deque(batch for batch in self.batches if batch.tasks)

    def submitted(self, now: float) -> None:
        """Its first batch that waited was given to it; if it had none, it begins now."""
        waited = next((batch for batch in self.batches if not batch.submitted), None)
        if waited is not None:
            waited.submitted = True
            self.since = now if waited is self.batches[0] else self.since


class Coordinator:
    """Decides, from one event to the next. ``completed`` and ``best_accuracy`` are the search's so far."""

    def __init__(
        self, workers: Iterable[int], limits: Limits, *, completed: int = 0, best_accuracy: float | None = None
    ) -> None:
        self._limits = limits
        self._workers = {worker: _Worker() for worker in workers}
        self._slots = len(self._workers)
        self._pool: deque[Task] = deque()
        self._isolated: deque[Task] = deque()
        self._claiming = False
        self._exhausted = False  # nothing more will come: all is drawn, and open are only candidates that are held here
        self._none_came = False  # when last asked for: what is open is held here or elsewhere
        self._claim_at = 0.0
        self._lost_leases: set[int] = set()
        self._completed = completed
        self._best_accuracy = best_accuracy or 0.0
        self._faults = 0  # in a row
        self._faults_of: Counter[str] = Counter()  # likewise, by node
        self._seconds = self._cost = 0.0  # of the trainings seen, for predictions
        self._began: float | None = None
        self._heard = 0.0  # when the last event came
        self._stop: StopAsked | None = None
        self._stop_by: float | None = None
        self._ended = False

    @property
    def training(self) -> list[Task]:
        """What is in training now."""
        return [worker.training for worker in self._workers.values() if worker.training]

    @property
    def leases(self) -> set[int]:
        """The leases of all tasks that are held here."""
        return {task.lease for task in self._tasks()}

    def _tasks(self) -> Iterator[Task]:
        """All that are held: waiting here, waiting at a worker, or in training."""
        return chain(self._pool, self._isolated, *(worker.tasks for worker in self._workers.values()))

    @property
    def stopping(self) -> str | None:
        """Why the run is about to end, once it is."""
        return self._stop.why if self._stop else None

    @property
    def is_anyone_idle(self) -> bool:
        """Whether a worker has nothing but what is yet to be given to it."""
        return any(worker.batches and not worker.batches[0].submitted for worker in self._workers.values())

    def step(self, event: Event, now: float) -> list[Command]:
        """Take in one event at ``now`` (seconds, monotonic); what to do next, in order."""
        if self._ended:
            return []
        if self._began is None:
            self._began = self._heard = now
            self._check_limits(now)
        self._discount_pause(now)
        commands = self._take_in(event, now)
        if isinstance(event, Tick):
            commands += self._watch(now)
        commands += self._dispatch(now) if self._stop is None else self._drain(now)
        self._ended = any(isinstance(command, End) for command in commands)
        return commands

    def _discount_pause(self, now: float) -> None:
        """What passed while the coordinator was stopped, or its laptop asleep, is nobody's training time."""
        pause, self._heard = now - self._heard, now
        if pause > PAUSE_S:
            for worker in self._workers.values():
                worker.since += pause

    # -------------------------------------------------- taking events in

    def _take_in(self, event: Event, now: float) -> list[Command]:
        match event:
            case Claimed():
                return self._claimed(event, now)
            case LeasesLost(leases):
                return self._forget(leases, now)
            case Recorded():
                self._completed, self._best_accuracy = event.completed, event.best_accuracy
                # The search was extended meanwhile, or failed candidates of it were opened again.
                is_more = event.left_to_draw or event.open > sum(1 for _ in self._tasks())
                self._exhausted = self._exhausted and not is_more
                self._check_limits(now)
            case StopAsked():
                self._begin_stop(event, now)
            case WorkerReady() | WorkerLost() | Started() | Finished() | Submitted() if event.worker in self._workers:
                return self._hear(event, self._workers[event.worker], now)
            case _:  # time passed, or a released worker speaks
                pass
        return []

    def _hear(self, event: WorkerEvent | Submitted, worker: _Worker, now: float) -> list[Command]:
        match event:
            case WorkerReady(number, node):
                self._workers[number] = _Worker(node, ready=True, since=now)
            case Submitted():
                worker.submitted(now)
            case Started():
                return self._started(worker, event, now)
            case Finished():
                return self._finished(worker, event, now)
            case WorkerLost(number, reason, detail):
                # A signal to the whole process group, as batch systems send it, takes the workers too.
                is_signalled = self._stop is not None and self._stop.grace_s is not None
                ending = Interruption.CANCELLED if is_signalled else reason or Interruption.WORKER_UNAVAILABLE
                return self._lost(number, ending, detail, now)
        return []

    def _claimed(self, answer: Claimed, now: float) -> list[Command]:
        self._claiming = False
        self._exhausted = not answer.left_to_draw and not answer.open_elsewhere
        self._none_came = not answer.tasks and not answer.left_to_draw
        self._claim_at = now + CLAIM_AGAIN_S if self._none_came else now
        commands: list[Command] = []
        for task in answer.tasks:
            if task.charges >= MOST_CHARGES:  # the last one was a coordinator that was lost with this alone in flight
                detail = "blamed by earlier runs, the last time because one was lost with nothing else in training"
                commands += self._record(task, Outcome((), 0.0, FailureReason.WORKER_DIED, detail), now)
            else:
                (self._isolated if task.isolated else self._pool).append(task)
        return commands

    def _forget(self, leases: frozenset[int], now: float) -> list[Command]:
        """Drop the tasks of lost leases, and replace the workers that have some.

        What these would train does not count any more, and what it does to its worker must not be blamed on
        what waits behind it.
        """
        self._lost_leases |= leases
        self._exhausted = False  # whoever has them now may be lost too
        self._pool = deque(task for task in self._pool if task.lease not in leases)
        self._isolated = deque(task for task in self._isolated if task.lease not in leases)
        commands: list[Command] = []
        for number, worker in self._workers.items():
            is_there = any(t.lease in leases for batch in worker.batches if batch.submitted for t in batch.tasks)
            if worker.training and worker.training.lease in leases:
                worker.training = None
            for task in worker.tasks:
                if task.lease in leases:
                    worker.drop(task)
            if is_there:
                detail = "its worker had candidates that another coordinator took over"
                commands += [Replace(number), *self._lost(number, Interruption.CANCELLED, detail, now)]
        return commands

    def _begin_stop(self, stop: StopAsked, now: float) -> None:
        if self._stop is None or stop.grace_s is not None:
            self._stop = stop
            self._stop_by = None if stop.grace_s is None else now + stop.grace_s

    def _started(self, worker: _Worker, event: Started, now: float) -> list[Command]:
        worker.since = now
        task = worker.find(event.index, event.attempt)
        if task is None or worker.training is not None:  # it was taken from this worker in the meantime
            return []
        worker.training = replace(task, begun=task.begun + 1)
        return [RecordStart(worker.training)]

    def _finished(self, worker: _Worker, event: Finished, now: float) -> list[Command]:
        worker.since, outcome = now, event.outcome
        task = worker.find(event.index, event.attempt)
        if task is None:  # it was taken from this worker in the meantime
            return []
        worker.drop(task)
        if worker.training and worker.training.index == event.index:
            task, worker.training = worker.training, None
        else:
            task = replace(task, begun=task.begun + 1)
        self._seconds += outcome.seconds
        self._cost += task.macs + OVERHEAD_MACS
        if outcome.reason in CHARGED:
            assert outcome.reason is not None
            return self._charge(task, outcome, worker.node, now)
        if outcome.reason is FailureReason.EXCEPTION:
            return self._record(task, outcome, now) + self._excepted(event.worker, worker, str(outcome.detail), now)
        self._faults = self._faults_of[worker.node] = worker.exceptions = 0
        return self._record(task, outcome, now)

    def _excepted(self, number: int, worker: _Worker, detail: str, now: float) -> list[Command]:
        """After an exception in training: is it the candidate's, the process's, the node's, everyone's?"""
        worker.exceptions += 1
        commands = self._fault(worker.node, detail, now)
        if worker.exceptions >= MOST_EXCEPTIONS_OF_A_PROCESS and self._workers[number] is worker:
            why = f"{worker.exceptions} exceptions in a row in its process"
            commands += [Replace(number), *self._lost(number, Interruption.CANCELLED, why, now)]
        return commands

    def _lost(self, number: int, ending: AttemptEnding, detail: str, now: float) -> list[Command]:
        """What was in training ends so; what was not goes back to the front, in order, uncharged."""
        worker = self._workers[number]
        self._workers[number] = _Worker(worker.node, since=now)
        waiting, lost = worker.waiting, worker.training
        if lost is None and waiting and worker.batches[0].submitted and ending is not Interruption.CANCELLED:
            # The worker, or its node, may have gone with its next candidate before the start was seen.
            if ending is Interruption.WORKER_UNAVAILABLE or waiting[0].alone or waiting[0].isolated:
                lost = waiting.pop(0)
            else:
                waiting[0] = replace(waiting[0], suspected=True)
        commands: list[Command] = [RecordAttempt(task, Interruption.NOT_STARTED, detail) for task in waiting]
        self._give_back(waiting)
        if lost is None:
            return commands
        if ending is Interruption.WORKER_UNAVAILABLE:
            # With nothing else in flight it is the candidate that takes its nodes down.
            ending = FailureReason.WORKER_DIED if lost.isolated else ending
            lost = replace(lost, losses=lost.losses + 1)
        if isinstance(ending, FailureReason):
            return commands + self._charge(lost, Outcome((), now - worker.since, ending, detail), worker.node, now)
        self._give_back([lost])
        return [*commands, RecordAttempt(lost, ending, detail)]

    def _charge(self, task: Task, outcome: Outcome, node: str, now: float) -> list[Command]:
        """Blame a candidate; it gets another try, or has failed."""
        assert outcome.reason is not None
        charged = replace(task, charges=task.charges + 1)
        if charged.charges >= MOST_CHARGES:
            commands = self._record(charged, outcome, now)
        else:
            commands = [RecordAttempt(task, outcome.reason, outcome.detail or "")]
            self._give_back([charged])
        return commands + self._fault(node, f"{outcome.reason}: {outcome.detail}", now)

    def _give_back(self, tasks: list[Task]) -> None:
        """To the front, in order; those that must be alone after the others, not to hold them up."""
        held = [task for task in tasks if task.lease not in self._lost_leases]
        self._isolated.extendleft(task for task in reversed(held) if task.isolated)
        self._pool.extendleft(task for task in reversed(held) if task.alone and not task.isolated)
        self._pool.extendleft(task for task in reversed(held) if not task.alone and not task.isolated)

    def _record(self, task: Task, outcome: Outcome, now: float) -> list[Command]:
        if outcome.status is Status.COMPLETED:
            self._completed += 1
            self._best_accuracy = max(self._best_accuracy, outcome.measurements[-1].val_accuracy)
        self._check_limits(now)
        return [Record(task, outcome)]

    def _fault(self, node: str, cause: str, now: float) -> list[Command]:
        """Where everything fails, the cause is not the candidates: leave the node, or stop the run."""
        self._faults += 1
        self._faults_of[node] += 1
        if self._faults >= MOST_FAULTS and self._stop is None:
            why = f"{MOST_FAULTS} attempts in a row failed, the last one with {cause}; mend the cause"
            self._begin_stop(StopAsked(why, self._limits.grace_s, is_fault=True), now)
            return []
        others = {worker.node for worker in self._workers.values() if worker.ready} - {node}
        if self._faults_of[node] < MOST_FAULTS_OF_A_NODE or not others:
            return []
        self._faults_of[node] = 0
        commands: list[Command] = [Avoid(node, f"{MOST_FAULTS_OF_A_NODE} attempts in a row failed on it: {cause}")]
        for number, worker in self._workers.items():
            if worker.node == node:
                commands += [
                    Replace(number),
                    *self._lost(number, Interruption.CANCELLED, "its node is avoided", now),
                ]
        return commands

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
        for number, worker in list(self._workers.items()):
            if worker.batches and worker.batches[0].submitted and now - worker.since > self._limits.trial_timeout_s:
                detail = f"no end after --trial-timeout {self._limits.trial_timeout_s:g} s"
                commands += [Replace(number), *self._lost(number, FailureReason.TIMEOUT, detail, now)]
        return commands

    def _dispatch(self, now: float) -> list[Command]:
        first = [worker.batches[0].tasks[0] for worker in self._workers.values() if worker.batches]
        if any(task.isolated for task in first):
            return []
        commands: list[Command] = []
        for depth in range(QUEUED_BATCHES):
            # Every worker's first batch comes before anyone's second, also one's that is still starting.
            kept = sum(not worker.batches for worker in self._workers.values()) if depth else 0
            for number, worker in self._workers.items():
                if len(self._pool) <= kept:
                    break
                if worker.ready and len(worker.batches) <= depth and self._may_queue(worker):
                    commands.append(self._submit(number, self._next_batch()))
        if self._pool or first or commands:
            return commands + self._claim(now)
        if self._isolated and (self._none_came or self._exhausted):
            ready = [number for number, worker in self._workers.items() if worker.ready]
            return [self._submit(ready[0], [self._isolated.popleft()])] if ready else []
        return [End(None)] if self._exhausted else self._claim(now)

    def _claim(self, now: float) -> list[Command]:
        """Keep enough candidates at hand; less than a third of them is not worth a transaction."""
        wanted = OPEN_BATCHES * self._slots * self._typical_batch()
        if self._claiming or self._exhausted or now < self._claim_at or 3 * len(self._pool) > 2 * wanted:
            return []
        self._claiming = True
        return [Claim(max(1, wanted - len(self._pool)))]

    def _may_queue(self, worker: _Worker) -> bool:
        """Whether the next task may join what a worker has: neither may have to be alone."""
        return not worker.batches or not (self._pool[0].alone or worker.batches[-1].tasks[0].alone)

    def _submit(self, number: int, batch: Iterable[Task]) -> Submit:
        numbered = tuple(replace(task, attempt=task.attempt + 1) for task in batch)
        self._workers[number].batches.append(_Batch(deque(numbered)))
        return Submit(number, numbered)

    def _next_batch(self) -> list[Task]:
        """From the front of the pool, about BATCH_S of training, and no more than a fair share."""
        most = min(LARGEST_BATCH, -(-len(self._pool) // self._slots))
        batch = [self._pool.popleft()]
        seconds = self._predicted_s(batch[0])
        while self._pool and len(batch) < most and not (batch[0].alone or self._pool[0].alone):
            seconds += self._predicted_s(self._pool[0])
            if seconds > BATCH_S:
                break
            batch.append(self._pool.popleft())
        return batch

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
        return commands if self._workers else [*commands, End(self._stop.why, self._stop.is_fault)]
