"""The same random operations on the model (``tests/ledger.py``), on SQLite and on Postgres: all answer alike.

So what the simulator proves of coordinators on the model holds on the real databases.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from search.candidates import FailureReason, Interruption
from search.messages import Task
from search.run import News
from search.settings import Recipe, SearchSettings
from search.space import CLASSIC
from storage import check, maintenance, queries
from storage.engine import open_for_writing
from storage.schema import attempt, coordinator, lease
from storage.store import SqlStore
from tests.ledger import Ledger, ModelStore
from tests.simulator import Space, space_of
from tests.stored import candidates

SETTINGS = SearchSettings(CLASSIC, "rejection", 1, 0, "digits", "00", Recipe(epochs=1), "cpu")
TARGET = 150
OPERATIONS = 150


@dataclass
class World:
    """One search in three stores."""

    name: str
    engines: tuple[Engine, ...]
    ledger: Ledger = field(default_factory=lambda: Ledger(TARGET))

    def join(self) -> "Coordinator":
        stores = [SqlStore.open(engine, self.name, SETTINGS, TARGET) for engine in self.engines]
        coordinator = Coordinator((ModelStore(self.ledger), *stores))
        for store in coordinator.stores:
            store.join()
        return coordinator

    def expire(self, epoch: int | None) -> None:
        """Let a lease run out, or all."""
        for number, held in self.ledger.leases.items():
            if epoch in (None, number):
                held.expires = self.ledger.now
        for engine in self.engines:
            which = lease.c.search_id == self.id_in(engine)
            if epoch is not None:
                which &= lease.c.epoch == epoch
            with engine.begin() as connection:
                long_ago = queries.now(connection) - timedelta(seconds=1)
                connection.execute(lease.update().where(which).values(expires_at=long_ago))

    def kill(self, killed: "Coordinator") -> None:
        """Let its process be gone."""
        model, *stores = killed.stores
        self.ledger.dead.add(model.owner)  # type: ignore[union-attr]
        for engine, store in zip(self.engines, stores, strict=True):
            with engine.begin() as connection:
                which = coordinator.c.id == store._coordinator_id  # type: ignore[union-attr]
                connection.execute(coordinator.update().where(which).values(pid=2**22 + 1))

    def reopen(self, reasons: frozenset[FailureReason]) -> None:
        """Open failed candidates again."""
        opened = len(self.ledger.reopen(reasons))
        assert [maintenance.reopen(engine, self.id_in(engine), reasons) for engine in self.engines] == [opened] * 2

    def id_in(self, engine: Engine) -> int:
        with engine.connect() as connection:
            return queries.require(connection, self.name).id


@dataclass
class Coordinator:
    """One coordinator's view of the three stores, and what it believes to hold."""

    stores: tuple[ModelStore | SqlStore, ...]
    waiting: list[Task] = field(default_factory=list)
    in_flight: list[Task] = field(default_factory=list)
    last: News = field(default_factory=News)

    def all(self, method: str, *args: object) -> object:
        """Ask all three; they must answer alike."""
        model, *others = [getattr(store, method)(*args) for store in self.stores]
        for other in others:
            assert other == model, method
        return model

    @property
    def held(self) -> frozenset[int]:
        """The leases of what it knows to hold."""
        return frozenset(task.lease for task in (*self.waiting, *self.in_flight))

    def claim(self, count: int) -> None:
        self.waiting += self.all("claim", count, self.held).tasks  # type: ignore[attr-defined]

    def news(self, chance: random.Random, space: Space) -> News:
        """What might have happened to what it holds."""
        news = News()
        for task in [t for t in self.in_flight if chance.random() < 0.5]:
            self.in_flight.remove(task)
            begun = replace(task, begun=task.begun + 1)
            match chance.randrange(5):
                case 0:
                    news.attempts.append((task, FailureReason.TIMEOUT, "no end"))
                    self.waiting.append(task)
                case 1:
                    news.started.append(begun)
                    news.attempts.append((begun, Interruption.WORKER_UNAVAILABLE, "its node went"))
                    self.waiting.append(begun)
                case 2:
                    news.started.append(begun)
                    self.in_flight.append(begun)
                case _:
                    news.started.append(begun)
                    news.outcomes.append((begun, space.outcome(task.layers)))
        for task in [t for t in self.waiting if chance.random() < 0.5]:
            self.waiting.remove(task)
            queued = replace(task, attempt=task.attempt + 1, losses=chance.choice([0, 0, 0, 5]))
            news.dispatched.append(queued)
            self.in_flight.append(queued)
        self.last = news
        return news

    def give_back(self, chance: random.Random, space: Space) -> None:
        """Record, and hold only what is in flight after that."""
        news = self.news(chance, space)
        news.given_back |= {task.lease for task in self.waiting} - {task.lease for task in self.in_flight}
        self.record(news)
        self.waiting = [task for task in self.waiting if task.lease not in news.given_back]

    def record(self, news: News) -> None:
        lost = self.all("record", news).lost  # type: ignore[attr-defined]
        self.waiting = [task for task in self.waiting if task.lease not in lost]
        self.in_flight = [task for task in self.in_flight if task.lease not in lost]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, postgres_server: object) -> Iterator[tuple[Engine, ...]]:
    file: Path = tmp_path_factory.mktemp("contract") / "search.db"
    found = (open_for_writing(f"sqlite:///{file}"), open_for_writing(postgres_server.get_uri("postgres")))  # type: ignore[attr-defined]
    yield found
    for engine in found:
        engine.dispose()


