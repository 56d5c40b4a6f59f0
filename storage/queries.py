"""Every read of the database: plain frozen rows, ready to print.

Counts come from the tallies and rankings from an index, so answers do not slow down as a search grows.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import Connection, Row
from sqlalchemy.dialects import postgresql

from search.candidates import CHARGED, Interruption, Status, charges_of_losses
from search.errors import DatabaseLost, SettingsError, SpaceError, UnknownSearch, quoted
from search.messages import WorkerTime
from search.run import Best, Counts
from search.settings import SearchSettings
from storage import schema
from storage.processes import boot_id, is_alive, this_process
from storage.schema import NO_LAYER, architecture_digest, attempt, candidate, coordinator, search, tally

DELETED = "the search was deleted while netsieve worked on it"
AT_ONCE = 1_000  # indices that one query asks for
SEEN_WITHIN = timedelta(seconds=60)  # a coordinator of another machine that gave no sign for longer is taken for dead


def one_of(connection: Connection, column: sa.ColumnElement[int], values: Sequence[int]) -> sa.ColumnElement[bool]:
    """Whether a column of whole numbers has one of the values: one parameter, however many there are."""
    if connection.dialect.name == "postgresql":
        return column == sa.any_(sa.cast(values, postgresql.ARRAY(sa.BigInteger)))
    return column.in_(sa.select(sa.func.json_each(json.dumps(list(values))).table_valued("value").c.value))


def one_of_digests(connection: Connection, digests: Sequence[bytes]) -> sa.ColumnElement[bool]:
    """Whether a candidate has one of the digests: one parameter on Postgres; SQLite takes 32,766."""
    if connection.dialect.name == "postgresql":
        return candidate.c.digest == sa.any_(sa.cast(digests, postgresql.ARRAY(sa.LargeBinary)))
    return candidate.c.digest.in_(digests)


def all_of(search_id: int) -> sa.ColumnElement[bool]:
    """Whether a candidate is one of the search, for a query that goes through all of them.

    The bound, which all fulfil, makes SQLite do so in their order: by the search alone it takes the index of digests,
    and fetches every row from another place of the file.
    """
    return sa.and_(candidate.c.search_id == search_id, candidate.c.draw_index >= 0)


class State(StrEnum):
    """How a search stands; read from its rows, not stored."""

    FINISHED = "finished"  # every candidate is drawn, and none is open
    RUNNING = "running"  # a coordinator is at work
    STOPPED = "stopped"  # neither


@dataclass(frozen=True)
class SearchRow:
    """A search, as it was created."""

    id: int
    name: str
    settings: SearchSettings
    created_at: datetime
    netsieve_version: str


@dataclass(frozen=True)
class CandidateRow:
    """A candidate. The fields, in this order, are the command line's keys."""

    index: int
    layers: str
    status: Status
    reason: str | None  # RejectionReason or FailureReason
    layer: int | None  # of a rejection, counted from 0
    parameters: int | None
    macs: int | None
    train_loss: float | None
    val_loss: float | None
    val_accuracy: float | None
    epochs: int
    seconds: float | None
    attempts: int


@dataclass(frozen=True)
class CandidateDetails:
    """All that is stored of one candidate."""

    candidate: CandidateRow
    detail: str | None
    curve: tuple[tuple[float, float, float], ...]  # (train loss, validation loss, validation accuracy) an epoch
    test_loss: float | None  # on the dataset's test images, where the search asks for it
    test_accuracy: float | None


@dataclass(frozen=True)
class FailureCount:
    """How many candidates were rejected or failed for a reason at a layer."""

    status: Status
    reason: str | None  # None: of any reason, where they are grouped by layer
    layer: int | None
    candidates: int
    example: int  # index of the first one
    example_layers: str


@dataclass(frozen=True)
class AttemptRow:
    """An attempt at a candidate that is in flight, or went wrong; one that completed leaves no row."""

    number: int  # from 1
    host: str  # of the coordinator that dispatched it
    dispatched_at: datetime
    ended_at: datetime | None
    ending: str | None  # FailureReason or Interruption; None: in flight
    detail: str | None


@dataclass(frozen=True)
class Standing:
    """How a search stands."""

    state: State
    stopped_because: str | None  # for a stopped one
    counts: Counts


_COLUMNS = [candidate.c.draw_index, *(candidate.c[name] for name in list(CandidateRow.__annotations__)[1:])]


