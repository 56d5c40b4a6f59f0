"""What a coordinator writes: one class, one transaction a method.

Each method can be repeated after an error, also after one that hid a success: leases that were given
are found again, attempts have numbers, an open candidate is ended by one guarded update. Whatever is
written under a lease counts only while the lease is held (fencing by epoch), so a coordinator that was
paused, and whose candidates another one took over, changes nothing when it wakes. Nor does one whose search was
deleted: SQLite gives the numbers of deleted searches and coordinators to the next ones, so they are known by when they
began, too. Time is the database's.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row, exc
from sqlalchemy.dialects import postgresql, sqlite

from search.candidates import AttemptEnding, Interruption, Outcome, Status
from search.errors import DatabaseLost, SettingsError
from search.messages import Task, WorkerTime
from search.run import Best, Claims, Counts, News, Reply
from search.settings import LARGEST_INTEGER, SearchSettings
from search.sieve import Drawn
from storage import queries
from storage.faults import translated
from storage.processes import this_process
from storage.schema import NO_LAYER, architecture_digest, attempt, candidate, coordinator, lease, listed, search, tally

LEASE_S = 60.0  # seconds that a coordinator may be silent before others take its candidates over

Change = tuple[str, str, int]  # a tally's status, reason and layer
Firsts = dict[Change, int]  # the first candidate of those that a change counts


class SqlStore:
    """The store of one search, for one of the coordinators that work on it; ``join`` comes first."""

    def __init__(
        self, engine: Engine, search_id: int, lease_s: float = LEASE_S, created_at: datetime | None = None
    ) -> None:
        """``created_at`` is when the search was created; None: the one that ``join`` finds is meant."""
        self._engine = engine
        self._search_id = search_id
        self._created_at = created_at
        self.lease_s = lease_s
        self._coordinator_id: int | None = None
        self._started_at: datetime | None = None

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with translated(), self._engine.begin() as connection:
            yield connection

    # -------------------------------------------------- searches

    @classmethod
    def open(
        cls,
        engine: Engine,
        name: str,
        settings: SearchSettings,
        target: int,
        lease_s: float = LEASE_S,
        strings: Sequence[str] = (),
    ) -> "SqlStore":
        """The search of that name, created if there is none, to draw at least ``target`` candidates.

        ``strings`` are those that it draws from, if it is given a list; those beyond the stored ones are added.
        Raises SettingsError when the stored search has other settings, or other strings.
        """
        with translated(), engine.begin() as connection:
            _create(connection, name, settings)
            found = connection.execute(
                sa.select(search).where(search.c.name == name).with_for_update(key_share=True)
            ).one()
            if found.settings != settings.as_dict():
                raise SettingsError(
                    f"search {name} was created with other settings meanwhile; run it again to see them"
                )
            _extend_list(connection, name, found.id, strings)
            if target > found.target:
                connection.execute(search.update().where(search.c.id == found.id).values(target=target))
            return cls(engine, found.id, lease_s, found.created_at)

    @property
    def search_id(self) -> int:
        """The search's key."""
        return self._search_id

    # -------------------------------------------------- drawing

    def extend(self, count: int, judge: Callable[[int, int], Sequence[Drawn]]) -> int:
        """Insert the next ``count`` indices as ``judge(start, stop)`` gives them; how many are left to draw."""
        with self._transaction() as connection:
            row = self._lock_search(connection)
            stop = min(row.drawn + count, row.target)
            first: dict[bytes, Drawn] = {}
            for drawn in judge(row.drawn, stop):
                first.setdefault(architecture_digest(drawn.layers), drawn)
            for digest in self._known(connection, list(first)):
                del first[digest]
            rows = [self._row(digest, drawn) for digest, drawn in first.items()]
            insert_candidates(connection, rows)
            firsts = _firsts((_tally_of(row), row["draw_index"]) for row in rows)
            count_changes(connection, self._search_id, Counter(map(_tally_of, rows)), firsts)
            self._update_search(connection, drawn=stop)
            return int(row.target - stop)

    def _known(self, connection: Connection, digests: list[bytes]) -> list[bytes]:
        """Those of the digests that the search has."""
        is_one = queries.one_of_digests(connection, digests)
        return list(
            connection.scalars(sa.select(candidate.c.digest).where(candidate.c.search_id == self._search_id, is_one))
        )

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

    # -------------------------------------------------- claiming

    def claim(self, count: int, held: Collection[int]) -> Claims:
        """Lease up to ``count`` open candidates, in order; first those of own leases that are not in ``held``.

        Those were given by a transaction whose answer never came, or opened again after they had ended; of them too
        no more than ``count`` are given, and the rest is free. Leases that expired, or whose coordinator is known to
        be dead, are taken over.
        """
        with self._transaction() as connection:
            row = self._lock_search(connection)
            now = queries.now(connection)
            self._take_over(connection, now)
            leases = connection.execute(
                sa.select(lease).where(lease.c.search_id == self._search_id).order_by(lease.c.first_index)
            ).all()
            own = [found for found in leases if found.coordinator_id == self._coordinator_id]
            rows: dict[int, Sequence[Any]] = {}
            epoch, wanted = row.claims, count
            for one in sorted(own, key=lambda one: one.epoch):
                if one.epoch in held:
                    continue
                rows[one.epoch] = found = self._open_in(connection, one.first_index, one.stop_index, wanted)
                wanted -= len(found)
                if not wanted:
                    self._shrink_lease(connection, one.epoch, found)
            for first, stop in _gaps(leases, row.drawn):
                found = self._open_in(connection, first, stop, wanted) if wanted else []
                if found:
                    epoch, wanted = epoch + 1, wanted - len(found)
                    rows[epoch] = found
                    self._insert_lease(connection, epoch, found, now)
            if epoch != row.claims:
                self._update_search(connection, claims=epoch)
            return Claims(
                tasks=tuple(self._tasks(connection, rows)), open_elsewhere=not wanted or len(own) < len(leases)
            )

    def _take_over(self, connection: Connection, now: datetime) -> None:
        """End the leases of coordinators that are gone, and say so of what they had in flight."""
        others = connection.execute(
            sa.select(lease.c.epoch, lease.c.expires_at, coordinator)
            .join(coordinator, lease.c.coordinator_id == coordinator.c.id)
            .where(lease.c.search_id == self._search_id, lease.c.coordinator_id != self._coordinator_id)
        ).all()
        dead = [row.epoch for row in others if queries.is_dead(row)]
        expired = [row.epoch for row in others if row.expires_at <= now]
        if not dead and not expired:
            return
        ended = connection.scalars(  # asked again here: the lease may have been renewed meanwhile
            lease.delete()
            .where(
                lease.c.search_id == self._search_id,
                lease.c.epoch.in_(dead) | (lease.c.epoch.in_(expired) & (lease.c.expires_at <= now)),
            )
            .returning(lease.c.epoch)
        ).all()
        self._end_attempts(connection, attempt.c.epoch.in_(ended), Interruption.COORDINATOR_LOST, now)

    def _open_in(self, connection: Connection, first: int, stop: int, limit: int) -> Sequence[Any]:
        """The first ``limit`` open candidates from index ``first`` to before ``stop``, in order."""
        rows = connection.execute(
            sa.select(candidate.c.draw_index, candidate.c.layers, candidate.c.macs, candidate.c.attempts)
            .where(
                candidate.c.search_id == self._search_id,
                queries.literally(Status.OPEN),
                candidate.c.draw_index >= first,
                candidate.c.draw_index < stop,
            )
            .order_by(candidate.c.draw_index)
            .limit(limit)
        )
        return rows.all()

    def _shrink_lease(self, connection: Connection, epoch: int, rows: Sequence[Any]) -> None:
        """Let an own lease end behind these, its first open candidates; without any it is over."""
        which = lease.c.search_id == self._search_id, lease.c.epoch == epoch
        if rows:
            connection.execute(lease.update().where(*which).values(stop_index=rows[-1].draw_index + 1))
        else:
            connection.execute(lease.delete().where(*which))

    def _insert_lease(self, connection: Connection, epoch: int, rows: Sequence[Any], now: datetime) -> None:
        connection.execute(
            lease.insert().values(
                search_id=self._search_id,
                epoch=epoch,
                coordinator_id=self._coordinator_id,
                first_index=rows[0].draw_index,
                stop_index=rows[-1].draw_index + 1,
                expires_at=now + timedelta(seconds=self.lease_s),
            )
        )

    def _tasks(self, connection: Connection, rows: Mapping[int, Sequence[Any]]) -> Iterator[Task]:
        """The rows of each epoch as tasks, with what their attempts so far say of them."""
        histories = queries.histories(connection, self._search_id, [row.draw_index for e in rows for row in rows[e]])
        for epoch in sorted(rows):
            for row in rows[epoch]:
                history = histories.get(row.draw_index)
                yield Task(
                    index=row.draw_index,
                    layers=row.layers,
                    macs=row.macs,
                    lease=epoch,
                    begun=row.attempts,
                    attempt=history.last if history else 0,
                    charges=history.charges if history else 0,
                    losses=history.losses if history else 0,
                )

    # -------------------------------------------------- recording

    def record(self, news: News) -> Reply:
        """Write down what happened under leases that are still held; the first outcome of a candidate stays."""
        with self._transaction() as connection:
            now = queries.now(connection)
            mine = lease.c.coordinator_id == self._coordinator_id
            held = set(connection.scalars(sa.select(lease.c.epoch).where(mine).with_for_update()))
            endings = [(task, ending, detail) for task, ending, detail in news.attempts if task.lease in held]
            outcomes = {task: outcome for task, outcome in news.outcomes if task.lease in held}
            started = [task for task in news.started if task.lease in held]
            dispatched = [task for task in news.dispatched if task.lease in held]
            self._record_starts(connection, _still_to_tell(started, outcomes))
            self._record_endings(connection, endings, now)
            self._record_outcomes(connection, outcomes, now)
            self._record_dispatches(connection, dispatched, now)
            if outcomes:
                connection.execute(lease.delete().where(mine, ~_holds_something()))
            if news.given_back:
                connection.execute(lease.delete().where(mine, lease.c.epoch.in_(news.given_back)))
            counts = queries.counts(connection, self._search_id)
            best = queries.best(connection, self._search_id)
            lost = frozenset(task.lease for task in news.tasks) - held
            return Reply(counts, best, lost, self._sign_of_life(connection, now, news.worked))

    def _record_starts(self, connection: Connection, tasks: Sequence[Task]) -> None:
        for begun, same in _grouped(tasks, lambda task: task.begun).items():
            connection.execute(
                candidate.update()
                .where(
                    candidate.c.search_id == self._search_id,
                    queries.one_of(connection, candidate.c.draw_index, [task.index for task in same]),
                    candidate.c.status == Status.OPEN,
                    candidate.c.attempts < begun,
                )
                .values(attempts=begun)
            )
        alone = [self._attempt_key(task) for task in tasks if task.isolated]
        if alone:
            connection.execute(attempt.update().where(_this_attempt()).values(started=True), alone)

    def _record_endings(
        self, connection: Connection, endings: Iterable[tuple[Task, AttemptEnding, str]], now: datetime
    ) -> None:
        rows = [
            {**self._attempt_key(task), "b_ending": ending, "b_detail": detail, "b_now": now}
            for task, ending, detail in endings
        ]
        if rows:
            connection.execute(
                attempt.update()
                .where(_this_attempt(), attempt.c.ending.is_(None))
                .values(
                    ending=sa.bindparam("b_ending"), detail=sa.bindparam("b_detail"), ended_at=sa.bindparam("b_now")
                ),
                rows,
            )

    def _record_outcomes(self, connection: Connection, outcomes: Mapping[Task, Outcome], now: datetime) -> None:
        """End the candidates that are still open; a repeated transaction finds none, and counts none.

        Nor does it end those that ``resume --retry`` opened in between: the attempts that failed are forgiven.
        """
        here = candidate.c.search_id == self._search_id
        indices = [task.index for task in outcomes]
        is_one = queries.one_of(connection, candidate.c.draw_index, indices)
        query = sa.select(candidate.c.draw_index).where(here, is_one, candidate.c.status == Status.OPEN)
        still_open = set(connection.scalars(query) if indices else ())
        again = self._forgiven(connection, [task.index for task, o in outcomes.items() if o.reason is not None])
        ended = {
            task: outcome
            for task, outcome in outcomes.items()
            if task.index in still_open and (task.index, task.attempt) not in again
        }
        if not ended:
            return
        self._end_candidates(connection, ended, now)
        kinds = {task: (o.status.value, str(o.reason or ""), NO_LAYER) for task, o in ended.items()}
        changes = Counter(kinds.values())
        changes[Status.OPEN.value, "", NO_LAYER] -= len(ended)
        count_changes(connection, self._search_id, changes, _firsts((kind, task.index) for task, kind in kinds.items()))
        completed = [task for task, outcome in ended.items() if outcome.reason is None]
        for number, same in _grouped(completed, lambda task: task.attempt).items():
            connection.execute(
                attempt.delete().where(
                    attempt.c.search_id == self._search_id,
                    queries.one_of(connection, attempt.c.draw_index, [task.index for task in same]),
                    attempt.c.number == number,
                )
            )
        failed = [(task, o.reason, o.detail or "") for task, o in ended.items() if o.reason is not None]
        self._record_endings(connection, failed, now)

    def _forgiven(self, connection: Connection, indices: Sequence[int]) -> set[tuple[int, int]]:
        """The attempts at these candidates, by index and number, that have ended and are forgiven."""
        if not indices:
            return set()
        rows = connection.execute(
            sa.select(attempt.c.draw_index, attempt.c.number).where(
                attempt.c.search_id == self._search_id,
                queries.one_of(connection, attempt.c.draw_index, indices),
                attempt.c.ending.is_not(None),
                attempt.c.forgiven,
            )
        )
        return {(row.draw_index, row.number) for row in rows}

    def _end_candidates(self, connection: Connection, ended: Mapping[Task, Outcome], now: datetime) -> None:
        """Fill in the columns of the ends of open candidates; Postgres in one statement (see tests/benchmarks)."""
        rows = [
            {"draw_index": task.index, "attempts": task.begun, **_ending(outcome, now)}
            for task, outcome in ended.items()
        ]
        names = list(rows[0])
        values: Mapping[str, sa.ColumnElement[Any]]
        if connection.dialect.name == "postgresql":
            values, parameters = _unnested(rows), None
        else:
            values = {name: sa.bindparam(f"b_{name}", type_=candidate.c[name].type) for name in names}
            parameters = [{f"b_{name}": value for name, value in row.items()} for row in rows]
        connection.execute(
            candidate.update()
            .where(
                candidate.c.search_id == self._search_id,
                candidate.c.draw_index == values["draw_index"],
                candidate.c.status == Status.OPEN,
            )
            .values({name: values[name] for name in names[1:]}),
            parameters,
        )

    def _record_dispatches(self, connection: Connection, tasks: Sequence[Task], now: datetime) -> None:
        kinds = _grouped(tasks, lambda task: (task.attempt, task.lease, task.isolated))
        for (number, epoch, isolated), same in kinds.items():
            row = {
                "search_id": candidate.c.search_id,
                "draw_index": candidate.c.draw_index,
                "number": sa.literal(number),
                "epoch": sa.literal(epoch, sa.BigInteger),
                "coordinator_id": sa.literal(self._coordinator_id, sa.Integer),
                "isolated": sa.literal(isolated),
                "dispatched_at": sa.literal(now, attempt.c.dispatched_at.type),
            }
            those = sa.select(*row.values()).where(
                candidate.c.search_id == self._search_id,
                queries.one_of(connection, candidate.c.draw_index, [task.index for task in same]),
            )
            connection.execute(insert(connection, attempt).from_select(list(row), those).on_conflict_do_nothing())

    def _attempt_key(self, task: Task) -> dict[str, Any]:
        return {"b_search": self._search_id, "b_index": task.index, "b_number": task.attempt}

    def counts(self) -> Counts:
        """How the search stands."""
        with self._transaction() as connection:
            return queries.counts(connection, self._search_id)

    def best(self) -> Best | None:
        """The best completed candidate so far."""
        with self._transaction() as connection:
            return queries.best(connection, self._search_id)

    # -------------------------------------------------- coordinators

    def join(self, beside: queries.Beside = queries.Beside.ANYBODY, versions: Mapping[str, str] | None = None) -> None:
        """Register this process as one of the search's coordinators, with the versions that its results depend on.

        Raises SettingsError while another one is at work beside which it may not be.
        """
        with self._transaction() as connection:
            self._created_at = self._lock_search(connection).created_at
            queries.require_room(connection, self._search_id, beside)
            now = queries.now(connection)
            row = connection.execute(
                coordinator.insert().values(
                    search_id=self._search_id,
                    **this_process(),
                    versions=None if versions is None else dict(versions),
                    started_at=now,
                    seen_at=now,
                )
            )
            assert row.inserted_primary_key is not None
            self._coordinator_id, self._started_at = row.inserted_primary_key[0], now

    def renew(self) -> None:
        """Put off the expiry of all leases that are held."""
        with self._transaction() as connection:
            now = queries.now(connection)
            mine = lease.c.coordinator_id == self._coordinator_id
            connection.execute(lease.update().where(mine).values(expires_at=now + timedelta(seconds=self.lease_s)))
            self._sign_of_life(connection, now)

    def leave(self, ending: str | None, worked: WorkerTime | None = None) -> None:
        """This coordinator ended; ``ending`` says why, or is None when the search is finished.

        ``worked`` is what its workers did in all, also since it last recorded something; None: nothing since then.
        """
        with self._transaction() as connection:
            now = queries.now(connection)
            mine = lease.delete().where(lease.c.coordinator_id == self._coordinator_id).returning(lease.c.epoch)
            epochs = connection.scalars(mine).all()  # before attempts, as in a takeover, or the two wait for each other
            self._end_attempts(connection, attempt.c.epoch.in_(epochs), Interruption.CANCELLED, now)
            self._sign_of_life(connection, now, worked, ended_at=now, ending=ending)

    def _sign_of_life(
        self, connection: Connection, now: datetime, worked: WorkerTime | None = None, **ended: datetime | str | None
    ) -> bool:
        """Say that this coordinator is at work, or how it ended, and what its workers did; was it asked to stop?

        Raises DatabaseLost where the coordinator is not there any more, and with it the search.
        """
        asked = connection.scalars(
            coordinator.update()
            .where(self._is_self())
            .values(seen_at=now, **_times(worked), **ended)
            .returning(coordinator.c.stop_asked)
        ).one_or_none()
        if asked is None:
            raise DatabaseLost(queries.DELETED)
        return bool(asked)

    def _is_self(self) -> sa.ColumnElement[bool]:
        """Whether a coordinator is this one: another one may have its number, once its search was deleted."""
        return sa.and_(coordinator.c.id == self._coordinator_id, coordinator.c.started_at == self._started_at)

    # -------------------------------------------------- shared by the above

    def _lock_search(self, connection: Connection) -> Row[Any]:
        """The search's row, locked: one coordinator at a time draws, claims or joins.

        Rows that refer to it can still be inserted (FOR NO KEY UPDATE): who records does not wait for who draws,
        with tallies in hand that the other one wants. Raises DatabaseLost where the search, or this coordinator of it,
        is not there any more.
        """
        row = sa.select(search).where(search.c.id == self._search_id).with_for_update(key_share=True)
        if self._created_at is not None:
            row = row.where(search.c.created_at == self._created_at)
        if self._coordinator_id is not None:
            row = row.where(sa.select(coordinator.c.id).where(self._is_self()).exists())
        found = connection.execute(row).one_or_none()
        if found is None:
            raise DatabaseLost(queries.DELETED)
        return found

    def _update_search(self, connection: Connection, **values: int) -> None:
        connection.execute(search.update().where(search.c.id == self._search_id).values(**values))

    def _end_attempts(
        self, connection: Connection, which: sa.ColumnElement[bool], ending: Interruption, now: datetime
    ) -> None:
        """End those of the attempts that are in flight."""
        connection.execute(
            attempt.update()
            .where(attempt.c.search_id == self._search_id, which, attempt.c.ending.is_(None))
            .values(ending=ending, ended_at=now)
        )


