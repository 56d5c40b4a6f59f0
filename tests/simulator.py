"""Whole searches in simulated time, with every fault at once; one seed gives one history.

    python -m tests.simulator              100,000 seeds
    python -m tests.simulator 17 --trace   one seed, told as it happens

Several coordinators (the real ``Run`` and its state machine) work on one model of the database
(``ledger.py``), each with workers of its own. The seed decides who moves, how long everything takes, and
what goes wrong: coordinators are killed, paused past their leases and started again; the database is away,
or takes effect and does not answer; workers die, hang and lose their nodes; news comes twice, late and
out of order; some candidates take their worker, or their whole host, down. There is no clock, no thread,
no process and no I/O. Whatever happens, the search must end with the table that an undisturbed one gives.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from search.candidates import (
    CHARGED,
    FailureReason,
    Interruption,
    Measurement,
    Outcome,
    RejectionReason,
    Status,
    charges_of_losses,
)
from search.errors import DatabaseAway, Stopped
from search.messages import (
    MOST_LOSSES,
    Finished,
    Started,
    Task,
    WorkerEvent,
    WorkerGone,
    WorkerLost,
    WorkerReady,
    WorkerTime,
)
from search.run import Claims, Counts, News, Reply, Run, StopRequest
from search.settings import Limits
from search.shapes import Verdict
from search.sieve import Drawn
from search.standstill import STANDSTILL_S
from tests.ledger import LEASE_S, Ledger, ModelStore

SEEDS = 100_000
TURNS = 20_000  # more means that a search does not end
LIMITS = Limits(trial_timeout_s=4.0, db_outage_limit_s=1e9)


KINDS = ("deadly", "hanging", "greedy", "hostile", "toppling")  # of bad candidates, see Space


class HostDown(Exception):
    """A candidate took its host down, and with it the coordinator."""


# ------------------------------------------------------------------ what is searched


@dataclass(frozen=True)
class Space:
    """Strings by index, most of them invalid or repeated; what becomes of each is its own."""

    distinct: int
    deadly: frozenset[str]  # end their worker
    hanging: frozenset[str]
    greedy: frozenset[str]  # run out of memory
    hostile: frozenset[str]  # take the host down
    toppling: frozenset[str]  # take their worker's node down

    def judge(self, start: int, stop: int) -> list[Drawn]:
        return [self._drawn(index) for index in range(start, stop)]

    def _drawn(self, index: int) -> Drawn:
        number = index * 7919 % self.distinct
        if number % 3 == 0:
            return Drawn(index, f"c{number}", Verdict((), RejectionReason.KERNEL_EXCEEDS_INPUT, 0, "too large"))
        return Drawn(index, f"c{number}", Verdict((), parameters=number, macs=1000 * (number % 50)))

    def outcome(self, layers: str) -> Outcome:
        """Of a training that nothing disturbs."""
        if layers in self.greedy:
            return Outcome((), 1.0, FailureReason.OUT_OF_MEMORY, "no memory")
        if int(layers[1:]) % 11 == 0:
            return Outcome((), 1.0, FailureReason.NON_FINITE_LOSS, "in epoch 1")
        return Outcome((Measurement(1, 1.0, 1.0, int(layers[1:]) / self.distinct),), 1.0)

    @property
    def bad(self) -> frozenset[str]:
        """Candidates that fail with something that they are charged with."""
        return self.deadly | self.hanging | self.greedy | self.hostile | self.toppling


def space_of(chance: random.Random) -> Space:
    """A small space with a few bad candidates."""
    distinct = chance.randrange(5, 60)
    names = [f"c{number}" for number in range(distinct) if number % 3]
    bad = chance.sample(names, min(len(names), chance.choice([0, 0, 1, 2, 4])))
    kinds = [chance.choice(KINDS) for _ in bad]
    chosen = {kind: frozenset(n for n, k in zip(bad, kinds, strict=True) if k == kind) for kind in KINDS}
    return Space(distinct, **chosen)


# ------------------------------------------------------------------ workers


@dataclass
class Worker:
    ready: bool = False
    queue: list[Task] = field(default_factory=list)
    training: Task | None = None


class SimulatedExecutor:
    """Workers whose progress, coming, going, deaths and delayed news the seed decides."""

    def __init__(self, world: "World", workers: int) -> None:
        self.world = world
        self.slots = {number: Worker() for number in range(workers)}
        self.numbers = count(workers)
        self.gone: set[int] = set()  # for which there is no room now
        self.had: dict[int, int | None] = {}  # the candidate that a worker had first when it was last lost
        self.late: list[WorkerEvent] = []

    @property
    def workers(self) -> int:
        return len(self.slots)

    @property
    def worked(self) -> WorkerTime:
        return WorkerTime()

    @property
    def trains_in_poll(self) -> bool:
        return False

    def submit(self, worker: int, tasks: Sequence[Task]) -> bool:
        if any(isinstance(event, WorkerLost) and event.worker == worker for event in self.late):
            if self.world.chance.random() < 0.5:  # the executor knows of the loss already
                return False
            self.world.blamed[tasks[0].index] += 1  # nobody knows: it may have died of this one
            return True
        assert self.slots[worker].ready, "a batch for a worker that is not there"
        self.slots[worker].queue += tasks
        return True

    def poll(self, timeout_s: float) -> list[WorkerEvent]:
        chance = self.world.chance
        self.world.ledger.now += chance.uniform(0, timeout_s + 0.01)
        if not self.slots:
            return []
        if len(self.slots) < 4 and self.world.strikes("join"):  # more would not get on before the timeout
            self.slots[next(self.numbers)] = Worker()
        for _ in range(chance.randrange(4)):
            number = chance.choice(list(self.slots))
            self.late += self._progress(number, self.slots[number])
        if chance.random() < 0.1:  # the news is delayed
            return []
        events, self.late = self.late, []
        told = [event for event in events if isinstance(event, Started | Finished)]
        if told and chance.random() < self.world.mischief:
            events.append(chance.choice(told))  # twice, and out of order
        return events

    def _progress(self, number: int, worker: Worker) -> list[WorkerEvent]:
        if number not in self.gone and self.world.strikes("leave"):
            self.gone.add(number)
            return [*([self._lose(number, None)] if worker.ready else []), WorkerGone(number)]
        if not worker.ready:
            self.gone.discard(number)
            worker.ready = True
            return [WorkerReady(number, f"node{number % 2}")]
        return self._work(number, worker)

    def _work(self, number: int, worker: Worker) -> list[WorkerEvent]:
        chance = self.world.chance
        if self.world.strikes("worker"):
            reason = chance.choice([FailureReason.WORKER_DIED, FailureReason.OUT_OF_MEMORY, None])
            return [self._lose(number, reason)]
        if worker.training is None and worker.queue:
            worker.training = worker.queue.pop(0)
            self.world.began(worker.training)
            if worker.training.layers in self.world.space.deadly and chance.random() < 0.3:
                return [self._lose(number, FailureReason.WORKER_DIED)]  # before its start was seen
            return [Started(number, worker.training.index, worker.training.attempt)]
        if worker.training is None:
            return []
        return self._train(number, worker, worker.training)

    def _train(self, number: int, worker: Worker, task: Task) -> list[WorkerEvent]:
        space = self.world.space
        if task.layers in space.hostile:
            raise HostDown
        if task.layers in space.deadly:
            return [self._lose(number, FailureReason.WORKER_DIED)]
        if task.layers in space.toppling:
            return [self._lose(number, None)]
        if task.layers in space.hanging:
            return []
        worker.training = None
        return [Finished(number, task.index, space.outcome(task.layers), task.attempt)]

    def _lose(self, number: int, reason: FailureReason | None) -> WorkerLost:
        worker = self.slots[number]
        first = [worker.training, *worker.queue] if worker.training else worker.queue
        self.had[number] = first[0].index if first and first[0] else None
        if first and first[0] and (reason is not None or first[0].isolated):
            self.world.blamed[first[0].index] += 1
        self.slots[number] = Worker()
        return WorkerLost(number, reason, "lost")

    def replace(self, worker: int) -> None:
        for event in reversed(self.late):  # a timeout: of what trains, or of what had ended or was lost unheard
            if event.worker == worker and isinstance(event, Finished):
                self.world.blamed[event.index] += 1
            had = self.had.get(worker)
            if event.worker == worker and isinstance(event, WorkerLost) and had is not None:
                self.world.blamed[had] += 1
        slot = self.slots[worker]
        if lost := slot.training or next(iter(slot.queue), None):
            self.world.blamed[lost.index] += 1
        self.slots[worker] = Worker()
        self._forget(worker)

    def release(self, worker: int) -> None:
        del self.slots[worker]
        self._forget(worker)

    def _forget(self, worker: int) -> None:
        self.late = [event for event in self.late if event.worker != worker]

    def avoid(self, node: str, why: str) -> None:
        pass

    def close(self) -> None:
        pass


# ------------------------------------------------------------------ the database


class FaultyStore:
    """A model store that is away at times, or takes effect without an answer."""

    def __init__(self, world: "World", store: ModelStore) -> None:
        self.world, self.store = world, store

    @contextmanager
    def _mischief(self) -> Iterator[None]:
        if self.world.ledger.now < self.world.away_until:
            raise DatabaseAway("away")
        if self.world.strikes("database"):
            self.world.away_until = self.world.ledger.now + self.world.chance.choice([0.0, 1.0, 90.0])
            raise DatabaseAway("away")
        yield
        if self.world.strikes("answer"):
            raise DatabaseAway("no answer")

    def extend(self, count: int, judge: Callable[[int, int], Sequence[Drawn]]) -> int:
        with self._mischief():
            return self.store.extend(self.world.chance.randrange(1, 30), judge)

    def claim(self, count: int, held: set[int]) -> Claims:
        with self._mischief():
            before = dict(self.store.ledger.leases)
            claims = self.store.claim(count, held)
            taken = {before[epoch].owner for epoch in before.keys() - self.store.ledger.leases.keys()}
            self.world.lapsed |= any(host.store.owner in taken for host in self.world.hosts)
            return claims

    def record(self, news: News) -> Reply:
        with self._mischief():
            return self.store.record(news)

    def counts(self) -> Counts:
        return self.store.counts()

    def best(self) -> None:
        return None


# ------------------------------------------------------------------ the world


class Host:
    """A coordinator and its workers."""

    def __init__(self, world: "World") -> None:
        self.store = ModelStore(world.ledger)
        self.store.join()
        executor = SimulatedExecutor(world, world.chance.randrange(1, 4))
        self.executor = executor
        clock = lambda: world.ledger.now  # noqa: E731
        store = FaultyStore(world, self.store)
        self.run = Run(
            store, executor, world.space.judge, LIMITS, StopRequest(), clock=clock, jitter=world.chance.random,
            sleep=world.sleep, stood_still=lambda: self.stood_s,
        )  # fmt: skip
        self.wakes_at = 0.0
        self.moved = world.ledger.now
        self.stood_s = 0.0
        self.renewed = world.ledger.now


class World:
    """One search, from its first coordinator to its end."""

    def __init__(self, seed: int, trace: Callable[[str], None] = lambda _: None) -> None:
        self.chance = random.Random(seed)
        self.trace = trace
        self.space = space_of(self.chance)
        self.ledger = Ledger(target=self.chance.randrange(1, 200))
        self.mischief = self.chance.choice([0.0, 0.05, 0.3])
        self.faults = Counter(
            {
                kind: self.chance.choice([0, 1, 5, 20])
                for kind in ("worker", "database", "answer", "crash", "pause", "retry", "leave", "join")
            }
        )
        self.away_until = 0.0
        self.blamed: Counter[int] = Counter()  # by candidate: workers that were lost or replaced under it
        self.hosts: list[Host] = []
        self.reopened: set[int] = set()
        self.terminal: dict[int, tuple[Status, object]] = {}
        self.repeated = 0  # trainings that began although their outcome was recorded
        self.lapsed = False  # whether a coordinator was slow to hear that others have its candidates

    def strikes(self, kind: str) -> bool:
        """Whether that fault happens now; there is a bounded number of each."""
        if not self.faults[kind] or self.chance.random() > 0.03:
            return False
        self.faults[kind] -= 1
        self.trace(f"{self.ledger.now:8.2f}  {kind}")
        return True

    def sleep(self, seconds: float) -> None:
        self.ledger.now += seconds

    def began(self, task: Task) -> None:
        """A worker began a training: of a recorded one only a coordinator that had been paused may do so."""
        if self.ledger.entries[task.index].status is not Status.OPEN:
            self.repeated += 1

    def __call__(self) -> None:
        """Run the search to its end, and hold the table against the expected one."""
        coordinators = self.chance.choice([1, 1, 2, 3])
        finished = False
        for _ in range(TURNS):
            if finished:
                break
            while len(self.hosts) < coordinators:
                self.hosts.append(Host(self))
            finished = self._turn(self.chance.choice(self.hosts))
        assert finished, f"the search does not end: {self.ledger.leases}"
        self._require_exact()

    def _turn(self, host: Host) -> bool:
        """One coordinator moves, or something happens to it; whether the search is finished."""
        now = self.ledger.now
        if now < host.wakes_at:
            if all(now < other.wakes_at for other in self.hosts):
                self.ledger.now += 5.0
            return False
        if self._disturb(host, now):
            return False
        if now - host.renewed > LEASE_S / 6 and now >= self.away_until:
            host.store.renew()
            host.renewed = now
        if now - host.moved > STANDSTILL_S:
            host.stood_s += now - host.moved
        try:
            end = host.run.turn()
            host.moved = self.ledger.now
            if end is not None:
                host.run.finish()
            self._require_filed(host)
            self._require_given_back(host)
        except HostDown:
            self.trace(f"{now:8.2f}  host down")
            self._kill(host)
            return False
        except Stopped as stopped:  # nearly everything failed: a person looks, and goes on
            self.trace(f"{now:8.2f}  {stopped}")
            end = None
            self._kill(host)
        self._require_unchanged()
        if end is None:
            return False
        host.store.leave(end.why)
        self.hosts.remove(host)
        counts = host.store.counts()
        return counts.drawn == counts.target and not counts.open

    def _disturb(self, host: Host, now: float) -> bool:
        """Let something happen to the search or to a coordinator; whether that one does not move."""
        if self.strikes("retry"):
            for index in self.ledger.reopen(CHARGED):
                self.reopened.add(index)
                self.blamed[index] = 0
                del self.terminal[index]
        if self.strikes("crash"):
            self._kill(host)
            return True
        if self.strikes("pause"):
            host.wakes_at = now + self.chance.choice([1.0, 2 * LEASE_S])
            return True
        return False

    def _kill(self, host: Host) -> None:
        """End a coordinator and its workers at once; its process may be seen to be gone, or only be silent."""
        self.hosts.remove(host)
        if self.chance.random() < 0.5:
            self.ledger.dead.add(host.store.owner)
        else:
            self.ledger.now += self.chance.uniform(0, LEASE_S)
        self._require_unchanged()

    def _require_filed(self, host: Host) -> None:
        """The machine knows its workers by what they lack, as if it had looked at each."""
        machine = host.run._machine
        waits = [number for number, w in machine._workers.items() if w.batches and not w.batches[0].submitted]
        assert sorted(machine._unfed) == sorted(waits)

    def _require_given_back(self, host: Host) -> None:
        """A coordinator without a worker holds nothing, once the database has heard so.

        But what is opened again under a lease of which it believes that all has ended: it asks when it has a worker.
        """
        run = host.run
        if not (run._machine._workers or run._news or run._answers or run._wanted):
            held = [lease for lease in self.ledger.leases.values() if lease.owner == host.store.owner]
            is_known = [self.reopened.isdisjoint(range(lease.first, lease.stop)) for lease in held]
            assert not any(is_known), f"{held} without a worker"

    def _require_unchanged(self) -> None:
        """What was recorded stays as it was recorded."""
        for index, entry in self.ledger.entries.items():
            if entry.status is not Status.OPEN:
                found = (entry.status, entry.outcome)
                assert self.terminal.setdefault(index, found) == found, f"candidate {index} changed"

    def _require_exact(self) -> None:
        assert not self.repeated or self.lapsed, f"{self.repeated} recorded trainings were repeated"
        first: dict[str, Drawn] = {}
        for drawn in self.space.judge(0, self.ledger.target):
            first.setdefault(drawn.layers, drawn)
        assert {e.index: e.drawn for e in self.ledger.entries.values()} == {d.index: d for d in first.values()}
        for entry in self.ledger.entries.values():
            if entry.drawn.verdict.valid:
                self._require_right(entry.index, entry.drawn.layers, entry.outcome)
            else:
                assert entry.status is Status.REJECTED
                assert entry.outcome is None

    def _require_right(self, index: int, layers: str, outcome: Outcome | None) -> None:
        """The outcome that follows from the string, unless its own worker was lost under it twice."""
        assert outcome is not None
        if layers in self.space.bad:
            assert outcome.reason in CHARGED
            return
        if outcome == self.space.outcome(layers):
            return
        assert outcome.status is Status.FAILED
        attempts = [a for (i, _), a in self.ledger.attempts.items() if i == index and not a.forgiven]
        lost_alone = [a for a in attempts if a.isolated and a.ending is Interruption.COORDINATOR_LOST]
        started = sum(a.started for a in lost_alone)
        if len(lost_alone) + MOST_LOSSES <= len(attempts):
            self.blamed[index] += charges_of_losses(started, len(lost_alone) - started)
        assert self.blamed[index] >= 2, (
            f"candidate {index} is {outcome.reason}, and was blamed {self.blamed[index]} times"
        )


def simulate(seed: int, trace: Callable[[str], None] = lambda _: None) -> str | None:
    """Run one seed: None if all was right, else what was wrong."""
    try:
        World(seed, trace)()
    except Exception as error:  # noqa: BLE001  whatever a bug raises
        return f"seed {seed}: {type(error).__name__}: {error}; replay: python -m tests.simulator {seed} --trace"
    return None


def main() -> None:
    """Run many seeds on all cores, or one with a trace."""
    if sys.argv[1:]:
        print(simulate(int(sys.argv[1]), print if "--trace" in sys.argv else lambda _: None) or "right")
        return
    began = time.monotonic()
    with ProcessPoolExecutor() as pool:
        wrong = [found for found in pool.map(partial(simulate), range(SEEDS), chunksize=200) if found]
    print(*wrong, f"{SEEDS:,} seeds in {time.monotonic() - began:.0f} s, {len(wrong)} wrong", sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