@pytest.mark.parametrize("seed", range(12))
def test_every_store_answers_like_the_model(seed: int, engines: tuple[Engine, ...]) -> None:
    """Several coordinators that draw, claim, record, repeat themselves, pause, die and leave."""
    chance = random.Random(seed)
    space = space_of(chance)
    world = World(f"seed-{seed}", engines)
    coordinators = [world.join()]
    for _ in range(OPERATIONS):
        if chance.random() < 0.2:
            disturb(world, coordinators, chance)
        else:
            work(chance.choice(coordinators), chance, space)
    require_equal_contents(world, space)


def work(one: Coordinator, chance: random.Random, space: Space) -> None:
    """What a coordinator does."""
    match chance.randrange(13):
        case 0 | 1:
            one.all("extend", chance.choice([1, 7, 30]), space.judge)
        case 2 | 3 | 4:
            one.claim(chance.choice([1, 3, 10]))
        case 5:  # a claim's answer was lost: it asks again
            one.all("claim", chance.choice([1, 3, 10]), one.held)
            one.claim(chance.choice([1, 3, 10]))
        case 6:
            one.all("renew")
        case 7:
            one.record(one.last)
        case 8:
            one.give_back(chance, space)
        case _:
            one.record(one.news(chance, space))


def disturb(world: World, coordinators: list[Coordinator], chance: random.Random) -> None:
    """What happens to coordinators."""
    one = chance.choice(coordinators)
    match chance.randrange(5):
        case 4:
            world.reopen(frozenset(chance.sample(list(FailureReason), 3)))
        case 0 if len(coordinators) < 4:
            coordinators.append(world.join())
        case 1 if len(coordinators) > 1:
            coordinators.remove(one)
            world.kill(one)
        case 2 if len(coordinators) > 1:
            coordinators.remove(one)
            one.all("leave", "interrupted")
        case _:
            world.expire(None if chance.random() < 0.3 else chance.randint(1, world.ledger.claims + 1))


def require_equal_contents(world: World, space: Space) -> None:
    """Candidates, leases and attempts are the same; and ``netsieve db check`` finds nothing wrong."""
    ledger = world.ledger
    expected = [(e.index, e.drawn.layers, e.status, e.attempts) for _, e in sorted(ledger.entries.items())]
    leases = sorted((epoch, held.first, held.stop) for epoch, held in ledger.leases.items())
    attempts = sorted(
        (*key, a.epoch, a.isolated, a.started, a.ending, a.forgiven) for key, a in ledger.attempts.items()
    )
    for engine in world.engines:
        here = world.id_in(engine)
        with engine.connect() as connection:
            rows = candidates(connection, here)
            assert [(row.index, row.layers, row.status, row.attempts) for row in rows] == expected
            found = connection.execute(
                sa.select(lease.c.epoch, lease.c.first_index, lease.c.stop_index).where(lease.c.search_id == here)
            )
            assert sorted(map(tuple, found)) == leases
            which = ("draw_index", "number", "epoch", "isolated", "started", "ending", "forgiven")
            columns = [attempt.c[name] for name in which]
            found = connection.execute(sa.select(*columns).where(attempt.c.search_id == here))
            assert sorted(map(tuple, found)) == attempts
            report = check.check_search(connection, here, Recipe(epochs=1), space.judge)
            assert [line for line in report.wrong if "is blamed" not in line] == []  # the model has no two-charge rule
