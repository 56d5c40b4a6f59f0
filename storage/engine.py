"""From a database URL to connections that can be trusted.

``sqlite:///relative.db``, ``sqlite:////absolute.db`` and ``postgresql://user:password@host/database``. A
database that is not netsieve's is refused before anything is written to it, and so is one of another
schema revision. Writers and readers are apart: a reader's connection cannot write, whatever it is asked.

What is the same for every kind of database is here; what is not, in ``sqlite`` and ``postgres``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, exc

from search.errors import DatabaseError, NetsieveError, quoted
from storage.faults import translated
from storage.postgres import PostgresDatabase
from storage.schema import REVISION, search
from storage.sqlite import SqliteFile
from storage.urls import BEGIN, EXAMPLE, has_password, parse, shown

__all__ = [
    "has_password",
    "holds_something",
    "is_same",
    "open_for_filling",
    "open_for_reading",
    "open_for_writing",
    "require_writable",
    "serves_many_machines",
    "shown",
    "translated",
    "upgrade",
]

ONE_PAGE = 4096  # bytes of SQLite's
MIGRATIONS = Path(__file__).parent / "migrations"


class Database(Protocol):
    """What is asked of a kind of database."""

    @property
    def name(self) -> str:
        """For messages: where it is."""

    @property
    def shown(self) -> str:
        """For messages: the URL that was given."""

    def identity(self) -> tuple[object, ...]:
        """Equal for one and the same database only, whatever the URL."""

    def exists(self) -> bool:
        """Whether there is anything that can be connected to."""

    def made_by_opening(self) -> list[Path]:
        """The files that opening it for writing will make, if any: the database's own, its log, and others."""

    def require_readable(self) -> None:
        """Raise DatabaseError when there is nothing to read from."""

    def require_writable(self) -> None:
        """Raise DatabaseError when nothing could be written."""

    def reader(self) -> Engine:
        """An engine that cannot write; each connection sees one snapshot."""

    def writer(self) -> Engine:
        """An engine that can write."""

    def lock_schema(self, connection: Connection) -> None:
        """Keep other processes from changing the schema until the transaction ends."""

    def is_ours(self, connection: Connection) -> bool:
        """Whether it bears netsieve's mark."""

    def mark(self, connection: Connection) -> None:
        """Set netsieve's mark."""


# ------------------------------------------------------------------ opening


def open_for_writing(url: str) -> Engine:
    """An engine that can write; an empty database gets the schema.

    Raises DatabaseError: unusable URL or database, another program's database, another schema revision;
    DatabaseAway: it cannot be reached, or is locked, now.
    """
    database = _database(url)
    with translated(database.name, opening=True):
        database.require_writable()
        if _has_tables(database):
            _check(database)  # before a writer touches another program's file
            return database.writer()
        with _closed_on_error(database.writer()) as engine:
            _create_schema(engine, database)
        return engine


@contextmanager
def open_for_filling(url: str) -> Iterator[Engine]:
    """As ``open_for_writing``; where the context fails, the files of a database that it made are removed.

    For what writes all or nothing, and only once.
    """
    database = _database(url)
    made = database.made_by_opening()
    try:
        with _closed_at_end(open_for_writing(url)) as engine:
            yield engine
    except BaseException:
        if made:
            _remove_unused(database, made)
        raise


def _remove_unused(database: Database, made: Sequence[Path]) -> None:
    """Remove files that were made in vain; not of a database in which somebody has begun a search meanwhile.

    Its lock is held meanwhile: who waits for it finds the file gone, and says so.
    """
    try:
        with _closed_at_end(database.writer()) as engine, engine.begin() as connection:
            has_tables = search.name in sa.inspect(connection).get_table_names()
            if not has_tables or not connection.scalar(sa.select(sa.exists().select_from(search))):
                _remove(made)
    except (exc.SQLAlchemyError, NetsieveError):  # on a full disk even a lock may find no room
        sizes = [path.stat().st_size if path.exists() else 0 for path in made]
        if sizes[0] <= ONE_PAGE and not sizes[1]:  # no table, nor a log of one, now that the lock was waited for
            _remove(made)


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def open_for_reading(url: str) -> Engine:
    """An engine that cannot write. Raises DatabaseError: nothing there, and as ``open_for_writing``."""
    database = _database(url)
    with translated(database.name, opening=True):
        database.require_readable()
        _check(database)
        return database.reader()


