"""From a database URL to connections that can be trusted.

``sqlite:///relative.db`` and ``sqlite:////absolute.db`` so far. A file that is not netsieve's is
refused before anything is written to it, and so is one of another schema revision. Writers and
readers are apart: a reader's connection cannot write, whatever it is asked.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, event, exc
from sqlalchemy.engine import URL, make_url

from search.errors import DatabaseError, Stopped, quoted
from storage.schema import APPLICATION_ID, REVISION

BUSY_TIMEOUT_MS = 30_000
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs", "glusterfs"}
EXAMPLE = "give --db sqlite:///FILE.db (relative) or sqlite:////FOLDER/FILE.db (absolute)"


# ------------------------------------------------------------------ opening


def open_for_writing(url: str) -> Engine:
    """An engine whose transactions lock for writing at their begin; a new file gets the schema.

    Raises DatabaseError: unusable URL or file, another program's file, another schema revision.
    """
    path = _sqlite_path(url)
    _require_local(path)
    is_new = not holds_something(url)
    if not is_new:
        open_for_reading(url).dispose()  # before the pragmas of a writer touch another program's file
    engine = sa.create_engine(
        URL.create("sqlite", database=str(path)),
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
    )
    event.listen(engine, "connect", _set_up_writer)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    with translated(path):
        if is_new:
            _create_schema(engine)
    return engine


def holds_something(url: str) -> bool:
    """Whether there is a database with any table; a run that was killed at its very start leaves an empty one.

    Raises DatabaseError for an unusable URL or file.
    """
    path = _sqlite_path(url)
    _require_usable(path)
    if not path.exists() or path.stat().st_size == 0:
        return False
    engine = _reading_engine(path)
    with translated(path), engine.connect() as connection:
        return bool(connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar())


def require_writable(url: str) -> None:
    """Raise DatabaseError unless the file, or the folder that it would be made in, can be written."""
    path = _sqlite_path(url)
    _require_usable(path)
    for place in (path, path.parent):
        if place.exists() and not os.access(place, os.W_OK):
            raise DatabaseError(f"--db {path}: {place} cannot be written to; change its permissions, or {EXAMPLE}")


def open_for_reading(url: str) -> Engine:
    """An engine that cannot write. Raises DatabaseError: no such file, and as ``open_for_writing``."""
    path = _sqlite_path(url)
    _require_usable(path)
    if not path.exists():
        raise DatabaseError(f"--db {path}: no such file; start a search with netsieve run, or {EXAMPLE}")
    engine = _reading_engine(path)
    with translated(path):
        _require_ours(engine, path)
    return engine


def _reading_engine(path: Path) -> Engine:
    """Connections that SQLite opens for reading only.

    They leave the write-ahead log to writers (see ``doctor`` for why), and are closed after each use, so
    that they do not keep it from being emptied. In a folder where the log's index cannot be made, a
    database without a log is read as one that nobody changes.
    """
    query = {"mode": "ro", "uri": "true"}
    log = path.with_name(path.name + "-wal")
    if not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size):
        query["immutable"] = "1"
    engine = sa.create_engine(
        URL.create("sqlite", database=path.absolute().as_uri(), query=query),
        hide_parameters=True,
        poolclass=sa.NullPool,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
    )
    # One snapshot for all that an answer reads: the driver itself would begin no transaction for a SELECT.
    event.listen(engine, "connect", lambda connection, _record: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


@contextmanager
def translated(path: Path | str = "the database") -> Iterator[None]:
    """The one place where SQLAlchemy's errors become netsieve's.

    Not a database, or damaged: DatabaseError. Anything else that the world did to it (disk full,
    locked for too long, read-only, gone): Stopped.
    """
    try:
        yield
    except exc.DBAPIError as error:
        cause = str(error.orig)
        if isinstance(error.orig, sqlite3.DatabaseError) and ("not a database" in cause or "malformed" in cause):
            raise DatabaseError(f"--db {path}: {cause}; is it the right file?") from None
        raise Stopped(f"{path}: {cause}; nothing recorded is lost, netsieve resume goes on") from None


def _set_up_writer(connection: Any, _record: Any) -> None:
    """The driver never begins by itself; the log is safe against kill -9 and power loss (synchronous=FULL)."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


# ------------------------------------------------------------------ URLs and files


def _sqlite_path(url: str) -> Path:
    """The file that a URL names. Raises DatabaseError."""
    try:
        parsed = make_url(url)
        shown = quoted(parsed.render_as_string(hide_password=True).partition("?")[0], limit=200)
        dialect = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):
        what = "it" if "@" in url else quoted(url, limit=200)  # what cannot be parsed may hold a password
        raise DatabaseError(f"--db: {what} is no database URL; {EXAMPLE}") from None
    if dialect in {"postgresql", "postgres"}:
        raise DatabaseError(f"--db {shown}: this version stores searches in SQLite only; {EXAMPLE}")
    if dialect != "sqlite":
        raise DatabaseError(f"--db {shown}: {quoted(dialect)} is not supported; {EXAMPLE}")
    if parsed.host:
        raise DatabaseError(f"--db {shown}: has two slashes; write sqlite:///{parsed.host}{parsed.database or ''}")
    if parsed.query:
        raise DatabaseError(f"--db {shown}: options after '?' are not supported; {EXAMPLE}")
    if not parsed.database or parsed.database == ":memory:":
        raise DatabaseError(f"--db {shown}: a search in memory could not be resumed; {EXAMPLE}")
    return Path(parsed.database)


def _require_usable(path: Path) -> None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise DatabaseError(f"--db {quoted(str(path), 200)}: {error.strerror}; {EXAMPLE}") from None
    if path.is_dir():
        raise DatabaseError(f"--db {path}: is a folder; {EXAMPLE}")
    if not path.parent.is_dir():
        raise DatabaseError(f"--db {path}: folder {path.parent} does not exist; create it, or {EXAMPLE}")


def _require_local(path: Path) -> None:
    """SQLite's log needs memory that its processes share: on a network file system it corrupts (optuna#815)."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():
        return
    found, longest = "", -1
    for line in mounts.read_text().splitlines():
        fields = line.split()
        mount_point, kind = Path(fields[4].replace("\\040", " ")), fields[fields.index("-") + 1]
        if path.absolute().is_relative_to(mount_point) and len(mount_point.parts) >= longest:
            found, longest = kind, len(mount_point.parts)
    if found in NETWORK_FILE_SYSTEMS:
        raise DatabaseError(f"--db {path}: SQLite corrupts on a network file system ({found}); use a local disk")


# ------------------------------------------------------------------ whose schema is it?


def _create_schema(engine: Engine) -> None:
    """Apply every migration to an empty file, in one transaction; a second process waits and finds it done."""
    from alembic import command  # noqa: PLC0415  # half a second, for new databases only
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        if sa.inspect(connection).get_table_names():
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


def _require_ours(engine: Engine, path: Path) -> None:
    with engine.connect() as connection:
        owner = connection.exec_driver_sql("PRAGMA application_id").scalar()
        tables = set(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())
        if owner != APPLICATION_ID:
            what = "is another program's database" if tables else "is empty"
            raise DatabaseError(f"--db {path}: {what}, not netsieve's; {EXAMPLE}")
        if "alembic_version" not in tables:
            raise DatabaseError(f"--db {path}: has no schema revision; is it the right file, and whole?")
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if revision != REVISION:
        raise DatabaseError(
            f"--db {path}: has schema {revision}, this netsieve works with {REVISION}; "
            "use the netsieve that wrote it, or another --db"
        )
