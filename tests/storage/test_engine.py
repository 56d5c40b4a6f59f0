"""Opening databases: ours, empty ones, and everything that is not a database of ours."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from search.errors import DatabaseError, Stopped
from storage import engine as engine_module
from storage.engine import holds_something, open_for_reading, open_for_writing, translated
from storage.schema import REVISION, metadata

MIGRATIONS = Path(engine_module.__file__).parent / "migrations"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def test_a_new_file_gets_the_schema(tmp_path: Path) -> None:
    """The migrations give exactly the tables that schema.py describes."""
    engine = open_for_writing(url_of(tmp_path / "new.db"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        created = set(sa.inspect(connection).get_table_names())
    assert created == {*metadata.tables, "alembic_version"}
    engine.dispose()


def test_indexes_and_checks_are_those_of_the_schema(tmp_path: Path) -> None:
    """What comparing misses, partial indexes and check constraints, is held against create_all."""

    def objects(engine: sa.Engine) -> dict[str, str]:
        with engine.connect() as connection:
            rows = connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
            return {row.name: " ".join(sorted(row.sql.replace(",", " ").replace("\n", " ").split())) for row in rows}

    migrated = open_for_writing(url_of(tmp_path / "migrated.db"))
    created = sa.create_engine(url_of(tmp_path / "created.db"))
    metadata.create_all(created)
    found, expected = objects(migrated), objects(created)
    del found["alembic_version"]
    assert found == expected
    migrated.dispose()
    created.dispose()


def test_the_revision_in_the_code_is_the_newest_migration() -> None:
    """Readers compare with a constant, because importing Alembic takes half a second."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


def test_a_failed_migration_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema comes whole or not at all, and the next try succeeds."""
    path = tmp_path / "new.db"
    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", lambda *_args, **_options: (_ for _ in ()).throw(OSError("power")))
        with pytest.raises(OSError, match="power"):
            open_for_writing(url_of(path))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()
    open_for_writing(url_of(path)).dispose()


def test_writers_are_safe_against_power_loss(tmp_path: Path) -> None:
    """Write-ahead log, full synchronisation, foreign keys."""
    engine = open_for_writing(url_of(tmp_path / "new.db"))
    with engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "is no database URL"),
        ("results.db", "is no database URL"),
        ("postgres://u:secret@h/d", "SQLite only"),
        ("postgresql+psycopg://u:secret@h:5432/d", "SQLite only"),
        ("postgresql://u:secret@h:port/d", "is no database URL"),
        ("mysql://u:secret@h/d", "'mysql' is not supported"),
        ("sqlite://rel.db", "two slashes; write sqlite:///rel.db"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///x.db?mode=ro", "options after '?'"),
        ("sqlite:///no/such/folder/x.db", "folder no/such/folder does not exist"),
    ],
)
def test_unusable_urls_are_refused(url: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fix, without a password, and without a file being made."""
    monkeypatch.chdir(tmp_path)
    for opening in (open_for_writing, open_for_reading, holds_something):
        with pytest.raises(DatabaseError, match="--db") as error:
            opening(url)
        assert complaint in str(error.value)
        assert "secret" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_refused_unchanged(tmp_path: Path) -> None:
    """A folder, a text, another program's database, one that is cut off."""
    ours = tmp_path / "ours.db"
    open_for_writing(url_of(ours)).dispose()
    text, foreign, cut = tmp_path / "notes.db", tmp_path / "foreign.db", tmp_path / "cut.db"
    text.write_text("these are notes, not a database\n" * 100)
    cut.write_bytes(ours.read_bytes()[:5000])
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE trial (id INTEGER)")
    connection.close()
    for path in (tmp_path, text, foreign, cut):
        before = path.read_bytes() if path.is_file() else None
        for opening in (open_for_writing, open_for_reading):
            with pytest.raises(DatabaseError, match=f"--db {path}"):
                opening(url_of(path))
        assert (path.read_bytes() if path.is_file() else None) == before


def test_another_revision_is_refused_with_both(tmp_path: Path) -> None:
    """A database of a newer netsieve is left alone."""
    path = tmp_path / "newer.db"
    engine = open_for_writing(url_of(path))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(DatabaseError, match=rf"schema 9999, this netsieve works with {REVISION}"):
        open_for_writing(url_of(path))


def test_reading_needs_a_file(tmp_path: Path) -> None:
    """A question does not create a database."""
    with pytest.raises(DatabaseError, match="no such file"):
        open_for_reading(url_of(tmp_path / "none.db"))
    assert list(tmp_path.iterdir()) == []


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite would corrupt there; the message names the file system."""
    mounts = f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {tmp_path} rw shared:1 - nfs4 server:/x rw\n"
    read_text = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *a, **k: mounts if str(self) == "/proc/self/mountinfo" else read_text(self, *a, **k),
    )
    with pytest.raises(DatabaseError, match=r"network file system \(nfs4\)"):
        open_for_writing(url_of(tmp_path / "x.db"))


@pytest.mark.parametrize("cause", ["database is locked", "database or disk is full", "disk I/O error"])
def test_what_the_world_does_to_a_database_is_resumable(cause: str) -> None:
    """A full disk or a lock ends a run with exit code 75 and the cause, not a traceback."""
    with pytest.raises(Stopped, match=cause), translated():
        raise sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError(cause))


def test_a_full_disk_leaves_no_partial_transaction(tmp_path: Path) -> None:
    """SQLite's page limit stands for the disk's."""
    engine = open_for_writing(url_of(tmp_path / "full.db"))

    def fill() -> None:
        with translated(), engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
            connection.execute(sa.text("CREATE TABLE big (x)"))
            connection.execute(sa.text("INSERT INTO big VALUES (zeroblob(10000000))"))

    with pytest.raises(Stopped, match="full"):
        fill()
    with engine.connect() as connection:
        assert "big" not in sa.inspect(connection).get_table_names()
    engine.dispose()
