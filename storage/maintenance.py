"""What people change in a search from outside its runs: stop them, open failed candidates again, delete it."""

from collections import Counter
from collections.abc import Collection, Sequence
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
        opened = _failed(connection, search_id, reasons)
        if not opened:
            return 0
        _reopen(connection, search_id, list(opened))
        numbers = Counter(opened.values())
        changes = {(Status.FAILED.value, reason, NO_LAYER): -number for reason, number in numbers.items()}
        count_changes(connection, search_id, {**changes, (Status.OPEN.value, "", NO_LAYER): len(opened)}, {})
        _find_examples(connection, search_id, list(numbers))
        return len(opened)


def _failed(connection: Connection, search_id: int, reasons: Collection[FailureReason]) -> dict[int, str]:
    """The candidates that failed for one of ``reasons``, each with its reason; none is looked for that no tally has."""
    is_counted = sa.and_(tally.c.status == Status.FAILED, tally.c.reason.in_(reasons), tally.c.candidates > 0)
    counted = connection.scalars(sa.select(tally.c.reason).where(tally.c.search_id == search_id, is_counted)).all()
    if not counted:
        return {}
    query = sa.select(candidate.c.draw_index, candidate.c.reason).where(
        queries.all_of(search_id), candidate.c.status == Status.FAILED, candidate.c.reason.in_(counted)
    )
    return {row.draw_index: str(row.reason) for row in connection.execute(query)}


def _reopen(connection: Connection, search_id: int, indices: Sequence[int]) -> None:
    """Open these failed candidates, and forgive their attempts, tallies not counted."""
    measured = ("train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "curve", "seconds", "ended_at")
    emptied = dict.fromkeys(("reason", "detail", *measured), None)
    which = candidate.c.search_id == search_id, queries.one_of(connection, candidate.c.draw_index, indices)
    connection.execute(candidate.update().where(*which).values(status=Status.OPEN, epochs=0, **emptied))
    which = attempt.c.search_id == search_id, queries.one_of(connection, attempt.c.draw_index, indices)
    connection.execute(attempt.update().where(*which).values(forgiven=True))


def _find_examples(connection: Connection, search_id: int, reasons: Sequence[str]) -> None:
    """Point tallies at the first candidate that has failed for their reason, if one has meanwhile, by another run.

    ``count_changes`` has locked them: what was committed before is seen here, and what comes later waits.
    """
    first = sa.select(sa.func.min(candidate.c.draw_index)).where(
        queries.all_of(search_id), candidate.c.status == Status.FAILED, candidate.c.reason == tally.c.reason
    )
    which = tally.c.search_id == search_id, tally.c.status == Status.FAILED, tally.c.reason.in_(reasons)
    if_any = sa.case((tally.c.candidates > 0, first.scalar_subquery()))
    connection.execute(tally.update().where(*which).values(first_index=if_any))


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