def _create(connection: Connection, name: str, settings: SearchSettings) -> None:
    """Insert the search, if there is none of that name; of two at the same instant, one waits for the other."""
    connection.execute(
        insert(connection, search)
        .values(
            name=name,
            settings=settings.as_dict(),
            target=0,
            drawn=0,
            created_at=queries.now(connection),
            netsieve_version=version("netsieve"),
        )
        .on_conflict_do_nothing()
    )


def _extend_list(connection: Connection, name: str, search_id: int, strings: Sequence[str]) -> None:
    """Add the strings that the search's list does not have yet. Raises SettingsError if it has others."""
    if not strings:
        return
    stored = queries.listed(connection, search_id)
    if any(one != other for one, other in zip(stored, strings, strict=False)):
        raise SettingsError(f"search {name} was given other strings meanwhile; run it again to see them")
    rows = [
        {"search_id": search_id, "draw_index": index, "layers": layers}
        for index, layers in enumerate(strings[len(stored) :], len(stored))
    ]
    insert_rows(connection, listed, rows)


def insert(connection: Connection, table: sa.Table) -> "postgresql.Insert | sqlite.Insert":
    """An insert of this database's dialect: ON CONFLICT is not part of the common one."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def insert_candidates(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert candidates that the search does not have yet."""
    insert_rows(connection, candidate, rows)


