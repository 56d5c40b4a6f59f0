"""What is seen of a search that runs elsewhere, in one short snapshot: ``netsieve watch``.

Every number comes from tallies, or by an index that holds little (what is open and leased, in flight, ranked),
so a look costs the same for ten million candidates as for ten. It grows with what went wrong on the way: the latest
failures are sought among all attempts interrupted since (half a million of these: 205 ms a look, without them 19).
"""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from search.candidates import FailureReason, Status
from storage import queries
from storage.queries import By, CandidateRow, FailureCount, Standing, literally
from storage.schema import attempt, candidate, lease

BEST = 5
LATEST = 50  # failures


@dataclass(frozen=True)
class AtWork:
    """A coordinator that is at work, as far as can be told from here."""

    host: str
    pid: int
    started_at: datetime
    seen_at: datetime  # its last sign of life
    stop_asked: bool
    holds: int  # open candidates that it has leased
    in_flight: int  # of those, dispatched to its workers
    oldest_dispatched_at: datetime | None  # of those in flight


@dataclass(frozen=True)
class Failure:
    """A candidate's attempt that failed."""

    index: int
    reason: FailureReason
    ended_at: datetime
    detail: str


@dataclass(frozen=True)
class View:
    """A search at one moment."""

    at: datetime  # by the database's clock, as all moments here
    standing: Standing
    best: list[CandidateRow]
    reasons: list[FailureCount]  # of rejections and failures, the most frequent first
    at_work: list[AtWork]  # the longest at work first
    failures: list[Failure]  # the latest first


def view(connection: Connection, search_id: int) -> View:
    """How a search stands, and what it is doing. Raises DatabaseLost where it is not there any more."""
    return View(
        at=queries.now(connection),
        standing=queries.standing(connection, search_id),
        best=queries.ranked(connection, search_id, BEST),
        reasons=queries.failures(connection, search_id, By.REASON),
        at_work=_at_work(connection, search_id),
        failures=_latest_failures(connection, search_id),
    )


def _at_work(connection: Connection, search_id: int) -> list[AtWork]:
    holds, in_flight = _holds(connection, search_id), _in_flight(connection, search_id)
    return [
        AtWork(
            row.host,
            row.pid,
            row.started_at,
            row.seen_at,
            row.stop_asked,
            holds.get(row.id, 0),
            *in_flight.get(row.id, (0, None)),
        )
        for row in sorted(queries.coordinators_at_work(connection, search_id), key=lambda row: row.started_at)
    ]


def _holds(connection: Connection, search_id: int) -> dict[int, int]:
    """Open candidates in the leases of each coordinator that has some."""
    is_held = sa.and_(
        candidate.c.search_id == lease.c.search_id,
        candidate.c.draw_index >= lease.c.first_index,
        candidate.c.draw_index < lease.c.stop_index,
        literally(Status.OPEN),
    )
    rows = connection.execute(
        sa.select(lease.c.coordinator_id, sa.func.count())
        .join(candidate, is_held)
        .where(lease.c.search_id == search_id)
        .group_by(lease.c.coordinator_id)
    )
    return {row[0]: row[1] for row in rows}


def _in_flight(connection: Connection, search_id: int) -> dict[int, tuple[int, datetime]]:
    """Attempts in flight, and since when the oldest is, of each coordinator that has some."""
    oldest = sa.func.min(attempt.c.dispatched_at, type_=attempt.c.dispatched_at.type)
    rows = connection.execute(
        sa.select(attempt.c.coordinator_id, sa.func.count(), oldest)
        .where(attempt.c.search_id == search_id, attempt.c.ending.is_(None))
        .group_by(attempt.c.coordinator_id)
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def _latest_failures(connection: Connection, search_id: int) -> list[Failure]:
    """The attempts that failed last, the latest first."""
    rows = connection.execute(
        sa.select(attempt.c.draw_index, attempt.c.ending, attempt.c.ended_at, attempt.c.detail)
        .where(attempt.c.search_id == search_id, attempt.c.ending.is_not(None), attempt.c.ending.in_(FailureReason))
        .order_by(attempt.c.ended_at.desc())
        .limit(LATEST)
    )
    return [Failure(row[0], FailureReason(row[1]), row[2], row[3] or "") for row in rows]