_DETAILS = ("detail", "curve", "test_loss", "test_accuracy")


@dataclass(frozen=True)
class Outline:
    """What can be said of any search, also of one that a newer netsieve made."""

    id: int
    name: str
    dataset: str
    space: str  # its name
    created_at: datetime


def find(connection: Connection, name: str) -> SearchRow | None:
    """The search of that name, if there is one. Raises SettingsError if a newer netsieve made it."""
    row = connection.execute(sa.select(search).where(search.c.name == name)).one_or_none()
    if row is None:
        return None
    try:
        settings = SearchSettings.from_dict(row.settings)
    except (SettingsError, SpaceError) as error:
        raise SettingsError(f"search {name}: {error}") from None
    return SearchRow(row.id, row.name, settings, row.created_at, row.netsieve_version)


def outlines(connection: Connection) -> list[Outline]:
    """All searches, oldest first."""
    return [
        Outline(row.id, row.name, row.settings["dataset"], row.settings["space"]["name"], row.created_at)
        for row in connection.execute(sa.select(search).order_by(search.c.id))
    ]


def require(connection: Connection, name: str) -> SearchRow:
    """The search of that name. Raises UnknownSearch, with the nearest names."""
    row = find(connection, name)
    if row is None:
        raise UnknownSearch(f"NAME {quoted(name)}: no such search in this database; {_known(connection, name)}")
    return row


def _known(connection: Connection, name: str) -> str:
    """Which search may be meant by a name that none has."""
    names = list(connection.scalars(sa.select(search.c.name).order_by(search.c.id.desc()).limit(1000)))
    if near := get_close_matches(name, names, n=3):
        return f"did you mean {' or '.join(near)}?"
    if not names:
        return "it holds no search yet; start one with netsieve run"
    more = " among others: netsieve list" if len(names) > 3 else ""
    return f"there {'are' if len(names) > 1 else 'is'} {', '.join(names[:3])}{more}"


def listed(connection: Connection, search_id: int) -> list[str]:
    """The strings of a search that was given a list, in its order; none for one that draws at random."""
    table = schema.listed
    query = sa.select(table.c.layers).where(table.c.search_id == search_id).order_by(table.c.draw_index)
    return list(connection.scalars(query))


def names(connection: Connection) -> list[str]:
    """The names of all searches, oldest first."""
    return list(connection.scalars(sa.select(search.c.name).order_by(search.c.id)))


def counts(connection: Connection, search_id: int) -> Counts:
    """How many candidates a search has drawn, and how they stand."""
    row = connection.execute(sa.select(search.c.target, search.c.drawn).where(search.c.id == search_id)).one_or_none()
    if row is None:
        raise DatabaseLost(DELETED)
    by_status = dict.fromkeys(Status, 0)
    query = sa.select(tally.c.status, sa.func.sum(tally.c.candidates)).where(tally.c.search_id == search_id)
    for status, number in connection.execute(query.group_by(tally.c.status)):
        by_status[Status(status)] = int(number)
    return Counts(
        target=row.target,
        drawn=row.drawn,
        rejected=by_status[Status.REJECTED],
        completed=by_status[Status.COMPLETED],
        failed=by_status[Status.FAILED],
        open=by_status[Status.OPEN],
    )


def standing(connection: Connection, search_id: int) -> Standing:
    """State and counts of a search."""
    current = counts(connection, search_id)
    if current.drawn >= current.target and not current.open:
        return Standing(State.FINISHED, None, current)
    if coordinators_at_work(connection, search_id):
        return Standing(State.RUNNING, None, current)
    last = connection.execute(
        sa.select(coordinator).where(coordinator.c.search_id == search_id).order_by(coordinator.c.id.desc()).limit(1)
    ).one_or_none()
    if last is None:
        why = "no run has begun"
    elif last.ended_at is None:
        why = f"process {last.pid} on {last.host} ended without a word: killed, or cut off from the database"
    else:
        why = last.ending or "extended"
    return Standing(State.STOPPED, why, current)


# ------------------------------------------------------------------ coordinators


def worked(connection: Connection, search_id: int) -> WorkerTime:
    """What the workers of all runs of a search have done with their time; zeros where none has told."""
    sums = (sa.func.coalesce(sa.func.sum(column), 0.0) for column in (coordinator.c.worker_s, coordinator.c.training_s))
    worker_s, training_s = connection.execute(sa.select(*sums).where(coordinator.c.search_id == search_id)).one()
    return WorkerTime(worker_s, training_s)