def insert_rows(connection: Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows that have the same keys; Postgres by COPY (for its gain see tests/benchmarks)."""
    if not rows:
        return
    if connection.dialect.name != "postgresql":
        connection.execute(table.insert(), rows)
        return
    statement = f"COPY {table.name} ({', '.join(rows[0])}) FROM STDIN"
    driver: Any = connection.connection.driver_connection
    dialect = connection.dialect
    foreign = dialect.loaded_dbapi.Error
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in _for_driver(dialect, table, rows):
                copy.write_row(row)
    except foreign as error:  # what SQLAlchemy does of its own statements' errors
        is_cut_off = dialect.is_disconnect(error, driver, None)
        raise exc.DBAPIError.instance(
            statement, None, error, foreign, hide_parameters=True, connection_invalidated=is_cut_off, dialect=dialect
        ) from error


def _unnested(rows: Sequence[Mapping[str, Any]]) -> dict[str, sa.ColumnElement[Any]]:
    """The columns of rows of candidates as a table of Postgres: a parameter a column, not one a value."""
    types = {name: candidate.c[name].type for name in rows[0]}
    sent = {name: sa.Text() if isinstance(kind, sa.JSON) else kind for name, kind in types.items()}
    arrays = []
    for name, kind in sent.items():
        column = [row[name] for row in rows]
        if kind is not types[name]:
            column = [None if value is None else json.dumps(value) for value in column]
        arrays.append(sa.cast(column, postgresql.ARRAY(kind)))
    table = sa.func.unnest(*arrays).table_valued(*(sa.column(name, kind) for name, kind in sent.items()))
    return {name: sa.cast(found, types[name]) for name, found in table.render_derived().c.items()}


def _for_driver(dialect: sa.Dialect, table: sa.Table, rows: Sequence[dict[str, Any]]) -> Iterator[list[Any]]:
    """The values of rows as the driver takes them, as SQLAlchemy converts those of its own statements."""
    types = [table.c[name].type.dialect_impl(dialect) for name in rows[0]]
    converters = [(place, kind.bind_processor(dialect)) for place, kind in enumerate(types)]
    needed = [(place, converter) for place, converter in converters if converter]
    for row in rows:
        values = list(row.values())
        for place, converter in needed:
            values[place] = converter(values[place])
        yield values


def count_changes(
    connection: Connection, search_id: int, changes: Mapping[Change, int], firsts: Mapping[Change, int]
) -> None:
    """Add to the tallies, in the same order everywhere, so that two transactions never wait for each other.

    ``firsts`` are the first candidates of what is counted; the tally keeps the least.
    """
    for (status, reason, layer), change in sorted(changes.items()):
        row = insert(connection, tally).values(
            search_id=search_id,
            status=status,
            reason=reason,
            layer=layer,
            candidates=change,
            first_index=firsts.get((status, reason, layer)),
        )
        is_earlier = row.excluded.first_index < sa.func.coalesce(tally.c.first_index, LARGEST_INTEGER)
        connection.execute(
            row.on_conflict_do_update(
                index_elements=list(tally.primary_key),
                set_={
                    "candidates": tally.c.candidates + row.excluded.candidates,
                    "first_index": sa.case((is_earlier, row.excluded.first_index), else_=tally.c.first_index),
                },
            )
        )


def _firsts(counted: Iterable[tuple[Change, int]]) -> Firsts:
    """The least index of each kind that has a reason."""
    firsts: Firsts = {}
    for kind, index in counted:
        if kind[1]:
            firsts[kind] = min(index, firsts.get(kind, index))
    return firsts


def _tally_of(row: Mapping[str, Any]) -> Change:
    return str(row["status"]), str(row["reason"] or ""), NO_LAYER if row["layer"] is None else row["layer"]


def _grouped(tasks: Iterable[Task], key: Callable[[Task], Any]) -> dict[Any, list[Task]]:
    """Tasks by what they have in common."""
    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        groups.setdefault(key(task), []).append(task)
    return groups


def _this_attempt() -> sa.ColumnElement[bool]:
    return sa.and_(
        attempt.c.search_id == sa.bindparam("b_search"),
        attempt.c.draw_index == sa.bindparam("b_index"),
        attempt.c.number == sa.bindparam("b_number"),
    )


def _holds_something() -> sa.ColumnElement[bool]:
    """Whether an open candidate is left in a lease's range."""
    return (
        sa.select(candidate.c.draw_index)
        .where(
            candidate.c.search_id == lease.c.search_id,
            queries.literally(Status.OPEN),
            candidate.c.draw_index >= lease.c.first_index,
            candidate.c.draw_index < lease.c.stop_index,
        )
        .exists()
    )


def _gaps(leases: Iterable[Row[Any]], drawn: int) -> Iterator[tuple[int, int]]:
    """The ranges of indices that no lease covers, in order; leases come by their first index."""
    free = 0
    for held in leases:
        if held.first_index > free:
            yield free, held.first_index
        free = max(free, held.stop_index)
    if drawn > free:
        yield free, drawn


def _still_to_tell(started: Iterable[Task], outcomes: Collection[Task]) -> list[Task]:
    """Those of the starts that outcomes recorded with them do not tell.

    An outcome says how often its candidate had begun. The attempt of an isolated one notes its start as well, for
    that is what it is charged with.
    """
    ended = {task.index for task in outcomes}
    return [task for task in started if task.isolated or task.index not in ended]


def _times(worked: WorkerTime | None) -> dict[str, float]:
    """The columns of a coordinator that say what its workers have done, where there is something to say."""
    return {} if worked is None else asdict(worked)


def _ending(outcome: Outcome, now: datetime) -> dict[str, Any]:
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
        "test_loss": outcome.test and outcome.test.loss,
        "test_accuracy": outcome.test and outcome.test.accuracy,
        "curve": [[m.train_loss, m.val_loss, m.val_accuracy] for m in outcome.measurements] or None,
        "seconds": outcome.seconds,
        "ended_at": now,
    }
