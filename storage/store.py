"""Every write to the database: one class, one transaction a method.

Each method can be repeated after an error: rows are inserted where missing, and an open candidate is
ended by one guarded update, so the first outcome stays. Tallies change in the same transaction.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from search.candidates import Outcome, Status
from search.coordinator import Task
from search.errors import SettingsError
from search.run import Best, Counts, Drawn
from search.settings import SearchSettings
from storage import queries
from storage.engine import translated
from storage.processes import this_process
from storage.schema import NO_LAYER, architecture_digest, candidate, coordinator, search, tally


class SqlStore:
    """The store of one search, for the one coordinator that works on it."""

    def __init__(self, engine: Engine, search_id: int) -> None:
        self._engine = engine
        self._search_id = search_id
        self._coordinator_id: int | None = None

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with translated(self._engine.url.database or ""), self._engine.begin() as connection:
            yield connection

    # -------------------------------------------------- searches

    @classmethod
    def open(cls, engine: Engine, name: str, settings: SearchSettings, target: int) -> "SqlStore":
        """The search of that name, created if there is none, to draw up to ``target`` candidates.

        Raises SettingsError when the stored search has other settings, or a larger target.
        """
        with translated(engine.url.database or ""), engine.begin() as connection:
            found = connection.execute(sa.select(search).where(search.c.name == name)).one_or_none()
            if found is None:
                return cls(engine, _create(connection, name, settings, target))
            if found.settings != settings.as_dict():
                raise SettingsError(
                    f"search {name} was created with other settings meanwhile; run it again to see them"
                )
            if target < found.target:
                raise SettingsError(f"search {name} was extended to {found.target} candidates meanwhile")
            connection.execute(search.update().where(search.c.id == found.id).values(target=target))
            return cls(engine, found.id)

    # -------------------------------------------------- candidates

    def extend(self, count: int, judge: Callable[[int, int], Sequence[Drawn]]) -> int:
        """Insert the next ``count`` indices as ``judge(start, stop)`` gives them; how many are left to draw."""
        with self._transaction() as connection:
            row = connection.execute(
                sa.select(search.c.drawn, search.c.target).where(search.c.id == self._search_id).with_for_update()
            ).one()
            stop = min(row.drawn + count, row.target)
            first: dict[bytes, Drawn] = {}
            for drawn in judge(row.drawn, stop):
                first.setdefault(architecture_digest(drawn.layers), drawn)
            known = connection.scalars(
                sa.select(candidate.c.digest).where(
                    candidate.c.search_id == self._search_id, candidate.c.digest.in_(list(first))
                )
            )
            for digest in known.all():
                del first[digest]
            rows = [self._row(digest, drawn) for digest, drawn in first.items()]
            if rows:
                connection.execute(candidate.insert(), rows)
            changes = Counter(
                (row["status"], row["reason"] or "", NO_LAYER if row["layer"] is None else row["layer"]) for row in rows
            )
            self._count(connection, changes)
            connection.execute(search.update().where(search.c.id == self._search_id).values(drawn=stop))
            return int(row.target - stop)

    def _row(self, digest: bytes, drawn: Drawn) -> dict[str, Any]:
        verdict = drawn.verdict
        return {
            "search_id": self._search_id,
            "draw_index": drawn.index,
            "digest": digest,
            "layers": drawn.layers,
            "status": Status.OPEN if verdict.valid else Status.REJECTED,
            "reason": verdict.reason,
            "layer": verdict.layer,
            "detail": verdict.detail,
            "parameters": verdict.parameters,
            "macs": verdict.macs,
            "epochs": 0,
            "attempts": 0,
        }

    def open_after(self, index: int, limit: int) -> list[Task]:
        """The first ``limit`` open candidates with an index above ``index``, in order."""
        with self._transaction() as connection:
            rows = connection.execute(
                sa.select(candidate.c.draw_index, candidate.c.layers, candidate.c.macs)
                .where(
                    candidate.c.search_id == self._search_id,
                    queries.literally(Status.OPEN),
                    candidate.c.draw_index > index,
                )
                .order_by(candidate.c.draw_index)
                .limit(limit)
            )
            return [Task(row.draw_index, row.layers, row.macs) for row in rows]

    def record(self, started: Collection[int], outcomes: Mapping[int, Outcome]) -> None:
        """Count an attempt for each started index, and end those that have an outcome. The first outcome stays."""
        with self._transaction() as connection:
            for index in started:
                connection.execute(self._open(index).values(attempts=candidate.c.attempts + 1))
            changes: Counter[tuple[str, str, int]] = Counter()
            for index, outcome in outcomes.items():
                ended = connection.execute(self._open(index).values(**_ending(outcome)))
                if ended.rowcount:
                    changes[Status.OPEN, "", NO_LAYER] -= 1
                    changes[outcome.status, outcome.reason or "", NO_LAYER] += 1
            self._count(connection, changes)
            self._sign_of_life(connection)

    def _open(self, index: int) -> sa.Update:
        return candidate.update().where(
            candidate.c.search_id == self._search_id,
            candidate.c.draw_index == index,
            candidate.c.status == Status.OPEN,
        )

    def _count(self, connection: Connection, changes: Mapping[tuple[str, str, int], int]) -> None:
        for (status, reason, layer), change in changes.items():
            key = {"search_id": self._search_id, "status": status, "reason": reason, "layer": layer}
            here = sa.and_(*(tally.c[name] == value for name, value in key.items()))
            updated = connection.execute(tally.update().where(here).values(candidates=tally.c.candidates + change))
            if not updated.rowcount:
                connection.execute(tally.insert().values(**key, candidates=change))

    def counts(self) -> Counts:
        """How the search stands."""
        with self._transaction() as connection:
            return queries.counts(connection, self._search_id)

    def best(self) -> Best | None:
        """The best completed candidate so far."""
        with self._transaction() as connection:
            return queries.best(connection, self._search_id)

    # -------------------------------------------------- coordinators

    def join(self) -> None:
        """Register this process as the search's coordinator. Raises SettingsError while another one is at work."""
        with self._transaction() as connection:
            queries.require_idle(connection, self._search_id)
            now = datetime.now(UTC)
            row = connection.execute(
                coordinator.insert().values(search_id=self._search_id, **this_process(), started_at=now, seen_at=now)
            )
            assert row.inserted_primary_key is not None
            self._coordinator_id = row.inserted_primary_key[0]

    def _sign_of_life(self, connection: Connection) -> None:
        connection.execute(
            coordinator.update().where(coordinator.c.id == self._coordinator_id).values(seen_at=datetime.now(UTC))
        )

    def leave(self, ending: str | None) -> None:
        """This coordinator ended; ``ending`` says why, or is None when the search is finished."""
        now = datetime.now(UTC)
        with self._transaction() as connection:
            connection.execute(
                coordinator.update()
                .where(coordinator.c.id == self._coordinator_id)
                .values(seen_at=now, ended_at=now, ending=ending)
            )


def _create(connection: Connection, name: str, settings: SearchSettings, target: int) -> int:
    row = connection.execute(
        search.insert().values(
            name=name,
            settings=settings.as_dict(),
            target=target,
            drawn=0,
            created_at=datetime.now(UTC),
            netsieve_version=version("netsieve"),
        )
    )
    assert row.inserted_primary_key is not None
    return int(row.inserted_primary_key[0])


def _ending(outcome: Outcome) -> dict[str, Any]:
    """The columns that an outcome fills in."""
    last = outcome.measurements[-1] if outcome.measurements else None
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "train_loss": last and last.train_loss,
        "val_loss": last and last.val_loss,
        "val_accuracy": last and last.val_accuracy,
        "epochs": len(outcome.measurements),
        "curve": [[m.train_loss, m.val_loss, m.val_accuracy] for m in outcome.measurements] or None,
        "seconds": outcome.seconds,
    }
