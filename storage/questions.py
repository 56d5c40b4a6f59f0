"""People's own SQL, which only reads: the database sees to that, whatever the text says.

A query goes to a reader's connection (``engine.open_for_reading``) as one statement. SQLite has opened the file for
reading only, attaches no other one, and loads no extensions. Postgres gets the query as the body of a cursor's
declaration (``DECLARE ... CURSOR FOR``), where its grammar admits nothing that writes, COPY to a file included, by
the extended protocol, which takes a single statement, in a transaction that is read-only; EXPLAIN and SHOW, which no
cursor takes, go by the same protocol in the same transaction. It is rolled back at the end, whatever happened in it.

Not covered: functions with effects outside the database's tables, which Postgres lets be called in any SELECT.
Superusers may call all of them (``pg_reload_conf``), any other role those that end connections of its own
(``pg_terminate_backend``), a running search's included. Ask as a role of its own, which may only SELECT.
"""

import re
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from math import isfinite
from typing import Any

from sqlalchemy import Connection, exc

from search.errors import QueryError

VIEWS = ("searches", "candidates", "layers", "measurements")
ROWS_AT_ONCE = 1_000  # fetched; what an answer of any length holds in memory
STEPS_BETWEEN_LOOKS = 100_000  # SQLite's, at whether Ctrl-C was pressed: some milliseconds

# Answered in SQLite's codes: the query is at fault. Others are the database's: locked, damaged, a full disk.
_REFUSALS = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_SCHEMA,  # what the first statement of a connection gets instead, for a column that is unknown
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_RANGE,
}
# Classes of Postgres' SQLSTATE that are not the query's fault: connection, rollback, resources, operator, system.
_FAULTS = ("08", "40", "53", "55", "57", "58", "F0", "XX")
_UNKNOWN = {"42P01", "42703"}  # undefined table, undefined column
_NO_CURSOR = re.compile(r"(\s|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*+(EXPLAIN|SHOW)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """What a query gives."""

    columns: tuple[str, ...]  # each name once: a second 'name' is 'name_2'
    rows: Iterator[tuple[Any, ...]]  # of plain values, see ``plain``; read while the context lasts


@contextmanager
def asked(connection: Connection, query: str) -> Iterator[Answer]:
    """The answer to one statement that reads, streamed: memory does not grow with it.

    Raises QueryError, also while rows are read: the query is malformed, writes, or cannot be worked out;
    SQLAlchemy's errors where the database itself fails (``faults.translated``).
    """
    if not connection.in_transaction():
        connection.begin()  # the driver's cursor would not: the reader's snapshot and limits
    is_postgres = connection.dialect.name == "postgresql"
    with (_postgres if is_postgres else _sqlite)(connection, query) as (titles, rows), closing(rows):
        if not titles:
            raise QueryError(_refusal("gives no rows"))
        yield Answer(_apart(titles), rows)


Found = tuple[Sequence[str], Generator[tuple[Any, ...]]]


@contextmanager
def _sqlite(connection: Connection, query: str) -> Iterator[Found]:
    driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    # Python hears of a signal only where its own code runs; an exception there interrupts the query.
    driver.set_progress_handler(lambda: 0, STEPS_BETWEEN_LOOKS)
    try:
        with closing(driver.cursor()) as cursor:
            cursor.execute(query)
            yield [column[0] for column in cursor.description or ()], _rows(cursor)
    except sqlite3.Warning as error:  # Python 3.11's, of a second statement
        raise QueryError(_refusal(error)) from None
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from None
        if code not in _REFUSALS:
            raise exc.OperationalError(None, None, error) from None
        raise QueryError(_refusal(error, unknown=str(error).startswith("no such"))) from None
    except UnicodeError:
        raise QueryError(_refusal("is not UTF-8 text")) from None


@contextmanager
def _postgres(connection: Connection, query: str) -> Iterator[Found]:
    import psycopg  # noqa: PLC0415  # for Postgres only

    driver: Any = connection.connection.driver_connection
    try:
        if _NO_CURSOR.match(query):
            with driver.cursor() as cursor:
                rows = list(cursor.stream(query))  # the extended protocol, unlike execute()
                yield [column.name for column in cursor.description or ()], (tuple(map(plain, row)) for row in rows)
        else:
            with driver.cursor("netsieve") as cursor:
                cursor.execute(query)
                yield [column.name for column in cursor.description or ()], _rows(cursor)
    except psycopg.Error as error:
        state = error.sqlstate
        if driver.closed or (state or "").startswith(_FAULTS):
            raise exc.OperationalError(None, None, error, connection_invalidated=driver.closed) from None
        raise QueryError(_refusal(error, unknown=state in _UNKNOWN)) from None
    except UnicodeError:
        raise QueryError(_refusal("is not UTF-8 text")) from None


def _rows(cursor: Any) -> Generator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        for row in rows:
            yield tuple(map(plain, row))


def _refusal(cause: object, *, unknown: bool = False) -> str:
    """The first line of what the database said, and the next step."""
    said = str(cause).partition("\n")[0].rstrip(".")
    if unknown:
        return f"QUERY: {said}; the views are {', '.join(VIEWS)}: storage/README.md says what is in them"
    return f"QUERY: {said}; write one SELECT, WITH, VALUES or EXPLAIN, which only reads"


def _apart(titles: Sequence[str]) -> tuple[str, ...]:
    """Names that differ: the second 'a' is 'a_2', unless that is a name already."""
    names: list[str] = []
    for title in titles:
        name, number = title, 1
        while name in names or (number > 1 and name in titles):
            number += 1
            name = f"{title}_{number}"
        names.append(name)
    return tuple(names)


def plain(value: Any) -> Any:  # noqa: PLR0911  # a line a type
    """A database's value as one of JSON: numbers as numbers, NaN and infinity as None, moments in ISO 8601 and UTC."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if isfinite(value) else None
        case Decimal():
            whole = value.is_finite() and value == value.to_integral_value()
            return int(value) if whole else plain(float(value))
        case bytes() | bytearray() | memoryview():
            return value.hex()
        case datetime():
            return (value.astimezone(UTC) if value.tzinfo else value).isoformat()
        case date() | time():
            return value.isoformat()
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case _:
            return str(value)
