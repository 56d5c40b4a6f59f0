"""A search that is carried to another database is the same there: every row of every table, both ways."""

import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from search.cli.maintain import _check_search
from search.errors import SettingsError, Stopped
from search.samplers import RejectionSampler
from search.sieve import judge_with
from search.space import CLASSIC
from storage import queries, transfer
from storage.engine import is_same, open_for_reading, open_for_writing
from storage.schema import attempt, candidate, coordinator, lease, listed, metadata, search
from storage.store import SqlStore
from tests.filled import SETTINGS, fill

MOMENT = datetime(2026, 3, 29, 1, 59, 59, 999_999, tzinfo=UTC)
ODD = "naïve → 網 \U0001f600\t\\N \\. 'single' \"double\" %s :name {} \x1b[31m\r\nend"
DOUBLES = {
    "train_loss": 0.1 + 0.2,
    "val_loss": 5e-324,
    "test_loss": 1.7976931348623157e308,
    "test_accuracy": 1 / 3,
    "seconds": 1e-7,
}
DEAD = {"host": "elsewhere", "boot_id": "", "pid": 4_194_305, "pid_started": 2**40, "seen_at": MOMENT}

Urls = Callable[[str], str]
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Urls:
    """A new, empty database of a kind."""
    numbers = iter(range(100))

    def url(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / f'{next(numbers)}.db'}"
        return str(request.getfixturevalue("postgres_server").new_database())

    return url


@pytest.fixture(params=["sqlite to sqlite", "sqlite to postgres", "postgres to sqlite"])
def ends(request: pytest.FixtureRequest, new_url: Urls) -> tuple[str, str]:
    """Two databases: the source has a search with rows in every table, and other searches; so has the target."""
    source, target = map(new_url, request.param.split(" to "))
    with engine_of(source) as engine:
        fill(engine, "before", draws=9)
        make_odd(engine, fill(engine, "filled", draws=300))
        fill(engine, "after", draws=9)
    with engine_of(target) as engine:
        for name in ("one", "two", "three"):
            fill(engine, name, draws=9)
    return source, target


class engine_of:  # noqa: N801  # read as a function
    """A writer of a database, closed at the end."""

    def __init__(self, url: str) -> None:
        self.engine = open_for_writing(url)

    def __enter__(self) -> Engine:
        return self.engine

    def __exit__(self, *_: object) -> None:
        self.engine.dispose()


def make_odd(engine: Engine, search_id: int) -> None:
    """Give a search values that are easily lost, a listed string, and a coordinator that died with a lease."""
    with engine.begin() as connection:
        of_search = candidate.c.search_id == search_id
        settings = connection.scalar(sa.select(search.c.settings).where(search.c.id == search_id))
        changed = {**settings, "dataset": "/data/naïve 網.npz"}  # type: ignore[dict-item]
        connection.execute(
            search.update().where(search.c.id == search_id).values(settings=changed, created_at=MOMENT, claims=2**40)
        )
        done = connection.scalars(
            sa.select(candidate.c.draw_index).where(of_search, candidate.c.status == "completed").limit(2)
        ).all()
        curve = [[0.1 + 0.2, 1e-300, 1 / 3], [1, 2.0, 0.5]]
        odd = {**DOUBLES, "detail": ODD, "macs": 2**62, "curve": curve}
        connection.execute(candidate.update().where(of_search, candidate.c.draw_index == done[0]).values(odd))
        still_open = connection.scalars(
            sa.select(candidate.c.draw_index).where(of_search, candidate.c.status == "open")
        ).all()[-1]
        row = connection.execute(
            coordinator.insert().values(search_id=search_id, started_at=MOMENT, stop_asked=True, **DEAD)
        )
        assert row.inserted_primary_key
        dead = row.inserted_primary_key[0]
        held = {"search_id": search_id, "epoch": 2**33, "coordinator_id": dead}
        connection.execute(
            lease.insert().values(**held, first_index=still_open, stop_index=still_open + 1, expires_at=MOMENT)
        )
        connection.execute(
            attempt.insert().values(
                **held, draw_index=still_open, number=1, isolated=True, started=True, dispatched_at=MOMENT
            )
        )
        connection.execute(listed.insert().values(search_id=search_id, draw_index=0, layers="dropout=p:0.2-"))


