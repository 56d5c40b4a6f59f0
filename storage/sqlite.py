"""SQLite: one file on a local disk, written to by the processes of one machine.

A process has one writing connection, which its threads share. Processes take turns by a lock on a
file beside the database, because SQLite before 3.51.3 can corrupt a write-ahead log to which two
connections write at the same instant (sqlite.org/wal.html, "the WAL-reset bug").
"""

import fcntl
import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL

from search.errors import DatabaseAway, DatabaseError, DatabaseLost, Stopped, quoted
from storage.schema import APPLICATION_ID
from storage.urls import BEGIN, EXAMPLE

BESIDE = ("-wal", "-shm", "-writer")  # files beside the database's: its log, the log's index, and a lock
PATIENCE_S = 10.0  # for another thread or process to end its transaction; a run tries again, and hears signals between
POLL_S = 0.01
WAL_RESET_FIXED = (3, 51, 3)
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs", "glusterfs"}
LOCAL_FUSE = {"fuse.fuseblk", "fuse.fuse-overlayfs"}  # of the file systems named fuse.*, which most often are remote


@dataclass(frozen=True)
class SqliteFile:
    """A database file."""

    path: Path  # as it was typed
    shown: str  # the URL, for messages

    @classmethod
    def of(cls, url: URL, shown: str) -> "SqliteFile":
        """The file that a URL names. Raises DatabaseError."""
        if url.host:
            raise DatabaseError(f"--db {shown}: has two slashes; write sqlite:///{url.host}{url.database or ''}")
        if url.query:
            raise DatabaseError(f"--db {shown}: options after '?' are not supported for SQLite; {EXAMPLE}")
        if not url.database or url.database == ":memory:":
            raise DatabaseError(f"--db {shown}: a search in memory could not be resumed; {EXAMPLE}")
        return cls(Path(url.database), shown)

    @property
    def name(self) -> str:
        """For messages: the file."""
        return str(self.path)

    def identity(self) -> tuple[object, ...]:
        """Of the file, where there is one: links lead to the same."""
        self._require_usable()
        if not self.path.exists():
            return ("no file", self.path.resolve())
        found = self.path.stat()
        return ("file", found.st_dev, found.st_ino)

    def exists(self) -> bool:
        """Whether there is a file with anything in it. Raises DatabaseError for what cannot be a file."""
        self._require_usable()
        return self.path.exists() and self.path.stat().st_size > 0

    def made_by_opening(self) -> list[Path]:
        """The file and what lies beside it, if there is none yet."""
        self._require_usable()
        path = self.path.resolve()
        return [] if path.exists() else [path, *(path.with_name(path.name + end) for end in BESIDE)]

    def require_readable(self) -> None:
        """Raise DatabaseError unless there is a file."""
        self._require_usable()
        if not self.path.exists():
            raise DatabaseError(f"--db {self.path}: no such file; {BEGIN}, or {EXAMPLE}")

    def require_writable(self) -> None:
        """Raise DatabaseError unless the file, or the folder that it would be made in, can be written safely."""
        self._require_usable()
        _require_local(self.path)
        for place in (self.path, self.path.parent):
            if place.exists() and not os.access(place, os.W_OK):
                raise DatabaseError(
                    f"--db {self.path}: {place} cannot be written to; change its permissions, or {EXAMPLE}"
                )

    def _require_usable(self) -> None:
        path = self.path
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

    def reader(self) -> Engine:
        """Connections that SQLite opens for reading only.

        They leave the write-ahead log to writers (see ``doctor`` for why), and are closed after each use, so
        that they do not keep it from being emptied. In a folder where the log's index cannot be made, a
        database without a log is read as one that nobody changes.
        """
        path = self.path.resolve()
        query = {"mode": "ro", "uri": "true"}
        log = path.with_name(path.name + "-wal")
        if not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size):
            query["immutable"] = "1"
        engine = sa.create_engine(
            URL.create("sqlite", database=path.as_uri(), query=query),
            hide_parameters=True,
            poolclass=sa.NullPool,
            connect_args={"timeout": PATIENCE_S},
        )
        # One snapshot for all that an answer reads: the driver itself would begin no transaction for a SELECT.
        event.listen(engine, "connect", lambda connection, _record: _only_read(connection))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        return engine

    def writer(self) -> Engine:
        """The process's one connection that writes; its transactions lock at their begin.

        The file is made here, and never again: where it is gone later, a transaction raises DatabaseLost.
        """
        path = self.path.resolve()
        try:
            path.touch()
            opened = path.stat()
        except OSError as error:
            raise DatabaseError(f"--db {self.path}: {error.strerror}; {EXAMPLE}") from None
        turn = _Turn(path)

        def connect() -> _Writer:
            _require_same(path, opened)
            return _Writer.open(path, turn)

        def begin(connection: Connection) -> None:
            _require_same(path, opened)
            turn.take()
            try:
                _require_same(path, opened, at_least=1)
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except BaseException:
                turn.give_back()
                raise

        engine = sa.create_engine(
            URL.create("sqlite", database=str(self.path)),
            creator=connect,
            hide_parameters=True,
            poolclass=sa.QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_timeout=PATIENCE_S,
        )
        event.listen(engine, "begin", begin)
        return engine

    def lock_schema(self, connection: Connection) -> None:
        """A writer's transaction has locked the file at its begin."""

    def is_ours(self, connection: Connection) -> bool:
        """Whether netsieve made the file, going by its mark."""
        return bool(connection.exec_driver_sql("PRAGMA application_id").scalar() == APPLICATION_ID)

    def mark(self, connection: Connection) -> None:
        """Mark the file as netsieve's."""
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