def now(connection: Connection) -> datetime:
    """The database's clock: the one that all coordinators share."""
    if connection.dialect.name == "postgresql":
        return cast("datetime", connection.scalar(sa.select(sa.func.clock_timestamp())))
    text = connection.scalar(sa.select(sa.func.strftime("%Y-%m-%dT%H:%M:%f+00:00", "now")))
    return datetime.fromisoformat(str(text))


def coordinators_at_work(connection: Connection, search_id: int) -> list[Row[Any]]:
    """The coordinators of a search that are alive, as far as can be told from here."""
    rows = connection.execute(
        sa.select(coordinator).where(coordinator.c.search_id == search_id, coordinator.c.ended_at.is_(None))
    ).all()
    recently = now(connection) - SEEN_WITHIN
    return [row for row in rows if not is_dead(row) and (_is_here(row) or row.seen_at >= recently)]


class Beside(StrEnum):
    """Beside which other coordinators a new one may work."""

    NOBODY = "nobody"
    SAME_HOST = "same_host"  # what SQLite can do
    ANYBODY = "anybody"


def require_room(connection: Connection, search_id: int, beside: Beside = Beside.NOBODY) -> None:
    """Raise SettingsError while a coordinator is at work on the search beside which no other may be."""
    for other in coordinators_at_work(connection, search_id) if beside is not Beside.ANYBODY else ():
        where = f"process {other.pid} on {other.host} since {other.started_at:%Y-%m-%d %H:%M} UTC"
        if other.seen_at < now(connection) - SEEN_WITHIN:  # paused, or this is a copy of what it writes to
            where += f", without a sign since {other.seen_at:%H:%M} (in a copy of its database: free once it ends)"
        if beside is Beside.NOBODY:
            raise SettingsError(
                f"the search is being run by {where}; wait for it, or end it with netsieve stop "
                "(run and resume work beside it with --join)"
            )
        if not _is_here(other):
            raise SettingsError(
                f"the search is being run by {where}, and SQLite cannot be shared between machines; "
                "end it with netsieve stop, or search on Postgres"
            )


def is_dead(row: Row[Any]) -> bool:
    """Whether a coordinator has ended for certain; one of another machine may have, without a trace."""
    return row.ended_at is not None or (_is_here(row) and not is_alive(row.pid, row.pid_started))


def _is_here(row: Row[Any]) -> bool:
    """Whether its process can be looked up: it began on this machine, since it was started."""
    return bool(row.host == this_process()["host"] and row.boot_id == boot_id())


@dataclass(frozen=True)
class History:
    """What the attempts at an open candidate say of it."""

    last: int  # number of the last one
    charges: int  # that it is blamed for
    losses: int  # coordinators that were lost with it in flight, and nodes with it in training


def histories(connection: Connection, search_id: int, indices: Sequence[int]) -> dict[int, History]:
    """The histories of those candidates that have one. What ``--retry`` has forgiven does not count."""
    if not indices:
        return {}
    lost = attempt.c.ending == Interruption.COORDINATOR_LOST
    node_lost = attempt.c.ending == Interruption.WORKER_UNAVAILABLE
    alone = lost & attempt.c.isolated
    rows = connection.execute(
        sa.select(
            attempt.c.draw_index,
            sa.func.max(attempt.c.number).label("last"),
            sa.func.count().filter(attempt.c.ending.in_(CHARGED), ~attempt.c.forgiven).label("charged"),
            sa.func.count().filter(alone, attempt.c.started, ~attempt.c.forgiven).label("started"),
            sa.func.count().filter(alone, ~attempt.c.started, ~attempt.c.forgiven).label("unseen"),
            sa.func.count().filter(lost | node_lost, ~attempt.c.forgiven).label("losses"),
        )
        .where(attempt.c.search_id == search_id, one_of(connection, attempt.c.draw_index, indices))
        .group_by(attempt.c.draw_index)
    )
    return {
        row.draw_index: History(row.last, row.charged + charges_of_losses(row.started, row.unseen), row.losses)
        for row in rows
    }


# ------------------------------------------------------------------ candidates