def rows_of(url: str, name: str) -> Rows:
    """Every row of a search as Python values, by table; numbers that the database gave are counted from 0."""
    with engine_of(url) as engine, engine.connect() as connection:
        search_id = queries.require(connection, name).id
        found: Rows = {}
        for table in metadata.sorted_tables:
            mine = table.c.id == search_id if table is search else table.c.search_id == search_id
            query = sa.select(table).where(mine).order_by(*table.primary_key)
            found[table.name] = [dict(row) for row in connection.execute(query).mappings()]
    order = {row["id"]: number for number, row in enumerate(found["coordinator"])}
    for rows in found.values():
        for row in rows:
            row.update({key: order[row[key]] for key in ("coordinator_id",) if key in row})
            row.update(dict.fromkeys({"id", "search_id"} & row.keys(), 0))
            row.update({key: value.astimezone(UTC) for key, value in row.items() if isinstance(value, datetime)})
    return found


def copy(source: str, target: str, name: str = "filled", new_name: str | None = None) -> dict[str, int]:
    with open_for_reading(source).connect() as connection, engine_of(target) as engine:
        search_id = queries.require(connection, name).id
        rows = transfer.row_counts(connection, search_id)
        return transfer.copy_search(connection, search_id, engine, new_name or name, rows, lambda _rows: None)


def exactly(rows: Rows) -> str:
    """Rows as text that tells 1 from 1.0, and two doubles that differ in their last bit."""
    return repr(rows)


# ------------------------------------------------------------------ nothing is changed


def test_every_row_of_every_table_is_the_same(ends: tuple[str, str]) -> None:
    """After renumbering, as Python values to the last bit; the source is as it was, and both sides are counted."""
    before = rows_of(ends[0], "filled")
    assert all(before.values()), "a table without a row: fill it here, or its copy is not tested"
    counts = copy(*ends)
    assert counts == {table: len(rows) for table, rows in before.items()}
    assert exactly(rows_of(ends[1], "filled")) == exactly(before)
    assert exactly(rows_of(ends[0], "filled")) == exactly(before)


def test_there_and_back_again_is_the_same(ends: tuple[str, str]) -> None:
    """Also under another name; others of the target are not touched."""
    before, others = rows_of(ends[0], "filled"), rows_of(ends[1], "two")
    copy(*ends)
    copy(ends[1], ends[0], new_name="again")
    after = rows_of(ends[0], "again")
    assert after["search"][0].pop("name") == "again"
    before["search"][0].pop("name")
    assert exactly(after) == exactly(before)
    assert exactly(rows_of(ends[1], "two")) == exactly(others)


