"""Real processes, real databases, real signals: is the table that a search ends with the one that it must be?

    python -m tests.campaign                    200 kills, 50 stops, 20 crashes of Postgres; on both databases
    python -m tests.campaign --seed 7 --database sqlite
    python -m tests.campaign --database postgres --coordinators 8 --minutes 10 --kills 0 --stops 0 --crashes 0

Several coordinators (the real ``Run`` on the real store, with a trainer that computes its outcome from the
layer string) work on one search until every fault has been injected and the search is finished: SIGKILL,
SIGSTOP for longer than a lease and SIGCONT, and, of Postgres, an immediate shutdown, or the kill of a
backend, with crash recovery. Who ends is started again. What each one trains and records goes to a log of
its own, so that a training that is repeated although it was recorded shows.
"""

import argparse
import multiprocessing
import os
import platform
import random
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from search.candidates import FailureReason, Measurement, Outcome
from search.errors import NetsieveError
from search.run import News, Reply, Run, StopRequest
from search.samplers import RejectionSampler
from search.settings import Limits, Recipe, SearchSettings
from search.sieve import Drawn, judge_with
from search.space import CLASSIC
from storage import check, queries
from storage.engine import open_for_reading, open_for_writing
from storage.renewal import Renewal
from storage.store import SqlStore
from tests.databases import PostgresServer, postgres_server
from tests.stored import candidates
from workers.executors import InProcessExecutor

SETTINGS = SearchSettings(CLASSIC, "rejection", 1, 0, "none", "00", Recipe(epochs=1), "cpu")
LEASE_S = 3.0
STOPPED_S = 1.5 * LEASE_S
TRAINING_S = 0.02
STEP = 2_000  # candidates by which a search grows that is finished before the last fault
LONGEST_S = 3_600.0
CONNECTIONS = 3  # of a coordinator: two, and one of its predecessor's that Postgres has not given up yet

judge = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)


# ------------------------------------------------------------------ a coordinator


def outcome(layers: str) -> Outcome:
    """What becomes of a string, without torch."""
    number = zlib.crc32(layers.encode())
    loss = number / 2**32
    reason = FailureReason.NON_FINITE_LOSS if number % 10 == 0 else None
    return Outcome((Measurement(1, loss, loss, 1 - loss),), TRAINING_S, reason, reason and "in epoch 2")


class Trainer:
    """Says what it trains, takes a while, and computes the outcome."""

    def __init__(self, log: "Log", seconds: float) -> None:
        self._log, self._seconds = log, seconds

    def prepare(self) -> "Trainer":
        return self

    def train(self, layers: str) -> Iterator[Outcome | None]:
        self._log("trains", layers)
        for _ in range(2):
            time.sleep(self._seconds / 2)
            yield None
        yield outcome(layers)