def _only_read(connection: sqlite3.Connection) -> None:
    """Begin no transaction for us; write nothing, temporary tables included, nor to a file beside (ATTACH, VACUUM)."""
    connection.isolation_level = None
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.execute("PRAGMA query_only = ON")


# ------------------------------------------------------------------ taking turns


class _Turn:
    """The right to write, which processes hand to each other; SQLite itself suffices from WAL_RESET_FIXED on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_file: int | None = None  # the descriptor, while it is our turn

    def take(self) -> None:
        """Wait for our turn. Raises DatabaseAway when it does not come in PATIENCE_S."""
        if sqlite3.sqlite_version_info >= WAL_RESET_FIXED or self._lock_file is not None:
            return
        try:
            lock_file = os.open(f"{self._path}-writer", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise Stopped(f"{self._path}-writer: {error.strerror}; mend it, then netsieve resume goes on") from None
        try:
            self._wait_for(lock_file)
        except BaseException:
            os.close(lock_file)
            raise
        self._lock_file = lock_file

    def _wait_for(self, lock_file: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DatabaseAway(
                        f"{self._path}: locked by another process for {PATIENCE_S:g} s; "
                        "let it end, then netsieve resume goes on"
                    ) from None
            time.sleep(POLL_S)

    def give_back(self) -> None:
        """End our turn, if it is ours."""
        if self._lock_file is not None:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)  # closing alone would leave it to a forked child
            os.close(self._lock_file)
            self._lock_file = None


class _Writer(sqlite3.Connection):
    """A connection whose transactions end our turn, however they end."""

    turn: _Turn

    @classmethod
    def open(cls, path: Path, turn: _Turn) -> "_Writer":
        """A connection to an existing file; its log is safe against kill -9 and power loss (synchronous=FULL).

        The driver never begins a transaction by itself, and lets any thread use the connection: the pool
        lends it to one at a time.
        """
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=rw",
            uri=True,
            timeout=PATIENCE_S,
            isolation_level=None,
            check_same_thread=False,
            factory=cls,
        )
        connection.turn = turn
        try:
            connection.use_log()
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def use_log(self) -> None:
        """Give the file a write-ahead log; here SQLite itself does not wait for a process that does the same."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            else:
                return
            time.sleep(POLL_S)

    def commit(self) -> None:
        """Commit, and end our turn; a commit that failed is followed by a rollback."""
        super().commit()
        self.turn.give_back()

    def rollback(self) -> None:
        """Roll back, and end our turn."""
        try:
            super().rollback()
        finally:
            self.turn.give_back()

    def close(self) -> None:
        """Close, and end our turn. SQLite empties the log then, if nobody else has the file open."""
        try:
            super().close()
        finally:
            self.turn.give_back()


# ------------------------------------------------------------------ the file


def _require_same(path: Path, opened: os.stat_result, at_least: int = 0) -> None:
    """Raise DatabaseLost when the file is not the one that was opened, or has less than ``at_least`` bytes.

    Without a look, SQLite would go on in the deleted file, or fill an emptied one with what it remembers.
    """
    with suppress(OSError):
        found = path.stat()
        if os.path.samestat(found, opened) and found.st_size >= at_least:
            return
    raise DatabaseLost(
        f"{path}: the file was deleted, replaced or emptied while netsieve used it; "
        "put it back, then netsieve resume goes on with what it holds"
    )


def _require_local(path: Path) -> None:
    """SQLite's log needs memory that its processes share: on a network file system it corrupts (optuna#815)."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():
        return
    real = path.resolve()
    found, longest = "", -1
    for line in mounts.read_text().splitlines():
        fields = line.split()
        mount_point, kind = Path(fields[4].replace("\\040", " ")), fields[fields.index("-") + 1]
        if real.is_relative_to(mount_point) and len(mount_point.parts) >= longest:
            found, longest = kind, len(mount_point.parts)
    if found in NETWORK_FILE_SYSTEMS or (found.startswith("fuse.") and found not in LOCAL_FUSE):
        raise DatabaseError(f"--db {path}: SQLite corrupts on a network file system ({found}); use a local disk")
