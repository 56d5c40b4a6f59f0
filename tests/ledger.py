"""What every store must do, as plain Python: the specification that the real ones are compared with.

The simulator runs coordinators on it, a hundred thousand times; ``storage/test_contract.py`` does the
same random operations on it, on SQLite and on Postgres, and all three must answer alike. It checks its
own invariants as it goes.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from search.candidates import CHARGED, AttemptEnding, FailureReason, Interruption, Outcome, Status, charges_of_losses
from search.messages import Task
from search.run import Best, Claims, Counts, News, Reply
from search.sieve import Drawn

LEASE_S = 60.0


@dataclass
class Entry:
    """A candidate."""

    index: int
    drawn: Drawn
    status: Status
    outcome: Outcome | None = None
    attempts: int = 0


@dataclass
class Lease:
    owner: int
    first: int
    stop: int
    expires: float


@dataclass
class Attempt:
    epoch: int
    isolated: bool
    started: bool = False
    ending: AttemptEnding | None = None
    forgiven: bool = False


@dataclass
class Ledger:
    """The database of one search."""

    target: int
    now: float = 0.0
    drawn: int = 0
    claims: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)
    index_of: dict[str, int] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)
    attempts: dict[tuple[int, int], Attempt] = field(default_factory=dict)
    coordinators: int = 0
    dead: set[int] = field(default_factory=set)  # coordinators whose end can be seen

    def open_in(self, first: int, stop: int) -> list[Entry]:
        return [e for i in range(first, stop) if (e := self.entries.get(i)) and e.status is Status.OPEN]

    def reopen(self, reasons: Collection[FailureReason]) -> list[int]:
        """Open the candidates that failed for one of the reasons, attempts so far forgiven; which."""
        opened = [
            e for e in self.entries.values() if e.status is Status.FAILED and e.outcome and e.outcome.reason in reasons
        ]
        for entry in opened:
            entry.status, entry.outcome = Status.OPEN, None
        indices = {entry.index for entry in opened}
        for (index, _), attempt in self.attempts.items():
            attempt.forgiven |= index in indices
        return sorted(indices)

    def require_sound(self) -> None:
        """No two leases overlap."""
        ranges = sorted((lease.first, lease.stop) for lease in self.leases.values())
        assert all(stop <= first for (_, stop), (first, _) in pairwise(ranges)), ranges


class ModelStore:
    """One coordinator's view of a ledger: the methods of SqlStore."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.owner = -1

    def join(self) -> None:
        self.ledger.coordinators += 1
        self.owner = self.ledger.coordinators

    def leave(self, ending: str | None = None) -> None:
        mine = {epoch for epoch, lease in self.ledger.leases.items() if lease.owner == self.owner}
        self._drop(mine, Interruption.CANCELLED)
        self.ledger.dead.add(self.owner)

    def renew(self) -> None:
        for lease in self.ledger.leases.values():
            if lease.owner == self.owner:
                lease.expires = self.ledger.now + LEASE_S

    def _drop(self, epochs: Collection[int], ending: Interruption) -> None:
        for attempt in self.ledger.attempts.values():
            if attempt.epoch in epochs and attempt.ending is None:
                attempt.ending = ending
        for epoch in epochs:
            del self.ledger.leases[epoch]

    def extend(self, count: int, judge: Callable[[int, int], Sequence[Drawn]]) -> int:
        ledger = self.ledger
        stop = min(ledger.drawn + count, ledger.target)
        for drawn in judge(ledger.drawn, stop):
            if drawn.layers not in ledger.index_of:
                ledger.index_of[drawn.layers] = drawn.index
                status = Status.OPEN if drawn.verdict.valid else Status.REJECTED
                ledger.entries[drawn.index] = Entry(drawn.index, drawn, status)
        ledger.drawn = stop
        return ledger.target - stop

    def claim(self, count: int, held: Collection[int]) -> Claims:
        ledger = self.ledger
        gone = {
            epoch
            for epoch, lease in ledger.leases.items()
            if lease.owner != self.owner and (lease.owner in ledger.dead or lease.expires <= ledger.now)
        }
        self._drop(gone, Interruption.COORDINATOR_LOST)
        tasks: list[Task] = []
        own = {epoch: lease for epoch, lease in ledger.leases.items() if lease.owner == self.owner}
        others = len(ledger.leases) > len(own)
        for epoch in sorted(own.keys() - held):
            found = ledger.open_in(own[epoch].first, own[epoch].stop)[: count - len(tasks)]
            tasks += self._tasks(found, epoch)
            if len(tasks) == count and found:
                own[epoch].stop = found[-1].index + 1
            elif len(tasks) == count:
                del ledger.leases[epoch]
        for first, stop in self._gaps():
            found = ledger.open_in(first, stop)[: max(0, count - len(tasks))]
            if found:
                ledger.claims += 1
                expires = ledger.now + LEASE_S
                ledger.leases[ledger.claims] = Lease(self.owner, found[0].index, found[-1].index + 1, expires)
                tasks += self._tasks(found, ledger.claims)
        ledger.require_sound()
        return Claims(tuple(tasks), open_elsewhere=len(tasks) >= count or others)

    def _gaps(self) -> list[tuple[int, int]]:
        free, gaps = 0, []
        for first, stop in sorted((lease.first, lease.stop) for lease in self.ledger.leases.values()):
            gaps.append((free, first))
            free = stop
        return [*gaps, (free, self.ledger.drawn)]

    def _tasks(self, entries: Iterable[Entry], epoch: int) -> list[Task]:
        tasks = []
        for entry in entries:
            past = {n: a for (index, n), a in self.ledger.attempts.items() if index == entry.index}
            counted = [a for a in past.values() if not a.forgiven]
            lost = [a for a in counted if a.ending is Interruption.COORDINATOR_LOST]
            started = sum(a.isolated and a.started for a in lost)
            unseen = sum(a.isolated and not a.started for a in lost)
            charges = sum(a.ending in CHARGED for a in counted) + charges_of_losses(started, unseen)
            macs = entry.drawn.verdict.macs or 0
            task = Task(entry.index, entry.drawn.layers, macs, epoch, max(past, default=0), entry.attempts)
            nodes = sum(a.ending is Interruption.WORKER_UNAVAILABLE for a in counted)
            tasks.append(replace(task, charges=charges, losses=len(lost) + nodes))
        return tasks

    def record(self, news: News) -> Reply:
        ledger = self.ledger
        held = {epoch for epoch, lease in ledger.leases.items() if lease.owner == self.owner}
        for task in news.started:
            self._start(task, held)
        for task, ending, _ in news.attempts:
            self._end_attempt(task, ending, held)
        for task, outcome in news.outcomes:
            self._end(task, outcome, held)
        for task in news.dispatched:
            if task.lease in held:
                assert ledger.entries[task.index].status is Status.OPEN, "recorded work is dispatched again"
                ledger.attempts.setdefault((task.index, task.attempt), Attempt(task.lease, task.isolated))
        if any(task.lease in held for task, _ in news.outcomes):
            for epoch in held:
                if not ledger.open_in(ledger.leases[epoch].first, ledger.leases[epoch].stop):
                    del ledger.leases[epoch]
        for epoch in news.given_back & held & ledger.leases.keys():
            del ledger.leases[epoch]
        return Reply(self.counts(), self.best(), frozenset(task.lease for task in news.tasks) - held, stop_asked=False)

    def _start(self, task: Task, held: Collection[int]) -> None:
        entry, attempt = self.ledger.entries[task.index], self.ledger.attempts.get((task.index, task.attempt))
        if task.lease in held and entry.status is Status.OPEN:
            entry.attempts = max(entry.attempts, task.begun)
        if task.lease in held and attempt:
            attempt.started |= task.isolated

    def _end(self, task: Task, outcome: Outcome, held: Collection[int]) -> None:
        entry, attempt = self.ledger.entries[task.index], self.ledger.attempts.get((task.index, task.attempt))
        is_again = outcome.reason is not None and attempt is not None and attempt.ending is not None
        if is_again and attempt.forgiven:  # recorded once more, and opened again in between
            return
        if task.lease in held and entry.status is Status.OPEN:
            entry.status, entry.outcome, entry.attempts = outcome.status, outcome, task.begun
            if outcome.reason is None:
                self.ledger.attempts.pop((task.index, task.attempt), None)
            else:
                self._end_attempt(task, outcome.reason, held)

    def _end_attempt(self, task: Task, ending: AttemptEnding, held: Collection[int]) -> None:
        attempt = self.ledger.attempts.get((task.index, task.attempt))
        if attempt and task.lease in held and attempt.ending is None:
            attempt.ending = ending

    def counts(self) -> Counts:
        statuses = [entry.status for entry in self.ledger.entries.values()]
        numbers = {status.value: statuses.count(status) for status in Status}
        return Counts(target=self.ledger.target, drawn=self.ledger.drawn, **numbers)

    def best(self) -> Best | None:
        ranked = []
        for entry in self.ledger.entries.values():
            if entry.outcome and entry.status is Status.COMPLETED:
                last = entry.outcome.measurements[-1]
                ranked.append(Best(entry.index, last.val_accuracy, last.val_loss, entry.drawn.layers))
        return min(ranked, key=lambda best: (-best.val_accuracy, best.val_loss, best.index), default=None)