def test_every_table_can_be_copied() -> None:
    """A table that is added refers to its search, and only searches and coordinators are numbered by the database."""
    numbered = {table.name for table in metadata.sorted_tables if table.autoincrement_column is not None}
    assert numbered == {"search", "coordinator"}
    for table in metadata.sorted_tables:
        assert table is search or ("search_id", "search") in transfer._references(table), table.name


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_chunks_lose_and_repeat_nothing(beyond: int, new_url: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the last chunk is full, one short, or one row long; what is told adds up."""
    source, target = new_url("sqlite"), new_url("sqlite")
    with engine_of(source) as engine:
        fill(engine)
    before = rows_of(source, "filled")
    monkeypatch.setattr(transfer, "CHUNK", (len(before["candidate"]) + beyond) // 3 or 1)
    told = list[int]()
    with open_for_reading(source).connect() as connection, engine_of(target) as engine:
        transfer.copy_search(connection, 1, engine, "filled", transfer.row_counts(connection, 1), told.append)
    assert exactly(rows_of(target, "filled")) == exactly(before)
    assert sum(told) == sum(map(len, before.values()))
    assert max(told) <= transfer.CHUNK


def test_the_copy_is_sound_and_goes_on(ends: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Db check finds nothing; the next search and coordinator get numbers that nobody has; what is open is claimed."""
    with engine_of(ends[0]) as engine:
        fill(engine, "plain")
    copy(*ends, name="plain")
    with engine_of(ends[1]) as engine:
        with engine.connect() as connection:
            assert _check_search(connection, queries.require(connection, "plain")) == []
        store = SqlStore.open(engine, "plain", SETTINGS, 700)
        store.join()
        assert store.extend(700, judge_with(RejectionSampler(CLASSIC, 7), CLASSIC.rules)) == 0
        assert len(store.claim(5, ()).tasks) == 5
        fill(engine, "next", draws=9)
        with engine.connect() as connection:
            assert queries.names(connection) == ["one", "two", "three", "plain", "next"]
    assert "sound; 600 drawn" in capsys.readouterr().out


# ------------------------------------------------------------------ all or nothing

KILLED = """
import os, signal, sys
from storage import transfer
from storage.engine import open_for_reading, open_for_writing
transfer.CHUNK = 50
told = []
def copied(rows):
    told.append(rows)
    if sum(told) > 150:
        os.kill(os.getpid(), signal.SIGKILL)
with open_for_reading(sys.argv[1]).connect() as source:
    rows = transfer.row_counts(source, 2)
    transfer.copy_search(source, 2, open_for_writing(sys.argv[2]), "filled", rows, copied)
"""


def test_a_kill_in_the_middle_leaves_nothing(ends: tuple[str, str]) -> None:
    """Kill -9 between two chunks: no row of it is in the target, and a second try succeeds."""
    before = {table.name: total(ends[1], table) for table in metadata.sorted_tables}
    process = subprocess.run([sys.executable, "-c", KILLED, *ends], check=False, cwd=Path(__file__).parents[2])
    assert process.returncode == -signal.SIGKILL
    assert {table.name: total(ends[1], table) for table in metadata.sorted_tables} == before
    copy(*ends)
    assert exactly(rows_of(ends[1], "filled")) == exactly(rows_of(ends[0], "filled"))


def total(url: str, table: sa.Table) -> int:
    with engine_of(url) as engine, engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_rows_that_get_lost_end_the_copy(ends: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the target would hold fewer rows, it is left as it was."""
    whole = transfer._chunks
    monkeypatch.setattr(
        transfer, "_chunks", lambda *of: (rows[1:] if of[1] is candidate else rows for rows in whole(*of))
    )
    with pytest.raises(Stopped, match="hold 292 of 293 rows of candidate; nothing was copied"):
        copy(*ends)
    with engine_of(ends[1]) as engine, engine.connect() as connection:
        assert queries.find(connection, "filled") is None


def test_a_name_that_is_taken_is_refused(ends: tuple[str, str]) -> None:
    """It says whether that is the same search, how it stands, and what can be done; nothing is written."""
    copy(*ends)
    with pytest.raises(
        SettingsError, match=r"a search filled already, with the same settings: 300 of 300 drawn, .*--as"
    ):
        copy(*ends)
    with pytest.raises(SettingsError, match="a search two already, with other settings: 9 of 9 drawn"):
        copy(*ends, new_name="two")
    assert total(ends[1], search) == 4


# ------------------------------------------------------------------ one and the same database


def test_one_database_has_many_urls(new_url: Urls, tmp_path: Path) -> None:
    """A link, another way to write the path, and options of the URL do not make it another one."""
    path = tmp_path / "real.db"
    path.touch()
    (tmp_path / "link.db").symlink_to(path)
    assert is_same(f"sqlite:///{path}", f"sqlite:///{tmp_path}/../{tmp_path.name}/link.db")
    assert not is_same(f"sqlite:///{path}", f"sqlite:///{tmp_path / 'other.db'}")
    one, other = new_url("postgres"), new_url("postgres")
    assert is_same(one, f"{one}&application_name=another")
    assert not is_same(one, other)
    assert not is_same(one, f"{one}&options=-csearch_path%3Dpg_catalog")
    assert not is_same(one, f"sqlite:///{path}")


@pytest.fixture
def in_one(database_url: str) -> str:
    """A database of each kind with one search."""
    with engine_of(database_url) as engine:
        fill(engine)
    return database_url


def test_a_copy_stands_beside_its_original(in_one: str) -> None:
    """Within one database, under another name."""
    copy(in_one, in_one, new_name="beside")
    one, other = rows_of(in_one, "filled"), rows_of(in_one, "beside")
    assert (one["search"][0].pop("name"), other["search"][0].pop("name")) == ("filled", "beside")
    assert exactly(one) == exactly(other)
