"""A search on thousands of workers in simulated time: the real run and state machine, modelled workers and store.

Nothing sleeps and nothing trains. What a training takes comes from a table, what messages and rows cost from
``Prices``; the clock moves by these only, so a run of an hour on 10,000 workers is simulated in minutes.
``scale.py`` measures with it. Not covered: anything that fails; ``tests/simulator.py`` is for that.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import count

from search.candidates import Measurement, Outcome
from search.coordinator import Coordinator
from search.messages import Event, Finished, Started, Task, WorkerEvent, WorkerReady, WorkerTime
from search.run import Claims, Counts, News, Reply, Run, StopRequest
from search.settings import Limits
from search.sieve import Drawn

DRAIN_S = 0.05  # as RayExecutor's: that one poll goes on hearing what is ready


@dataclass(frozen=True)
class Prices:
    """Seconds of the coordinator's loop: measured on 2026-11-25 and 27, see README.md; by default with SQLite."""

    item_s: float = 280e-6  # an item of a stream (250), and what the state machine does with it (30)
    call_s: float = 370e-6  # a batch given to a worker
    wait_s: float = 5e-6  # a look at what is ready, for each worker: two calls of ray.wait
    commit_s: float = 3e-3  # a write
    dispatch_s: float = 20e-6  # an attempt written
    result_s: float = 49e-6  # an outcome written
    claim_s: float = 1e-3  # a claim
    claimed_s: float = 20e-6  # a candidate of it
    draw_s: float = 45e-6  # a candidate drawn and checked (22), and written
    travel_s: float = 1e-3  # from the coordinator to a worker; nobody computes meanwhile


WITH_POSTGRES = Prices(commit_s=5e-3, dispatch_s=36e-6, result_s=165e-6, claim_s=2e-3, claimed_s=44e-6, draw_s=42e-6)
FREE = Prices(0, 0, 0, 0, 0, 0, 0, 0, 0)  # only messages take their time


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Worker:
    queue: deque[Task] = field(default_factory=deque)
    training: Task | None = None
    ended: float = 0.0  # its last training


class Fleet:
    """An executor whose workers train for as long as a table says.

    A worker goes on once what it said is heard, as Ray's streams have it here (``RayExecutor.submit``).
    """

    def __init__(self, clock: Clock, workers: int, seconds: Callable[[int], float], prices: Prices) -> None:
        self.clock, self.seconds, self.prices = clock, seconds, prices
        self.slots = [Worker() for _ in range(workers)]
        self._order = count()
        self._coming: list[tuple[float, int, WorkerEvent]] = []
        for number in range(workers):
            self._say(0.0, WorkerReady(number, f"node{number // 64}"))
        self.trained = 0
        self.busy_s = 0.0  # of all workers, in trainings that began

    @property
    def workers(self) -> int:
        return len(self.slots)

    @property
    def worked(self) -> WorkerTime:
        return WorkerTime(len(self.slots) * self.clock.now, self.trained_s())

    def _say(self, at: float, event: WorkerEvent) -> None:
        heapq.heappush(self._coming, (at, next(self._order), event))

    def trained_s(self) -> float:
        """Seconds of all trainings so far."""
        return self.busy_s - sum(max(0.0, slot.ended - self.clock.now) for slot in self.slots)

    def submit(self, worker: int, tasks: Sequence[Task]) -> bool:
        self.clock.pass_by(self.prices.call_s)
        slot = self.slots[worker]
        slot.queue.extend(tasks)
        if slot.training is None:
            self._next(worker)
        return True

    def _next(self, worker: int) -> None:
        slot = self.slots[worker]
        slot.training = slot.queue.popleft() if slot.queue else None
        if slot.training:
            at = self.clock.now + self.prices.travel_s
            self._say(at, Started(worker, slot.training.index, slot.training.attempt))

    def poll(self, timeout_s: float) -> list[WorkerEvent]:
        clock = self.clock
        if not self._coming or self._coming[0][0] > clock.now + timeout_s:
            clock.pass_by(timeout_s + self.prices.wait_s * len(self.slots))
            return []
        clock.now = max(clock.now, self._coming[0][0])
        events: list[WorkerEvent] = []
        deadline = clock.now + DRAIN_S
        while self._coming and self._coming[0][0] <= (looked := clock.now) < deadline:
            clock.pass_by(self.prices.wait_s * len(self.slots))
            while self._coming and self._coming[0][0] <= looked:
                _, _, event = heapq.heappop(self._coming)
                clock.pass_by(self.prices.item_s)
                events.append(event)
                self._heard(event)
        return events

    def _heard(self, event: WorkerEvent) -> None:
        if isinstance(event, Started):
            slot = self.slots[event.worker]
            assert slot.training is not None
            seconds = self.seconds(slot.training.index)
            self.busy_s += seconds
            slot.ended = self.clock.now + self.prices.travel_s + seconds
            outcome = Outcome((Measurement(1, 1.0, 1.0, 0.5),), seconds)
            self._say(slot.ended, Finished(event.worker, event.index, outcome, event.attempt))
        elif isinstance(event, Finished):
            self.trained += 1
            self._next(event.worker)

    @property
    def trains_in_poll(self) -> bool:
        return False

    def replace(self, worker: int) -> None:
        raise AssertionError("nothing fails here")

    def avoid(self, node: str, why: str) -> None:
        raise AssertionError("nothing fails here")

    def release(self, worker: int) -> None:
        pass

    def close(self) -> None:
        pass


