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

Batches. Each aims at BATCH_S of training as predicted (``cost``), and a worker has a second one queued, so
that it never waits for a message. At the end, when all that is left to train is at hand, the longest come
first, batches shrink with what is left, and a worker gets the next one only shortly before it would be idle:
whatever is queued behind something long cannot go elsewhere any more. Not covered: what another coordinator could
train of what is claimed here; a search of few candidates ends sooner with one (tests/benchmarks/README.md).

An event costs the same with ten workers and with ten thousand: workers are kept by what they lack. All of them are
looked at only now and then: for one that takes too long, and at the end, for those that will soon be idle.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from search.candidates import CHARGED, MOST_CHARGES, AttemptEnding, FailureReason, Interruption, Outcome, Status
from search.layers import Conv
from search.messages import (
    Avoid,
    Claim,
    Claimed,
    Command,
    End,
    Event,
    Finished,
    GiveBack,
    LeasesLost,
    Record,
    RecordAttempt,
    Recorded,
    RecordStart,
    Release,
    Replace,
    Started,
    StoodStill,
    StopAsked,
    Submit,
    Submitted,
    Task,
    Tick,
    WorkerEvent,
    WorkerGone,
    WorkerLost,
    WorkerReady,
)
from search.settings import Limits

BATCH_S = 2.0  # seconds of training that a batch aims at: far above a call's cost, far below a person's patience
LARGEST_BATCH = 128  # candidates
NETWORK_MACS = 29_500  # what an image costs beyond its multiply-adds, as multiply-adds: see ``cost``
CONV_MACS = 24_100  # likewise, each convolution
OPEN_BATCHES = 3  # batches a worker that are kept claimed: one in training, one queued there, one to be dispatched
QUEUED_BATCHES = 2  # of those, at the worker
FEWEST_WAITING = 10  # candidates a worker that are claimed beyond those at it: so long ones are seen in time
MOST_WAITING = 16_384  # candidates, likewise, of all workers: all that one coordinator can feed them in some 20 s
LARGEST_CLAIM = 512  # candidates; while they are drawn workers are not heard, and other coordinators' claims wait
SHARES = 2  # at the end a batch is one of so many of a worker's fair share of what is left ...
SMALLEST_BATCH_S = 0.25  # ... but not less training than a dispatch takes
LEAD_S = 0.5  # at the end: seconds before a worker is idle that it gets its next batch; a dispatch takes most of them
LOOK_S = 0.1  # at the end: seconds between two looks who will be idle soon
CLAIM_AGAIN_S = 2.0  # seconds until a search is asked again for candidates that others may have given up
MOST_FAULTS = 20  # attempts in a row that end in a fault before the run stops: the cause is not the candidates
MOST_FAULTS_OF_A_NODE = 5  # likewise, before a node is avoided while another one works
MOST_EXCEPTIONS_OF_A_PROCESS = 2  # in a row, before it is replaced: an error may stay in a process (CUDA's do)


def cost(task: Task) -> int:
    """What training a candidate costs, as multiply-adds of an image's forward pass; a machine has a factor to seconds.

    Fitted by ``tests/benchmarks/costs.py`` to version 2 of the training, on a CPU: its median error is 15 %, and that
    of what the layer string cannot tell without the shapes 12 %, which a search does not notice
    (``tests/benchmarks/README.md``).
    """
    return task.macs + NETWORK_MACS + CONV_MACS * task.layers.count(f"{Conv.kind}=")


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
    cost: int = 0  # of all its tasks

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
        tasks = chain.from_iterable(batch.tasks for batch in self.batches)
        return next((task for task in tasks if task.index == index and task.attempt == attempt), None)

    def add(self, tasks: Collection[Task]) -> None:
        """Queue a batch."""
        self.batches.append(_Batch(deque(tasks)))
        self.cost += sum(map(cost, tasks))

    def drop(self, task: Task) -> None:
        """Take a task away that is here."""
        batch = next(batch for batch in self.batches if task in batch.tasks)
        batch.tasks.remove(task)
        self.cost -= cost(task)
        if not batch.tasks:
            self.batches.remove(batch)

    @property
    def has_work(self) -> bool:
        """Whether it was given what it has."""
        return bool(self.batches) and self.batches[0].submitted

    def submitted(self, now: float) -> None:
        """Its first batch that waited was given to it; if it had none, it begins now."""
        waited = next((batch for batch in self.batches if not batch.submitted), None)
        if waited is not None:
            waited.submitted = True
            self.since = now if waited is self.batches[0] else self.since