def holds_something(url: str) -> bool:
    """Whether there is a database with any table; a run that was killed at its very start leaves an empty one.

    Raises DatabaseError for an unusable URL or database.
    """
    database = _database(url)
    with translated(database.name, opening=True):
        return _has_tables(database)


def is_same(url: str, other: str) -> bool:
    """Whether two URLs name one database. Raises DatabaseError for an unusable one, and DatabaseAway."""
    identities = []
    for database in map(_database, (url, other)):
        with translated(database.name, opening=True):
            identities.append(database.identity())
    return identities[0] == identities[1]


def require_writable(url: str) -> None:
    """Raise DatabaseError unless the database, or the file and folder that it would be, can be written."""
    database = _database(url)
    with translated(database.name, opening=True):
        database.require_writable()


def serves_many_machines(url: str) -> bool:
    """Whether coordinators of several machines can work on it together."""
    return isinstance(_database(url), PostgresDatabase)


def upgrade(url: str) -> tuple[str, str]:
    """Migrate a database of an older netsieve to this one's schema; the revisions before and after.

    All or nothing, in one transaction; where two processes try, one migrates and the other finds it done.
    Raises DatabaseError: as ``open_for_reading``, but not for an older revision.
    """
    database = _database(url)
    with translated(database.name, opening=True):
        database.require_readable()
        database.require_writable()
        with database.reader().connect() as connection:
            _require_known(connection, database)
        with _closed_on_error(database.writer()) as engine, engine.begin() as connection:
            database.lock_schema(connection)
            before = _require_known(connection, database)
            if before != REVISION:
                _migrate(connection)
        engine.dispose()
    return before, REVISION


def _database(url: str) -> Database:
    """What a URL names. Raises DatabaseError."""
    parsed, name = parse(url), shown(url)
    match parsed.get_backend_name():
        case "sqlite":
            return SqliteFile.of(parsed, name)
        case "postgresql":
            return PostgresDatabase.of(parsed, name)
        case "postgres":
            raise DatabaseError(f"--db {name}: write postgresql://, not postgres://; {EXAMPLE}")
        case other:
            raise DatabaseError(f"--db {name}: {quoted(other)} is not supported; {EXAMPLE}")


def _has_tables(database: Database) -> bool:
    if not database.exists():
        return False
    with database.reader().connect() as connection:
        return bool(sa.inspect(connection).get_table_names())


@contextmanager
def _closed_on_error(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    except BaseException:
        engine.dispose()
        raise


@contextmanager
def _closed_at_end(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


# ------------------------------------------------------------------ whose schema is it?


def _create_schema(engine: Engine, database: Database) -> None:
    """Apply every migration to an empty database, in one transaction; a second process finds it done."""
    with engine.begin() as connection:
        database.lock_schema(connection)
        if sa.inspect(connection).get_table_names():
            _require_current(connection, database)
            return
        _migrate(connection)
        database.mark(connection)


def _migrate(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415  # half a second, for new and older databases only
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _check(database: Database) -> None:
    """Raise DatabaseError unless the database is netsieve's, and of this version's schema."""
    with database.reader().connect() as connection:
        _require_current(connection, database)


def _require_current(connection: Connection, database: Database) -> None:
    revision = _require_known(connection, database)
    if revision != REVISION:
        raise DatabaseError(
            f"--db {database.name}: has schema {revision}, this netsieve works with {REVISION}; "
            f"migrate it with netsieve db upgrade --db {database.shown}"
        )


def _require_known(connection: Connection, database: Database) -> str:
    """The schema's revision. Raises DatabaseError: another program's database, or a newer netsieve's."""
    tables = set(sa.inspect(connection).get_table_names())
    if not database.is_ours(connection):
        what = "is another program's database, not netsieve's;" if tables else f"is empty; {BEGIN}, or"
        raise DatabaseError(f"--db {database.name}: {what} {EXAMPLE}")
    revision: str | None = None
    if "alembic_version" in tables:
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if revision is None:
        raise DatabaseError(f"--db {database.name}: has no schema revision; is it the right database, and whole?")
    if revision > REVISION:
        raise DatabaseError(
            f"--db {database.name}: has schema {revision}, this netsieve works with {REVISION}; "
            "install a newer netsieve, or give another --db"
        )
    return revision
