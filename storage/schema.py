"""The tables: one row a search, one row a distinct architecture of it, and tallies.

    search ──< candidate     what was drawn, and how it ended
           ──< tally         how many candidates there are by status, reason and layer
           ──< coordinator   the runs of it: who is, or was, at work
           ──< lease         which open candidates a coordinator holds, until when
           ──< attempt       what is in flight, and what went wrong
           ──< listed        the strings of a search that was given a list

Rows are the only truth: what is missing from a search is the indices not yet drawn, and the
candidates still open. Terminal candidates never change, but by ``resume --retry``. Every change of
a table is a revision under
``migrations/versions``; a test compares the two.
"""

import hashlib
from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)

from search.candidates import Status

REVISION = "0004"  # what this version reads and writes; the newest file of migrations/versions
APPLICATION_ID = 0x6E657473  # "nets": marks an SQLite file as netsieve's (PRAGMA application_id)

NO_LAYER = -1  # in a tally: the candidates have no failing layer


def architecture_digest(layers: str) -> bytes:
    """16 bytes of the SHA-256 of a canonical layer string: equal for equal architectures only."""
    return hashlib.sha256(layers.encode()).digest()[:16]


metadata = MetaData(
    naming_convention={  # names that migrations can refer to on every database
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class Moment(TypeDecorator[datetime]):
    """A point in time, in UTC, also where the database (SQLite) forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From UTC."""
        return value.replace(tzinfo=value.tzinfo or UTC) if value else None


search = Table(
    "search",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("settings", JSON, nullable=False),  # search.settings.SearchSettings: what makes it this search
    Column("target", BigInteger, nullable=False),  # candidates to draw; may only grow
    Column("drawn", BigInteger, nullable=False),  # candidates drawn: indices 0 to drawn - 1
    Column("created_at", Moment, nullable=False),
    Column("netsieve_version", String(32), nullable=False),  # that created it
    Column("claims", BigInteger, nullable=False, server_default=text("0")),  # leases given so far: the last epoch
)

candidate = Table(
    "candidate",
    metadata,
    Column("search_id", ForeignKey("search.id"), primary_key=True),
    Column("draw_index", BigInteger, primary_key=True, autoincrement=False),  # where it was first drawn
    Column("digest", LargeBinary(16), nullable=False),  # architecture_digest of its layers: what makes it distinct
    Column("layers", Text, nullable=False),  # canonical layer string
    Column("status", String(16), nullable=False),  # search.candidates.Status
    Column("reason", String(32)),  # of a rejection or failure
    Column("layer", Integer),  # of a rejection: the failing layer, counted from 0; NULL: over budget
    Column("detail", Text),  # of a rejection or failure: one line
    Column("parameters", BigInteger),  # NULL when rejected
    Column("macs", BigInteger),  # multiply-adds per image; NULL when rejected
    Column("train_loss", Double),  # of the last finished epoch, and so on
    Column("val_loss", Double),
    Column("val_accuracy", Double),  # 0 to 1
    Column("epochs", Integer, nullable=False),  # finished
    Column("curve", JSON(none_as_null=True)),  # [[train_loss, val_loss, val_accuracy], ...], an entry an epoch
    Column("seconds", Double),  # in training
    Column("attempts", Integer, nullable=False),  # trainings that were seen to begin
    Column("test_loss", Double),  # on the dataset's test images after the last epoch, where the search asks for it
    Column("test_accuracy", Double),  # 0 to 1
    Column("ended_at", Moment),  # when it was recorded that it completed or failed; NULL before schema 0003
    UniqueConstraint("search_id", "digest"),
    CheckConstraint("status IN ('rejected', 'open', 'completed', 'failed')", name="status"),
    CheckConstraint("(status IN ('rejected', 'failed')) = (reason IS NOT NULL)", name="reason"),
    CheckConstraint("status <> 'completed' OR val_accuracy IS NOT NULL", name="measured"),
)

# Open candidates in the order in which they are dispatched; the index holds only those.
_open = candidate.c.status == text(f"'{Status.OPEN}'")
Index("ix_candidate_open", candidate.c.search_id, candidate.c.draw_index, sqlite_where=_open, postgresql_where=_open)

# The ranking: accuracy after the last epoch, then loss, then index; the index holds only the completed.
_completed = candidate.c.status == text(f"'{Status.COMPLETED}'")
Index(
    "ix_candidate_ranking",
    candidate.c.search_id,
    candidate.c.val_accuracy.desc(),
    candidate.c.val_loss,
    candidate.c.draw_index,
    sqlite_where=_completed,
    postgresql_where=_completed,
)

# Orders that people ask for, so that the first page of millions comes at once, from either end. An index holds only
# the rows that have a value, the valid ones (about an eighth of a classic search): drawing a rejection costs nothing.
SORTED_BY_INDEX = ("val_accuracy", "val_loss", "parameters", "macs", "seconds")
for _name in SORTED_BY_INDEX:
    _measured = candidate.c[_name].is_not(None)
    Index(
        f"ix_candidate_{_name}",
        candidate.c.search_id,
        candidate.c[_name],
        candidate.c.draw_index,
        sqlite_where=_measured,
        postgresql_where=_measured,
    )

# Kept in the transaction that changes a candidate, so that no question counts rows.
tally = Table(
    "tally",
    metadata,
    Column("search_id", ForeignKey("search.id"), primary_key=True),
    Column("status", String(16), primary_key=True),
    Column("reason", String(32), primary_key=True),  # '' where a candidate has none
    Column("layer", Integer, primary_key=True, autoincrement=False),  # NO_LAYER where a candidate has none
    Column("candidates", BigInteger, nullable=False),
    Column("first_index", BigInteger),  # of a rejection or failure: the first candidate of them, as an example
)

# The strings of a search that was given a list, as they were typed in it: what its sampler draws from.
listed = Table(
    "listed",
    metadata,
    Column("search_id", ForeignKey("search.id"), primary_key=True),
    Column("draw_index", BigInteger, primary_key=True, autoincrement=False),
    Column("layers", Text, nullable=False),  # canonical layer string
)

coordinator = Table(
    "coordinator",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("search_id", ForeignKey("search.id"), nullable=False, index=True),
    Column("host", String(255), nullable=False),
    Column("boot_id", String(64), nullable=False),  # tells a process of before a restart from one of now
    Column("pid", Integer, nullable=False),
    Column("pid_started", BigInteger, nullable=False),  # clock ticks since boot; tells a reused pid; 0: unknown
    Column("started_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),  # its last sign of life
    Column("ended_at", Moment),  # NULL: at work, or killed
    Column("ending", Text),  # why it ended before the search was finished; NULL: finished, or killed
    Column("versions", JSON(none_as_null=True)),  # of what results depend on, by name; NULL before schema 0003
    Column("stop_asked", Boolean, nullable=False, server_default=false()),  # netsieve stop
    Column("worker_s", Double),  # seconds since they were ready, summed over its workers; NULL before schema 0004
    Column("training_s", Double),  # of these, in training
)

# The open candidates from first_index to before stop_index are one coordinator's, until the lease expires and
# another one takes them over under a new epoch. What is written under an epoch counts only while its lease is there.
lease = Table(
    "lease",
    metadata,
    Column("search_id", ForeignKey("search.id"), primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),  # grows with every claim of the search
    Column("coordinator_id", ForeignKey("coordinator.id"), nullable=False, index=True),
    Column("first_index", BigInteger, nullable=False),
    Column("stop_index", BigInteger, nullable=False),
    Column("expires_at", Moment, nullable=False),  # by the database's clock
    CheckConstraint("first_index < stop_index", name="range"),
)

# Written before a candidate is dispatched, and deleted when it completes: what is left is in flight, or went wrong.
attempt = Table(
    "attempt",
    metadata,
    Column("search_id", ForeignKey("search.id"), primary_key=True),
    Column("draw_index", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),  # of the candidate's attempts, from 1
    Column("epoch", BigInteger, nullable=False),  # of the lease under which it was dispatched
    Column("coordinator_id", ForeignKey("coordinator.id"), nullable=False, index=True),  # so that one can be deleted
    Column("isolated", Boolean, nullable=False),  # nothing else was in flight at its coordinator
    Column("started", Boolean, nullable=False, server_default=false()),  # of an isolated one: its start was recorded
    Column("dispatched_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("ending", String(32)),  # FailureReason or Interruption; NULL: in flight
    Column("detail", Text),
    Column("forgiven", Boolean, nullable=False, server_default=false()),  # by resume --retry: not charged any more
)

# What went wrong last, for who watches; the index holds nothing that is in flight.
_ended = attempt.c.ending.is_not(None)
Index("ix_attempt_ended", attempt.c.search_id, attempt.c.ended_at, sqlite_where=_ended, postgresql_where=_ended)

_in_flight = attempt.c.ending.is_(None)
Index(
    "ix_attempt_in_flight",
    attempt.c.search_id,
    attempt.c.epoch,
    sqlite_where=_in_flight,
    postgresql_where=_in_flight,
)