def ranked(connection: Connection, search_id: int, limit: int) -> list[CandidateRow]:
    """The best completed candidates: by accuracy after the last epoch, then loss, then index."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(candidate.c.search_id == search_id, literally(Status.COMPLETED))
        .order_by(candidate.c.val_accuracy.desc(), candidate.c.val_loss, candidate.c.draw_index)
        .limit(limit)
    )
    return [_candidate(row) for row in rows]


def best(connection: Connection, search_id: int) -> Best | None:
    """The best completed candidate."""
    for row in ranked(connection, search_id, 1):
        assert row.val_accuracy is not None
        assert row.val_loss is not None
        return Best(row.index, row.val_accuracy, row.val_loss, row.layers)
    return None


class By(StrEnum):
    """How rejections and failures are grouped."""

    BOTH = "both"  # reason and layer
    REASON = "reason"
    LAYER = "layer"


def failures(connection: Connection, search_id: int, by: By = By.BOTH) -> list[FailureCount]:
    """Rejections and failures by reason and layer, or one of the two, most frequent first; an example of each."""
    rows = connection.execute(
        sa.select(tally).where(tally.c.search_id == search_id, tally.c.reason != "", tally.c.candidates > 0)
    )
    groups: dict[tuple[Status, str | None, int | None], tuple[int, int]] = {}
    for row in rows:
        layer = None if row.layer == NO_LAYER or by is By.REASON else row.layer
        group = (Status(row.status), None if by is By.LAYER else row.reason, layer)
        number, first = groups.get(group, (0, row.first_index))
        groups[group] = (number + row.candidates, min(first, row.first_index))
    examples = layer_strings(connection, search_id, [first for _, first in groups.values()])
    found = [FailureCount(*group, number, first, examples[first]) for group, (number, first) in groups.items()]
    return sorted(found, key=lambda row: (-row.candidates, row.status, row.reason or "", row.layer or 0))


def layer_strings(connection: Connection, search_id: int, indices: Sequence[int]) -> dict[int, str]:
    """The layer strings of the candidates first drawn at ``indices``."""
    found: dict[int, str] = {}
    for start in range(0, len(indices), AT_ONCE):
        which = one_of(connection, candidate.c.draw_index, indices[start : start + AT_ONCE])
        query = sa.select(candidate.c.draw_index, candidate.c.layers).where(candidate.c.search_id == search_id, which)
        found.update((index, layers) for index, layers in connection.execute(query))
    return found


def details(connection: Connection, search_id: int, index: int) -> CandidateDetails | None:
    """The candidate that was first drawn at ``index``; None if nothing was."""
    return _details(connection, search_id, candidate.c.draw_index == index)


def details_of(connection: Connection, search_id: int, layers: str) -> CandidateDetails | None:
    """The candidate of that canonical layer string."""
    return _details(connection, search_id, candidate.c.digest == architecture_digest(layers))


def _details(connection: Connection, search_id: int, where: sa.ColumnElement[bool]) -> CandidateDetails | None:
    row = connection.execute(
        sa.select(*_COLUMNS, *(candidate.c[name] for name in _DETAILS)).where(candidate.c.search_id == search_id, where)
    ).one_or_none()
    if row is None:
        return None
    values, (detail, curve, *test) = row[: len(_COLUMNS)], row[len(_COLUMNS) :]
    return CandidateDetails(_candidate(values), detail, tuple((a, b, c) for a, b, c in curve or ()), *test)


def attempts(connection: Connection, search_id: int, index: int) -> list[AttemptRow]:
    """The attempts at a candidate that are in flight or went wrong, in order."""
    columns = (attempt.c[name] for name in ("dispatched_at", "ended_at", "ending", "detail"))
    rows = connection.execute(
        sa.select(attempt.c.number, coordinator.c.host, *columns)
        .join(coordinator, attempt.c.coordinator_id == coordinator.c.id)
        .where(attempt.c.search_id == search_id, attempt.c.draw_index == index)
        .order_by(attempt.c.number)
    )
    return [AttemptRow(*row) for row in rows]


def _candidate(row: Any) -> CandidateRow:
    index, layers, status, *rest = row
    return CandidateRow(index, layers, Status(status), *rest)


def literally(status: Status) -> sa.ColumnElement[bool]:
    """The status as literal text, so that SQLite sees that a partial index serves."""
    return candidate.c.status == sa.text(f"'{status}'")