class Shelf:
    """A store in memory. Its coordinators take turns; ``clock`` and ``owner`` are those of the one whose turn it is."""

    def __init__(self, clock: Clock, target: int, prices: Prices) -> None:
        self.clock, self.target, self.prices = clock, target, prices
        self.owner = 0
        self.drawn = self.completed = self.rejected = self.claims = 0
        self.open: deque[Drawn] = deque()
        self.leased: Counter[int] = Counter()  # candidates, by owner

    def extend(self, count: int, judge: Callable[[int, int], Sequence[Drawn]]) -> int:
        stop = min(self.drawn + count, self.target)
        self.clock.pass_by(self.prices.draw_s * (stop - self.drawn))
        for drawn in judge(self.drawn, stop):
            if drawn.verdict.valid:
                self.open.append(drawn)
            else:
                self.rejected += 1
        self.drawn = stop
        return self.target - stop

    def claim(self, count: int, held: Collection[int]) -> Claims:
        given = [self.open.popleft() for _ in range(min(count, len(self.open)))]
        self.clock.pass_by(self.prices.claim_s + self.prices.claimed_s * len(given))
        self.claims += 1
        self.leased[self.owner] += len(given)
        tasks = tuple(Task(d.index, d.layers, d.verdict.macs or 0, self.claims) for d in given)
        others = self.leased.total() > self.leased[self.owner]
        return Claims(tasks, open_elsewhere=len(given) >= count or others)

    def record(self, news: News) -> Reply:
        rows = self.prices.dispatch_s * len(news.dispatched) + self.prices.result_s * len(news.outcomes)
        self.clock.pass_by(self.prices.commit_s + rows)
        self.completed += len(news.outcomes)
        self.leased[self.owner] -= len(news.outcomes)
        return Reply(self.counts(), None, frozenset(), stop_asked=False)

    def counts(self) -> Counts:
        is_open = len(self.open) + self.leased.total()
        return Counts(self.target, self.drawn, self.rejected, self.completed, 0, is_open)

    def best(self) -> None:
        return None


@dataclass(frozen=True)
class Ran:
    """How a simulated search went."""

    seconds: float  # to the last training's end; the second half of a run that was cut off
    trained: int  # in that time
    busy: float  # share of the workers' time in training
    tail_s: float  # that a worker is idle at the end, on average; 0 in a run that was cut off


def run(
    workers: int,
    judge: Callable[[int, int], Sequence[Drawn]],
    target: int,
    seconds: Callable[[int], float],
    prices: Prices,
    last_s: float | None = None,
    step: Callable[[Coordinator, Event, float], object] | None = None,
) -> Ran:
    """One search of ``target`` draws, or the first ``last_s`` of it; ``seconds`` says how long an index trains."""
    clock = Clock()
    fleet, shelf = Fleet(clock, workers, seconds, prices), Shelf(clock, target, prices)
    search = Run(shelf, fleet, judge, Limits(), StopRequest(), clock=clock, sleep=clock.pass_by, jitter=lambda: 0.5)
    if step:
        machine = search._machine
        machine.step = lambda event, now: step(machine, event, now)  # type: ignore[method-assign, assignment, return-value]
    if last_s is None:
        search()
        end = max(slot.ended for slot in fleet.slots)
        tail = sum(end - slot.ended for slot in fleet.slots) / workers
        return Ran(end, shelf.completed, fleet.busy_s / workers / end, tail)
    while clock.now < last_s / 2:
        search.turn()
    began, trained, busy_s = clock.now, fleet.trained, fleet.trained_s()
    while clock.now < last_s:
        search.turn()
    passed = clock.now - began
    return Ran(passed, fleet.trained - trained, (fleet.trained_s() - busy_s) / workers / passed, 0.0)


def run_together(
    coordinators: int,
    workers: int,
    judge: Callable[[int, int], Sequence[Drawn]],
    target: int,
    seconds: Callable[[int], float],
    prices: Prices,
) -> float:
    """Seconds of one search of several coordinators that begin at once, with so many workers each."""
    clocks = [Clock() for _ in range(coordinators)]
    shelf = Shelf(clocks[0], target, prices)
    fleets = [Fleet(clock, workers, seconds, prices) for clock in clocks]
    going = {
        number: Run(shelf, own, judge, Limits(), StopRequest(), clock=own.clock, sleep=own.clock.pass_by)
        for number, own in enumerate(fleets)
    }
    while going:
        number = min(going, key=lambda number: clocks[number].now)
        shelf.clock, shelf.owner = clocks[number], number
        if going[number].turn() is not None:
            going.pop(number).finish()
    return max(slot.ended for own in fleets for slot in own.slots)
