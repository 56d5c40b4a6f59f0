"""A search carried from one database to another, of the same kind or the other, with nothing changed.

All tables of the schema are copied, in the order of their references, from one snapshot and in one
transaction. What the databases number (searches, coordinators) gets numbers of the target, and what
refers to it follows; every other value stays as it is. Rows are streamed: memory does not grow.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, RowMapping, Table

from search.errors import SettingsError, Stopped
from search.settings import SearchSettings
from storage import queries
from storage.faults import translated
from storage.schema import metadata, search
from storage.store import insert, insert_rows

CHUNK = 4_096  # rows that are in memory at once

Numbers = dict[str, dict[int, int]]  # by table: the target's number for each of the source's


def row_counts(connection: Connection, search_id: int) -> dict[str, int]:
    """How many rows of each table are the search's."""
    return {table.name: _count(connection, table, search_id) for table in metadata.sorted_tables}


def copy_search(
    source: Connection,
    search_id: int,
    target: Engine,
    name: str,
    expected: Mapping[str, int],
    copied: Callable[[int], None],
) -> dict[str, int]:
    """Copy a search, all or nothing; how many rows of each table the target has of it.

    ``source`` is one snapshot, with ``expected`` rows (counted before, so that the target's transaction does not
    stand idle); ``copied`` is told of rows as they come. Raises SettingsError where the target has a search of
    that name, Stopped where it would hold other numbers of rows.
    """
    with translated("the target"), target.begin() as connection:
        numbers: Numbers = {}
        for table in metadata.sorted_tables:
            for rows in _chunks(source, table, search_id):
                _insert(connection, table, [_changed(table, row, name, numbers) for row in rows], rows, numbers)
                copied(len(rows))
        counted = row_counts(connection, numbers[search.name][search_id])
        lost = [f"{counted[table]:,} of {expected[table]:,} rows of {table}" for table in expected
                if counted[table] != expected[table]]  # fmt: skip
        if lost:
            raise Stopped(f"the target would hold {', '.join(lost)}; nothing was copied, try again")
    return counted


def _chunks(source: Connection, table: Table, search_id: int) -> Iterator[Sequence[RowMapping]]:
    """The search's rows of a table, in the order of its key, which is how they were written."""
    query = sa.select(table).where(_of_search(table, search_id)).order_by(*table.primary_key)
    with translated("the source"):
        yield from source.execute(query, execution_options={"yield_per": CHUNK}).mappings().partitions()


def _changed(table: Table, row: RowMapping, name: str, numbers: Numbers) -> dict[str, Any]:
    """A row for the target: references renumbered, the number of its own left out, a search under its new name."""
    values = dict(row)
    if table.autoincrement_column is not None:
        del values[table.autoincrement_column.name]
    for column, referred in _references(table):
        values[column] = numbers[referred][values[column]]
    return {**values, "name": name} if table is search else values


def _insert(
    connection: Connection, table: Table, rows: list[dict[str, Any]], originals: Sequence[RowMapping], numbers: Numbers
) -> None:
    """Insert rows; where the target numbers them, note under which number each one is there."""
    key = table.autoincrement_column
    if key is None:
        insert_rows(connection, table, rows)
        return
    given = numbers.setdefault(table.name, {})
    for row, original in zip(rows, originals, strict=True):
        number = connection.scalar(insert(connection, table).values(row).on_conflict_do_nothing().returning(key))
        if number is None:
            raise SettingsError(_why_refused(connection, original, row["name"]))
        given[original[key.name]] = number


def _why_refused(connection: Connection, original: RowMapping, name: str) -> str:
    """What the target has under the name, and what can be done."""
    there = queries.require(connection, name)
    counts = queries.counts(connection, there.id)
    is_same = there.settings == SearchSettings.from_dict(original["settings"])
    return (
        f"the target has a search {name} already, with {'the same' if is_same else 'other'} settings: "
        f"{counts.drawn:,} of {counts.target:,} drawn, {counts.completed:,} completed, {counts.open:,} open; "
        "copy under another name with --as, or delete that one first with netsieve delete"
    )


def _references(table: Table) -> list[tuple[str, str]]:
    """The columns of a table that refer to what databases number, each with the table that it refers to."""
    return [
        (key.parent.name, key.column.table.name)
        for key in table.foreign_keys
        if key.column is key.column.table.autoincrement_column
    ]


def _count(connection: Connection, table: Table, search_id: int) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(table).where(_of_search(table, search_id))) or 0


def _of_search(table: Table, search_id: int) -> sa.ColumnElement[bool]:
    return (table.c.id if table is search else table.c.search_id) == search_id
