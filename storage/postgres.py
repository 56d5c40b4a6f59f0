"""Postgres, through psycopg 3: any number of machines may write to it.

Limits are set in each transaction, not in the session, so that a pool between us and the server
(PgBouncer in transaction mode) does no harm; for it, statements are not prepared either.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event, exc
from sqlalchemy.engine import URL

from search.errors import DatabaseError
from storage.urls import EXAMPLE

OWNER = "netsieve"  # the comment on alembic_version that marks a database as ours
LOCK = 0x6E657473  # "nets": the advisory lock under which the schema is changed
SESSION: dict[str, Any] = {  # a dead server or network is noticed within about a minute
    "connect_timeout": 10,  # seconds
    "keepalives": 1,
    "keepalives_idle": 30,  # seconds
    "keepalives_interval": 10,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
    "application_name": "netsieve",
    "client_encoding": "utf8",  # also of a database of bytes (SQL_ASCII), of whose text psycopg would make bytes
    "prepare_threshold": None,
}
logging.getLogger("psycopg").setLevel(logging.ERROR)  # its warnings are of what a lost connection cuts off
READER_LIMITS = {"lock_timeout": "30s"}
# A coordinator that is stopped in the middle of drawing keeps others from drawing and claiming no longer than this.
WRITER_LIMITS = {"lock_timeout": "10s", "statement_timeout": "10min", "idle_in_transaction_session_timeout": "20s"}


@dataclass(frozen=True)
class PostgresDatabase:
    """A database of a Postgres server."""

    url: URL  # with the driver, psycopg
    shown: str  # the URL, for messages

    @classmethod
    def of(cls, url: URL, shown: str) -> "PostgresDatabase":
        """The database that a URL names. Raises DatabaseError for another driver than psycopg."""
        if url.drivername not in {"postgresql", "postgresql+psycopg"}:
            raise DatabaseError(f"--db {shown}: the driver is psycopg 3; write postgresql://; {EXAMPLE}")
        return cls(url.set(drivername="postgresql+psycopg"), shown)

    @property
    def name(self) -> str:
        """For messages: the URL."""
        return self.shown

    def identity(self) -> tuple[object, ...]:
        """Of the server, which was started at a microsecond of its own; the database; the schema in it."""
        query = "SELECT pg_postmaster_start_time(), current_database(), current_schema()"
        with self._engine(poolclass=sa.NullPool).connect() as connection:
            return tuple(connection.exec_driver_sql(query).one())

    def exists(self) -> bool:
        """A server says so itself, when it is asked for anything."""
        return True

    def made_by_opening(self) -> list[Path]:
        """Nothing: a server's files are its own."""
        return []

    def require_readable(self) -> None:
        """A server says so itself, when it is asked for anything."""

    def require_writable(self) -> None:
        """Raise DatabaseError if the server takes no writes: a standby, or one set to read only."""
        engine = self._engine(poolclass=sa.NullPool)
        with engine.connect() as connection:
            only_reads = connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on"
        if only_reads:
            raise DatabaseError(
                f"--db {self.name}: the server only reads (is it a standby?); "
                "give the primary's address, or end default_transaction_read_only"
            )

    def reader(self) -> Engine:
        """Connections that see one snapshot for all that an answer reads, and that the server lets write nothing."""
        engine = self._engine(
            poolclass=sa.NullPool,
            isolation_level="REPEATABLE READ",
            execution_options={"postgresql_readonly": True},
        )
        _limit_transactions(engine, READER_LIMITS)
        return engine

    def writer(self) -> Engine:
        """Connections that wait for others' locks and for the server, but not for ever."""
        engine = self._engine(pool_pre_ping=True, isolation_level="READ COMMITTED")
        _limit_transactions(engine, WRITER_LIMITS)
        return engine

    def _engine(self, **options: Any) -> Engine:
        """An engine. Raises DatabaseError for options after '?' of the wrong type, and without psycopg."""
        session = {key: value for key, value in SESSION.items() if key not in self.url.query}
        try:
            return sa.create_engine(self.url, hide_parameters=True, connect_args=session, **options)
        except ImportError as error:
            raise DatabaseError(f"--db {self.name}: {error}; pip install 'psycopg[binary]'") from None
        except (exc.ArgumentError, ValueError):
            raise DatabaseError(f"--db {self.name}: options after '?' are malformed; {EXAMPLE}") from None

    def lock_schema(self, connection: Connection) -> None:
        """Wait for another process that changes the schema; until the transaction ends, others wait for us."""
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))

    def is_ours(self, connection: Connection) -> bool:
        """Whether netsieve made its tables, going by its mark."""
        inspector = sa.inspect(connection)
        return (
            inspector.has_table("alembic_version") and inspector.get_table_comment("alembic_version")["text"] == OWNER
        )

    def mark(self, connection: Connection) -> None:
        """Mark the database as netsieve's."""
        connection.exec_driver_sql(f"COMMENT ON TABLE alembic_version IS '{OWNER}'")


def _limit_transactions(engine: Engine, limits: dict[str, str]) -> None:
    """Set limits in every transaction, in one statement."""
    settings = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in limits.items())
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(f"SELECT {settings}"))