class Log:
    """Lines of what coordinators did, appended whole, in the order in which they happened."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __call__(self, what: str, subject: str) -> None:
        os.write(self._file, f"{os.getpid()} {what} {subject}\n".encode())


class LoggedStore(SqlStore):
    """Says what is recorded once it is, and that leases were lost."""

    log: Log

    def record(self, news: News) -> Reply:
        reply = super().record(news)
        for task, _ in news.outcomes:
            if task.lease not in reply.lost:
                self.log("recorded", task.layers)
        if reply.lost:
            self.log("lost", "leases")
        return reply


def coordinate(url: str, target: int, log: Path, die_at: int = 0, seconds: float = TRAINING_S) -> None:
    """Work on the search until it is finished; with ``die_at``, kill this process at that statement or commit."""
    try:
        engine = open_for_writing(url)
        if die_at:
            _die_at(engine, die_at)
        store = LoggedStore.open(engine, "campaign", SETTINGS, target, LEASE_S)
        store.log = Log(log)  # type: ignore[attr-defined]
        store.join()
        executor = InProcessExecutor(Trainer(Log(log), seconds))
        with Renewal(store):
            Run(store, executor, judge, Limits(candidates=target, db_outage_limit_s=60), StopRequest())()
        store.leave(None)
    except NetsieveError as error:  # it is started again, as a person would with netsieve resume
        sys.exit(error.exit_code)


def _die_at(engine: sa.Engine, number: int) -> None:
    """SIGKILL this process before its nth statement, before that commit, or after it, in turns."""
    left = number

    def step(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for event in ("before_cursor_execute", "after_cursor_execute", "commit"):
        sa.event.listen(engine, event, step)


# ------------------------------------------------------------------ what must come out


def expected(target: int) -> list[tuple[Any, ...]]:
    """The table of an undisturbed search: all keys of candidates but seconds and attempts."""
    first: dict[str, Drawn] = {}
    for drawn in judge(0, target):
        first.setdefault(drawn.layers, drawn)
    return [_expected(drawn) for drawn in first.values()]


def _expected(drawn: Drawn) -> tuple[Any, ...]:
    verdict = drawn.verdict
    shape = (verdict.parameters, verdict.macs)
    if not verdict.valid:
        return (drawn.index, drawn.layers, "rejected", verdict.reason, verdict.layer, *shape, None, None, None, 0)
    trained = outcome(drawn.layers)
    last = trained.measurements[-1]
    measured = (last.train_loss, last.val_loss, last.val_accuracy, 1)
    return (drawn.index, drawn.layers, trained.status, trained.reason, None, *shape, *measured)


def found(url: str) -> tuple[list[tuple[Any, ...]], list[str]]:
    """The table that there is, and what ``netsieve db check`` finds wrong."""
    engine = open_for_reading(url)
    with engine.connect() as connection:
        search = queries.require(connection, "campaign")
        rows = [
            (r.index, r.layers, r.status, r.reason, r.layer, r.parameters, r.macs,
             r.train_loss, r.val_loss, r.val_accuracy, r.epochs)
            for r in candidates(connection, search.id)
        ]  # fmt: skip
        report = check.check_search(connection, search.id, SETTINGS.recipe, judge)
        wrong = check.check_file(connection) + report.wrong
    engine.dispose()
    return rows, wrong


def repeated(log: Path) -> tuple[int, int]:
    """Trainings that began although their outcome was recorded: by coordinators that lost no lease, and by others."""
    recorded: set[str] = set()
    again: Counter[str] = Counter()
    losers: set[str] = set()
    for line in log.read_text().splitlines():
        process, what, subject = line.split(" ", 2)
        if what == "recorded":
            recorded.add(subject)
        elif what == "lost":
            losers.add(process)
        elif subject in recorded:
            again[process] += 1
    by_losers = sum(times for process, times in again.items() if process in losers)
    return again.total() - by_losers, by_losers


# ------------------------------------------------------------------ the campaign


@dataclass
class Faults:
    """How many of each are to be injected."""

    kills: int = 200
    stops: int = 50
    crashes: int = 20  # of Postgres, half of them by the kill of a backend

    def left(self) -> list[str]:
        """One word a fault."""
        return ["kill"] * self.kills + ["stop"] * self.stops + ["crash"] * self.crashes


@dataclass
class Result:
    """What a campaign gave."""

    injected: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)  # of coordinators, by exit code
    target: int = 0
    seconds: float = 0.0
    trained: int = 0
    distinct: int = 0  # that had to be trained
    connections: int = 0  # to Postgres, at most
    deadlocks: int = 0  # that Postgres found
    wrong: list[str] = field(default_factory=list)

    def told(self, name: str) -> str:
        """In one line."""
        faults = ", ".join(f"{fault} {count}" for fault, count in sorted(self.injected.items()))
        return (
            f"{name}: {faults or 'no faults'}; {self.target:,} candidates drawn, {self.distinct:,} to train, "
            f"{self.trained:,} begun, at most {self.connections} connections, {self.deadlocks} deadlocks, "
            f"{self.restarts.total():,} restarts, "
            f"{self.seconds:.0f} s: {'; '.join(line[:200] for line in self.wrong[:5]) or 'the exact table'}"
        )


class Campaign:
    """Coordinators on one search, and what happens to them."""

    def __init__(
        self,
        url: str,
        folder: Path,
        coordinators: int,
        chance: random.Random,
        crash: Callable[[], None],
        look: Callable[[], tuple[int, int]],
    ) -> None:
        self._url, self._log, self._chance, self._crash = url, folder / "log", chance, crash
        self._look = look
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._target = STEP
        self._result = Result()
        self._running = [self._start() for _ in range(coordinators)]
        self._stopped: dict[int, float] = {}  # process id: until when
        self._count_at = 0.0  # when connections are counted next

    def _start(self) -> BaseProcess:
        process = self._context.Process(target=coordinate, args=(self._url, self._target, self._log))
        process.start()
        return process

    def run(self, faults: Faults, at_least_s: float = 0.0) -> Result:
        """Inject the faults in random order, for at least so long; let the search finish, and compare."""
        began, left = time.monotonic(), faults.left()
        self._chance.shuffle(left)
        next_at = began + 2
        try:
            while left or self._stopped or not self._is_finished():
                took = time.monotonic() - began
                if took > at_least_s + LONGEST_S:
                    raise TimeoutError("the search does not end")
                time.sleep(0.05)
                self._continue_stopped()
                self._restart_ended(more=bool(left) or took < at_least_s)
                self._count_connections()
                if left and time.monotonic() >= next_at:
                    left = left[:-1] if self._inject(left[-1]) else left
                    next_at = time.monotonic() + self._chance.uniform(0.1, 1.2)
        finally:
            for process in self._running:
                process.kill()
                process.join()
        self._count_at = 0.0
        self._count_connections()
        self._result.seconds = time.monotonic() - began
        return self._compare()

    def _count_connections(self) -> None:
        if time.monotonic() >= self._count_at:
            self._count_at = time.monotonic() + 1.0
            connections, self._result.deadlocks = self._look()
            self._result.connections = max(self._result.connections, connections)

    def _is_finished(self) -> bool:
        return all(process.exitcode == 0 for process in self._running)

    def _continue_stopped(self) -> None:
        for pid, until in list(self._stopped.items()):
            if time.monotonic() >= until:
                with suppress(ProcessLookupError):  # it had ended before it could be stopped
                    os.kill(pid, signal.SIGCONT)
                del self._stopped[pid]

    def _restart_ended(self, *, more: bool) -> None:
        """Start again what was killed or gave up; while faults are left, a finished search grows."""
        if more and any(process.exitcode == 0 for process in self._running):  # one saw the search finished
            self._target += STEP
        for number, process in enumerate(self._running):
            if process.exitcode is not None and (process.exitcode != 0 or more):
                self._result.restarts[str(process.exitcode)] += 1
                self._running[number] = self._start()

    def _inject(self, fault: str) -> bool:
        """Whether it could be: there may be nobody who can be killed or stopped just now."""
        awake = [p for p in self._running if p.exitcode is None and p.pid not in self._stopped]
        if fault == "crash":
            self._crash()
        elif not awake:
            return False
        else:
            process = self._chance.choice(awake)
            assert process.pid is not None
            if fault == "kill":
                process.kill()
            else:
                os.kill(process.pid, signal.SIGSTOP)
                self._stopped[process.pid] = time.monotonic() + STOPPED_S
        self._result.injected[fault] += 1
        return True

    def _compare(self) -> Result:
        result = self._result
        result.target = self._target
        rows, wrong = found(self._url)
        result.wrong += wrong
        right = expected(self._target)
        result.wrong += [
            f"{is_} instead of {should}" for is_, should in zip(rows, right, strict=False) if is_ != should
        ]
        if len(rows) != len(right):
            result.wrong.append(f"{len(rows)} rows instead of {len(right)}")
        result.distinct = sum(row[2] != "rejected" for row in right)
        result.trained = self._log.read_text().count(" trains ")
        again, _ = repeated(self._log)
        if again:
            result.wrong.append(f"{again} recorded trainings were repeated")
        if result.deadlocks:
            result.wrong.append(f"{result.deadlocks} deadlocks")
        if result.connections > CONNECTIONS * len(self._running):
            result.wrong.append(f"{result.connections} connections of {len(self._running)} coordinators")
        return result


def campaign(
    database: str,
    faults: Faults,
    seed: int,
    server: PostgresServer | None = None,
    coordinators: int | None = None,
    at_least_s: float = 0.0,
) -> Result:
    """One campaign, on a new database; of two coordinators on SQLite and three on Postgres."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="netsieve-campaign-") as folder, ExitStack() as stack:
        if database == "sqlite":
            faults = Faults(faults.kills, faults.stops, 0)
            url = f"sqlite:///{folder}/search.db"
            sqlite = Campaign(url, Path(folder), coordinators or 2, chance, lambda: None, lambda: (0, 0))
            return sqlite.run(faults, at_least_s)
        server = server or stack.enter_context(postgres_server())
        url = server.new_database()
        postgres = Campaign(
            url, Path(folder), coordinators or 3, chance, lambda: _crash(server, chance), lambda: _look_at(url)
        )
        return postgres.run(faults, at_least_s)