class _Pool:
    """Tasks that wait to be dispatched, in order."""

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._tasks = deque(tasks)
        self.cost = sum(map(cost, self._tasks))  # of all

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    @property
    def first(self) -> Task:
        """The next one."""
        return self._tasks[0]

    def append(self, task: Task) -> None:
        """Add one at the end."""
        self._tasks.append(task)
        self.cost += cost(task)

    def prepend(self, tasks: Collection[Task]) -> None:
        """Add some before the others, in order."""
        self._tasks.extendleft(reversed(list(tasks)))
        self.cost += sum(map(cost, tasks))

    def pop(self) -> Task:
        """Take the first away."""
        task = self._tasks.popleft()
        self.cost -= cost(task)
        return task


class Coordinator:
    """Decides, from one event to the next. ``completed`` and ``best_accuracy`` are the search's so far."""

    def __init__(
        self, workers: Iterable[int], limits: Limits, *, completed: int = 0, best_accuracy: float | None = None
    ) -> None:
        self._limits = limits
        self._workers = {worker: _Worker() for worker in workers}
        self._starting: dict[int, None] = {}  # workers that are not ready; all dicts of workers are ordered sets
        self._ready: list[dict[int, None]] = [{} for _ in range(QUEUED_BATCHES + 1)]  # the others, by batches
        self._training: dict[int, Task] = {}  # by worker
        self._resting: dict[int, None] = {}  # workers that are not training
        self._unfed: dict[int, None] = {}  # workers that have nothing but what is yet to be given to them
        self._pool = _Pool()
        self._isolated: deque[Task] = deque()
        self._held: Counter[int] = Counter()  # tasks by lease: waiting here, waiting at a worker, or in training
        self._asked = 0  # candidates, in the last claim
        self._claiming = False
        self._ending = False  # what is left is all here, as far as the last answer says, and workers share it
        self._look_at = 0.0
        self._watch_at = 0.0
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
        self._stop: StopAsked | None = None
        self._stop_by: float | None = None
        self._ended = False
        for number in self._workers:
            self._file(number)

    @property
    def training(self) -> Collection[Task]:
        """What is in training now."""
        return self._training.values()

    @property
    def leases(self) -> set[int]:
        """The leases of all tasks that are held here."""
        return set(self._held)

    @property
    def _slots(self) -> int:
        """Among how many workers what is left is shared."""
        return max(1, len(self._workers))

    @property
    def stopping(self) -> str | None:
        """Why the run is about to end, once it is."""
        return self._stop.why if self._stop else None

    @property
    def is_anyone_idle(self) -> bool:
        """Whether a worker has nothing but what is yet to be given to it."""
        return bool(self._unfed)

    def step(self, event: Event, now: float) -> list[Command]:
        """Take in one event at ``now`` (seconds, monotonic); what to do next, in order."""
        if self._ended:
            return []
        if self._began is None:
            self._began = now
            self._check_limits(now)
        commands = self._take_in(event, now)
        if isinstance(event, Tick):
            commands += self._watch(now)
        commands += self._dispatch(now) if self._stop is None else self._drain(now)
        self._ended = any(isinstance(command, End) for command in commands)
        return commands

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
                is_more = event.left_to_draw or event.open > self._held.total()
                is_done = not event.left_to_draw and not event.open  # others may have done it
                self._exhausted = is_done or (self._exhausted and not is_more)
                self._ending = self._ending and not event.left_to_draw
                self._check_limits(now)
            case StopAsked():
                self._begin_stop(event, now)
            case StoodStill(seconds):
                for worker in self._workers.values():
                    worker.since += seconds
            case Tick():  # time passed
                pass
            case _:
                return self._hear(event, now)
        return []

    def _hear(self, event: WorkerEvent | Submitted, now: float) -> list[Command]:
        worker = self._workers.get(event.worker)
        if worker is None:  # it comes later; or it was released, and speaks, or the run ends
            if isinstance(event, WorkerReady) and self._stop is None:
                self._fill(event.worker, _Worker(event.node, ready=True, since=now))
            return []
        match event:
            case WorkerGone():
                self._release(event.worker)
            case WorkerReady(number, node):
                self._fill(number, _Worker(node, ready=True, since=now))
            case Submitted():
                worker.submitted(now)
                self._file(event.worker)
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
        self._ending = self._slots > 1 and not answer.left_to_draw and len(answer.tasks) < self._asked
        self._none_came = not answer.tasks and not answer.left_to_draw
        self._claim_at = now + CLAIM_AGAIN_S if self._none_came else now
        commands: list[Command] = []
        self._held.update(task.lease for task in answer.tasks)
        for task in answer.tasks:
            if task.charges >= MOST_CHARGES:  # the last one was a coordinator that was lost with this alone in flight
                detail = "blamed by earlier runs, the last time because one was lost with nothing else in training"
                commands += self._record(task, Outcome((), 0.0, FailureReason.WORKER_DIED, detail), now)
            else:
                (self._isolated if task.isolated else self._pool).append(task)
        if self._ending:  # those that must be alone first: they wait for a worker without anything
            self._pool = _Pool(sorted(self._pool, key=lambda task: (not task.alone, -cost(task))))
        return commands

    def _forget(self, leases: frozenset[int], now: float) -> list[Command]:
        """Drop the tasks of lost leases, and replace the workers that have some.

        What these would train does not count any more, and what it does to its worker must not be blamed on
        what waits behind it.
        """
        self._lost_leases |= leases
        for lease in leases:
            self._held.pop(lease, None)
        self._exhausted = False  # whoever has them now may be lost too
        self._pool = _Pool(task for task in self._pool if task.lease not in leases)
        self._isolated = deque(task for task in self._isolated if task.lease not in leases)
        commands: list[Command] = []
        for number, worker in self._workers.items():
            is_there = any(t.lease in leases for batch in worker.batches if batch.submitted for t in batch.tasks)
            if worker.training and worker.training.lease in leases:
                worker.training = None
            for task in worker.tasks:
                if task.lease in leases:
                    worker.drop(task)
            self._file(number)
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
        self._file(event.worker)
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
        self._file(event.worker)
        self._seconds += outcome.seconds
        self._cost += cost(task)
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
        self._fill(number, _Worker(worker.node, since=now))
        waiting, lost = worker.waiting, worker.training
        is_clear = ending in {Interruption.CANCELLED, FailureReason.EXCEPTION}  # the process broke before it began
        if lost is None and waiting and worker.batches[0].submitted and not is_clear:
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
        self._pool.prepend([task for task in held if task.alone and not task.isolated])
        self._pool.prepend([task for task in held if not task.alone and not task.isolated])

    def _record(self, task: Task, outcome: Outcome, now: float) -> list[Command]:
        self._held[task.lease] -= 1
        if self._held[task.lease] <= 0:
            del self._held[task.lease]
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
        if self._faults_of[node] < MOST_FAULTS_OF_A_NODE:
            return []
        if not {worker.node for worker in self._workers.values() if worker.ready} - {node}:
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

    # -------------------------------------------------- keeping workers by what they lack

    def _fill(self, number: int, worker: _Worker) -> None:
        """A worker as it is now, in place of what was there."""
        self._workers[number] = worker
        self._file(number)

    def _file(self, number: int) -> None:
        """Keep a worker, of which something has changed, where it belongs now."""
        worker = self._workers[number]
        for numbers in (self._starting, *self._ready, self._unfed):
            numbers.pop(number, None)
        if worker.batches and not worker.batches[0].submitted:
            self._unfed[number] = None
        (self._ready[len(worker.batches)] if worker.ready else self._starting)[number] = None
        if worker.training:
            self._training[number] = worker.training
            self._resting.pop(number, None)
        else:
            self._training.pop(number, None)
            self._resting[number] = None

    def _release(self, number: int) -> None:
        del self._workers[number]
        for numbers in (self._starting, *self._ready, self._resting, self._unfed):
            numbers.pop(number, None)
        self._training.pop(number, None)

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
        if now < self._watch_at:
            return []
        limit, commands = self._limits.trial_timeout_s, list[Command]()
        for number, worker in list(self._workers.items()):
            if worker.has_work and now - worker.since > limit:
                detail = f"no end after --trial-timeout {limit:g} s"
                commands += [Replace(number), *self._lost(number, FailureReason.TIMEOUT, detail, now)]
        # Whoever begins meanwhile begins after now.
        begun = min((worker.since for worker in self._workers.values() if worker.has_work), default=now)
        self._watch_at = min(begun, now) + limit
        return commands

    def _dispatch(self, now: float) -> list[Command]:
        """Idle workers first, then those that have one batch; then ask for more."""
        if self._held and not self._workers:
            return [self._give_all_back()]
        busy = sum(map(len, self._ready[1:]))
        if busy == 1 and self._is_isolated(next(chain(*self._ready[1:]))):
            return []
        idle = list(islice(self._ready[0], len(self._pool))) if self._ready[0] else []
        commands: list[Command] = [self._submit(number, self._next_batch()) for number in idle if self._pool]
        commands += self._queue(now)
        if self._pool or busy or commands:
            return commands + self._claim(now)
        if self._isolated and (self._none_came or self._exhausted):
            return [self._submit(number, [self._isolated.popleft()]) for number in islice(self._ready[0], 1)]
        return [End(None)] if self._exhausted else self._claim(now)

    def _give_all_back(self) -> GiveBack:
        """Without a worker, or one that starts, others are to have what is held here: who knows for how long."""
        leases = frozenset(self._held)
        self._held.clear()
        self._pool, self._isolated = _Pool(), deque()
        self._exhausted = self._ending = False
        return GiveBack(leases)

    def _is_isolated(self, number: int) -> bool:
        return self._workers[number].batches[0].tasks[0].isolated

    def _queue(self, now: float) -> list[Command]:
        """Second batches, but those that are still starting come first, and what must be alone is not queued."""
        commands: list[Command] = []
        is_soon = self._ending and now < self._look_at
        if is_soon or not self._ready[1] or len(self._pool) <= len(self._starting):
            return commands
        self._look_at = now + LOOK_S
        for number in list(self._ready[1]):
            if len(self._pool) <= len(self._starting) or self._pool.first.alone:
                break
            worker = self._workers[number]
            is_early = self._ending and self._left_s(worker, now) > LEAD_S
            if not is_early and not worker.batches[0].tasks[0].alone:
                commands.append(self._submit(number, self._next_batch()))
        return commands

    def _left_s(self, worker: _Worker, now: float) -> float:
        """Seconds until a worker is idle. What takes longer than predicted may well take as much longer again."""
        if worker.training is None:
            return self._predicted_s(worker.cost)
        training = cost(worker.training)
        return self._predicted_s(worker.cost - training) + abs(self._predicted_s(training) - (now - worker.since))

    def _claim(self, now: float) -> list[Command]:
        """Keep enough candidates at hand; less than a third of them is not worth a transaction.

        None without a worker, or one that starts: others could train them, and may have the cores that it waits for.
        """
        if self._claiming or self._exhausted or now < self._claim_at or not self._workers:
            return []
        wanted = min(self._slots * max(OPEN_BATCHES * self._typical_batch(), FEWEST_WAITING), MOST_WAITING)
        if 3 * len(self._pool) > 2 * wanted:
            return []
        self._claiming = True
        self._asked = max(1, min(wanted - len(self._pool), LARGEST_CLAIM))
        return [Claim(self._asked)]

    def _submit(self, number: int, batch: Iterable[Task]) -> Submit:
        numbered = tuple(replace(task, attempt=task.attempt + 1) for task in batch)
        self._workers[number].add(numbered)
        self._file(number)
        return Submit(number, numbered)

    def _next_batch(self) -> list[Task]:
        """From the front of the pool, about BATCH_S of training, and no more than a fair share; at the end less."""
        most, most_s = min(LARGEST_BATCH, -(-len(self._pool) // self._slots)), BATCH_S
        if self._ending:
            share_s = self._predicted_s(self._pool.cost) / self._slots / SHARES
            most_s = min(BATCH_S, max(SMALLEST_BATCH_S, share_s))
        batch = [self._pool.pop()]
        seconds = self._predicted_s(cost(batch[0]))
        while self._pool and len(batch) < most and not (batch[0].alone or self._pool.first.alone):
            seconds += self._predicted_s(cost(self._pool.first))
            if seconds > most_s:
                break
            batch.append(self._pool.pop())
        return batch

    def _predicted_s(self, its_cost: float) -> float:
        """Seconds that training of a cost will take, by what was seen; a batch's until then."""
        return self._seconds / self._cost * its_cost if self._cost else BATCH_S

    def _typical_batch(self) -> int:
        """How many candidates make a batch, about."""
        mean = self._predicted_s(self._pool.cost / len(self._pool)) if self._pool else BATCH_S
        return max(1, min(LARGEST_BATCH, int(BATCH_S / mean))) if mean else LARGEST_BATCH

    def _drain(self, now: float) -> list[Command]:
        """Release every worker that is not training, or all when the grace is over; end with the last."""
        assert self._stop is not None
        late = self._stop_by is not None and now >= self._stop_by
        released = list(self._workers if late else self._resting)
        for number in released:
            self._release(number)
        commands: list[Command] = [Release(number) for number in released]
        return commands if self._workers else [*commands, End(self._stop.why, self._stop.is_fault)]
