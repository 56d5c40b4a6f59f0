"""The reads of a report: one search, summed up.

All of it from one connection, that is one snapshot. Of completed candidates the numbers are streamed in
draw order, and strings and curves are asked for by index, so memory does not grow with strings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from search.candidates import Status
from storage.queries import By, all_of, coordinators_at_work, details, failures, literally
from storage.schema import attempt, candidate, coordinator

AT_ONCE = 1_000  # rows that a streamed query holds


@dataclass(frozen=True)
class Run:
    """A coordinator's run of the search."""

    host: str
    pid: int
    started_at: datetime
    seen_at: datetime  # its last sign of life
    ended_at: datetime | None  # None: at work, or killed
    ending: str | None  # why it ended before the search was finished
    at_work: bool
    versions: dict[str, str]  # of what its results depend on; empty before schema 0003


@dataclass(frozen=True)
class Example:
    """The first candidate that was rejected or failed for a reason, standing for all of them."""

    status: Status
    reason: str
    candidates: int  # that were rejected or failed for it
    index: int
    layers: str
    layer: int | None  # of a rejection: the failing layer, counted from 0
    detail: str | None


@dataclass(frozen=True)
class Detail:
    """What the failures of a reason said of themselves, and how often."""

    reason: str
    detail: str | None
    candidates: int


@dataclass(frozen=True)
class Stretch:
    """What became of the draws of a stretch of indices."""

    first: int
    stop: int
    statuses: dict[Status, int]  # of the distinct architectures first drawn there


class Completed(NamedTuple):
    """A completed candidate's string and numbers."""

    draw_index: int
    layers: str
    parameters: int | None
    macs: int | None
    train_loss: float | None
    val_loss: float | None
    val_accuracy: float
    seconds: float | None
    ended: float | None  # when, in seconds of UTC since 1970; None before schema 0003


def runs(connection: Connection, search_id: int, limit: int) -> list[Run]:
    """The last runs of a search, oldest first."""
    at_work = {row.id for row in coordinators_at_work(connection, search_id)}
    query = sa.select(coordinator).where(coordinator.c.search_id == search_id)
    rows = connection.execute(query.order_by(coordinator.c.id.desc()).limit(limit)).all()
    return [
        Run(
            row.host,
            row.pid,
            row.started_at,
            row.seen_at,
            row.ended_at,
            row.ending,
            row.id in at_work,
            row.versions or {},
        )
        for row in reversed(rows)
    ]


def count_runs(connection: Connection, search_id: int) -> int:
    """How many runs a search has had."""
    query = sa.select(sa.func.count()).select_from(coordinator).where(coordinator.c.search_id == search_id)
    return connection.scalar(query) or 0


def attempts(connection: Connection, search_id: int) -> dict[str | None, int]:
    """How many attempts are in flight (None), or ended some other way than by completing, and how."""
    query = sa.select(attempt.c.ending, sa.func.count()).where(attempt.c.search_id == search_id)
    return {ending: int(number) for ending, number in connection.execute(query.group_by(attempt.c.ending))}


def examples(connection: Connection, search_id: int) -> list[Example]:
    """Of each reason of a rejection or failure the candidate drawn first, the most frequent reason first."""
    found = []
    for row in failures(connection, search_id, By.REASON):
        first = details(connection, search_id, row.example)
        assert first is not None
        layer, detail = first.candidate.layer, first.detail
        found.append(
            Example(row.status, str(row.reason), row.candidates, row.example, row.example_layers, layer, detail)
        )
    return found


def failure_details(connection: Connection, search_id: int, limit: int) -> list[Detail]:
    """What failures said, the most frequent first."""
    number = sa.func.count().label("number")
    query = (
        sa.select(candidate.c.reason, candidate.c.detail, number)
        .where(all_of(search_id), candidate.c.status == Status.FAILED)
        .group_by(candidate.c.reason, candidate.c.detail)
        .order_by(number.desc(), sa.func.min(candidate.c.draw_index))
        .limit(limit)
    )
    return [Detail(row.reason, row.detail, row.number) for row in connection.execute(query)]


def stretches(connection: Connection, search_id: int, drawn: int, most: int) -> list[Stretch]:
    """What became of the draws, in up to ``most`` stretches of equal length."""
    if not drawn:
        return []
    length = -(-drawn // most)
    which = (candidate.c.draw_index // length).label("which")
    found: list[Stretch] = [
        Stretch(first, min(first + length, drawn), dict.fromkeys(Status, 0)) for first in range(0, drawn, length)
    ]
    query = sa.select(which, candidate.c.status, sa.func.count()).where(all_of(search_id))
    for number, status, count in connection.execute(query.group_by(which, candidate.c.status)):
        found[number].statuses[Status(status)] = count
    return found


def completed(connection: Connection, search_id: int) -> Iterator[Completed]:
    """The completed candidates in draw order, streamed."""
    columns = [candidate.c[name] for name in (*Completed._fields[:-1], "ended_at")]
    query = (
        sa.select(*columns)
        .where(candidate.c.search_id == search_id, literally(Status.COMPLETED))
        .order_by(candidate.c.draw_index)
    )
    for row in connection.execute(query, execution_options={"yield_per": AT_ONCE}):
        *values, ended_at = row
        yield Completed._make((*values, ended_at and ended_at.timestamp()))