def _look_at(url: str) -> tuple[int, int]:
    """Connections that coordinators hold to a database, and deadlocks so far; none while it is away."""
    connections = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            return tuple(int(connection.exec_driver_sql(query).scalar_one()) for query in (connections, deadlocks))
    except sa.exc.OperationalError:
        return 0, 0


def _crash(server: PostgresServer, chance: random.Random) -> None:
    if chance.random() < 0.5:
        server.crash(chance.uniform(0, 2))
    else:
        server.kill_backend()


def main() -> None:
    """Run it, and say what came out."""
    parser = argparse.ArgumentParser(description="Real processes, real databases, real signals.")
    parser.add_argument("--database", choices=["sqlite", "postgres"], help="Default: one after the other.")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--kills", type=int, default=Faults.kills)
    parser.add_argument("--stops", type=int, default=Faults.stops)
    parser.add_argument("--crashes", type=int, default=Faults.crashes)
    parser.add_argument("--coordinators", type=int, help="Default: two on SQLite, three on Postgres.")
    parser.add_argument("--minutes", type=float, default=0.0, help="At least; the search grows until then.")
    options = parser.parse_args()
    print(
        f"seed {options.seed}; Python {platform.python_version()}, SQLAlchemy {sa.__version__}, {platform.platform()}"
    )
    wrong = False
    for database in [options.database] if options.database else ["sqlite", "postgres"]:
        faults = Faults(options.kills, options.stops, options.crashes)
        result = campaign(
            database, faults, options.seed, coordinators=options.coordinators, at_least_s=60 * options.minutes
        )
        print(result.told(database), flush=True)
        wrong |= bool(result.wrong)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
