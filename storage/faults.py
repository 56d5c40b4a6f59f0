"""What a database's errors mean to netsieve: the one place where SQLAlchemy's errors become those of ``search.errors``.

Errors are told apart by code: SQLite's result codes (sqlite.org/rescode.html) and Postgres' SQLSTATE
(PostgreSQL manual, appendix A). A connection that could not be made has neither, only libpq's words.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import exc

from search.errors import DatabaseAway, DatabaseError, NetsieveError, Stopped
from storage.urls import ENCODING

Meaning = tuple[type[NetsieveError], str]  # which error, and the next step that ends its message
Foreign = exc.DBAPIError | exc.TimeoutError | exc.PendingRollbackError

# How a run goes on; what is no run says something else in their place.
RESUME = "nothing recorded is lost, netsieve resume goes on"
AGAIN = "nothing recorded is lost; try again, or go on later with netsieve resume"
_MAKE_ROOM = f"make room on its disk; {RESUME}"
_LET_END = f"let the program that holds it end; {RESUME}"
_LOOK_AT_SERVER = "is the server started, and are host and port those of its listen_addresses and port?"

_SQLITE: dict[int, Meaning] = {
    sqlite3.SQLITE_BUSY: (DatabaseAway, _LET_END),
    sqlite3.SQLITE_LOCKED: (DatabaseAway, _LET_END),
    sqlite3.SQLITE_FULL: (DatabaseAway, _MAKE_ROOM),
    sqlite3.SQLITE_CORRUPT: (DatabaseError, "is it the right file?"),
    sqlite3.SQLITE_NOTADB: (DatabaseError, "is it the right file?"),
}

# SQLSTATE by beginning, the more exact first.
_POSTGRES_AWAY = {
    "08": AGAIN,  # connection exception
    "25006": "the server only reads, as after a failover; netsieve resume goes on with the primary",
    "25P03": AGAIN,  # this process stood still in the middle of a transaction
    "40001": AGAIN,  # serialization failure
    "40P01": AGAIN,  # deadlock
    "53100": _MAKE_ROOM,  # disk full
    "53": AGAIN,  # insufficient resources: connections, memory
    "55P03": _LET_END,  # lock not available within lock_timeout
    "57014": AGAIN,  # cancelled, as by statement_timeout
    "57P01": AGAIN,  # shut down by the administrator
    "57P02": AGAIN,  # crash of the server
    "57P03": AGAIN,  # cannot connect now: starts, stops or recovers
}
_POSTGRES_REFUSES = {  # at opening: what the user has to change
    "25006": "the server only reads; give the primary's address, or end default_transaction_read_only",
    "28": f"check user and password; {ENCODING}",
    "3D000": "create the database with createdb, or give another name",
    "3F000": "give the user a schema in which it can create tables (search_path)",
    "42501": "grant the user what it lacks (to begin a database: CREATE on its schema), or give another user",
}
_CONNECTING_AWAY = {
    "too many": AGAIN,
    "connection slots": AGAIN,
    "starting up": AGAIN,
    "shutting down": AGAIN,
    "recovery": AGAIN,
    "refused": _LOOK_AT_SERVER,  # a wrong port looks the same, and so does a server that is restarted
    "No such file": _LOOK_AT_SERVER,
    "timeout expired": _LOOK_AT_SERVER,
}
_CONNECTING_REFUSED = {
    "password": f"check user and password; {ENCODING}",
    "pg_hba": "allow user, database and this machine in the server's pg_hba.conf; it may demand ?sslmode=require",
    'role "': "check the user, or create it with createuser",
    'database "': "create the database with createdb, or give another name",
    "resolve": f"check the host; {ENCODING}",
}


@contextmanager
def translated(place: Path | str = "the database", *, opening: bool = False) -> Iterator[None]:
    """Raise netsieve's errors for SQLAlchemy's; ``place`` is for messages, see ``urls.shown``.

    Locked, full, cut off, not answering: DatabaseAway. Not a database, damaged, or, at ``opening``, something
    that the user has to change: DatabaseError. Anything else that the world did to it: Stopped.
    """
    try:
        yield
    except (exc.DBAPIError, exc.TimeoutError, exc.PendingRollbackError) as error:
        kind, next_step = _meaning(error, opening=opening)
        option = "--db " if kind is DatabaseError or opening else ""
        raise kind(f"{option}{place}: {_cause(error)}; {next_step}") from None


def _cause(error: Foreign) -> str:
    """The first line of what the database said; the lines below may hold values."""
    if isinstance(error, exc.TimeoutError):
        return "its connections were busy for too long"
    if isinstance(error, exc.PendingRollbackError):
        return "its connection was lost"
    return " ".join(str(error.orig).partition("\n")[0].split())


def _meaning(error: Foreign, *, opening: bool) -> Meaning:
    if not isinstance(error, exc.DBAPIError):
        return DatabaseAway, AGAIN
    if isinstance(error.orig, sqlite3.Error):
        return _SQLITE.get(getattr(error.orig, "sqlite_errorcode", 0) & 0xFF, (Stopped, RESUME))
    state = getattr(error.orig, "sqlstate", None)
    if state is None and not error.connection_invalidated:
        return _connecting(error, opening=opening)
    if opening and (next_step := _by_beginning(state, _POSTGRES_REFUSES)):
        return DatabaseError, next_step
    if next_step := _by_beginning(state, _POSTGRES_AWAY):
        return DatabaseAway, next_step
    return (DatabaseAway, AGAIN) if error.connection_invalidated else (Stopped, RESUME)


def _by_beginning(state: str | None, steps: dict[str, str]) -> str | None:
    return next((step for beginning, step in steps.items() if state and state.startswith(beginning)), None)


def _connecting(error: exc.DBAPIError, *, opening: bool) -> Meaning:
    """A server that does not answer may be back soon; one that refuses at opening wants something else."""
    cause = _cause(error)
    if away := _by_words(cause, _CONNECTING_AWAY):
        return DatabaseAway, away if opening else AGAIN
    if opening:
        return DatabaseError, _by_words(cause, _CONNECTING_REFUSED) or "check the URL and the server's log"
    return (DatabaseAway, AGAIN) if isinstance(error, exc.OperationalError) else (Stopped, RESUME)


def _by_words(cause: str, steps: dict[str, str]) -> str | None:
    return next((step for words, step in steps.items() if words in cause), None)
