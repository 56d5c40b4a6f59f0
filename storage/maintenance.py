"""What people change in a search from outside its runs: stop them, open failed candidates again, delete it."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row

from search.candidates import FailureReason, Status
from search.errors import DatabaseLost
from storage import queries
from storage.faults import translated
from storage.queries import SearchRow
from storage.schema import NO_LAYER, attempt, candidate, coordinator, lease, listed, search, tally
from storage.store import count_changes


def ask_to_stop(engine: Engine, search_id: int) -> list[Row[Any]]:
    """Ask the search's coordinators to finish what is in training and end; those that are at work.

    They hear it within about two seconds.
    """
    with translated(), engine.begin() as connection:
        at_work = queries.coordinators_at_work(connection, search_id)
        ids = [row.id for row in at_work]
        connection.execute(coordinator.update().where(coordinator.c.id.in_(ids)).values(stop_asked=True))
        return at_work


def reopen(engine: Engine, search_id: int, reasons: Collection[FailureReason]) -> int:
    """Open the candidates again that failed for one of ``reasons``; how many.

    Their attempts so far are kept, and not charged any more. A repeated call finds none.
    """
    with translated(), engine.begin() as connection:
        connection.execute(sa.select(search.c.id).where(search.c.id == search_id).with_for_update(key_share=True))
        opened = {reason: _reopen(connection, search_id, reason) for reason in sorted(reasons)}
        changes = {(Status.FAILED.value, reason.value, NO_LAYER): -count for reason, count in opened.items() if count}
        changes[Status.OPEN.value, "", NO_LAYER] = sum(opened.values())
        count_changes(connection, search_id, changes, {})
        for reason in (reason for reason, count in opened.items() if count):
            _find_example(connection, search_id, reason)
        return sum(opened.values())


def _reopen(connection: Connection, search_id: int, reason: FailureReason) -> int:
    """Open those of one reason, and forgive their attempts, tallies not counted; how many."""
    measured = ("train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "curve", "seconds", "ended_at")
    emptied = dict.fromkeys(("reason", "detail", *measured), None)
    opened = connection.scalars(
        candidate.update()
        .where(candidate.c.search_id == search_id, candidate.c.status == Status.FAILED, candidate.c.reason == reason)
        .values(status=Status.OPEN, epochs=0, **emptied)
        .returning(candidate.c.draw_index)
    ).all()
    if opened:  # and no others: one may fail meanwhile
        which = attempt.c.search_id == search_id, queries.one_of(connection, attempt.c.draw_index, opened)
        connection.execute(attempt.update().where(*which).values(forgiven=True))
    return len(opened)


def _find_example(connection: Connection, search_id: int, reason: FailureReason) -> None:
    """Point a tally at the first candidate that has failed for a reason, if one has meanwhile, by another coordinator.

    ``count_changes`` has locked that tally: what was committed before is seen here, and what comes later waits.
    """
    first = sa.select(sa.func.min(candidate.c.draw_index)).where(
        candidate.c.search_id == search_id, candidate.c.status == Status.FAILED, candidate.c.reason == reason
    )
    which = tally.c.search_id == search_id, tally.c.status == Status.FAILED, tally.c.reason == reason
    connection.execute(tally.update().where(*which).values(first_index=first.scalar_subquery()))


def delete(engine: Engine, asked: SearchRow) -> None:
    """Delete a search with all that was recorded of it.

    Raises SettingsError while it is being run; DatabaseLost where somebody else has deleted it since it was looked
    at: its number may be another one's now.
    """
    with translated(), engine.begin() as connection:
        is_asked = search.c.id == asked.id, search.c.name == asked.name, search.c.created_at == asked.created_at
        if connection.scalar(sa.select(search.c.id).where(*is_asked).with_for_update()) is None:
            raise DatabaseLost(f"search {asked.name} was deleted meanwhile; netsieve list shows what is there")
        queries.require_room(connection, asked.id)
        for table in (attempt, lease, candidate, tally, listed, coordinator):
            connection.execute(table.delete().where(table.c.search_id == asked.id))
        connection.execute(search.delete().where(search.c.id == asked.id))
