"""Opening databases: ours, empty ones, and everything that is not a database of ours; and what happens to them."""

import fcntl
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from search.errors import DatabaseAway, DatabaseError, DatabaseLost, Stopped
from search.messages import WorkerTime
from storage import engine as engine_module
from storage import postgres, queries, sqlite
from storage.engine import (
    holds_something,
    open_for_reading,
    open_for_writing,
    require_writable,
    shown,
    translated,
    upgrade,
)
from storage.schema import REVISION, metadata
from tests.databases import admin

MIGRATIONS = Path(engine_module.__file__).parent / "migrations"
OLDER, NEWER = "0000", "9999"
INSERT = (
    "INSERT INTO search (name, settings, target, drawn, created_at, netsieve_version) "
    "VALUES ('{}', '{{}}', 1, 0, '2026-01-01', '1')"
)


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def insert(engine: sa.Engine, name: str) -> None:
    with translated("the database"), engine.begin() as connection:
        connection.exec_driver_sql(INSERT.format(name))


def names(url: str) -> list[str]:
    with open_for_reading(url).connect() as connection:
        return list(connection.exec_driver_sql("SELECT name FROM search ORDER BY name").scalars())


def tables(url: str) -> set[str]:
    database = engine_module._database(url)
    with database.reader().connect() as connection:
        return set(sa.inspect(connection).get_table_names())


def execute(url: str, *statements: str) -> None:
    """As another program would: without netsieve's looks and limits."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def at_once(url: str, script: str, *words: object) -> list[str]:
    """What two processes print that run the script, with ``url`` and ``words``, at the same moment."""
    script = "import sys\nfrom storage import engine\nurl, *words = sys.argv[1:]\nprint(flush=True)\ninput()\n" + script
    command = [sys.executable, "-c", script, url, *map(str, words)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=MIGRATIONS.parents[1], **pipes) for _ in range(2)]
    for process in processes:
        process.stdout.readline()  # it has imported all
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60) for process in processes]
    assert [error for _, error in answers] == ["", ""]
    return [answer.strip() for answer, _ in answers]


# ------------------------------------------------------------------ the schema


def test_an_empty_database_gets_the_schema(database_url: str) -> None:
    """The migrations give exactly the tables that schema.py describes."""
    engine = open_for_writing(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        created = set(sa.inspect(connection).get_table_names())
    assert created == {*metadata.tables, "alembic_version"}
    engine.dispose()


DEFINITIONS = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL",
    "postgresql": "SELECT indexname AS name, indexdef AS sql FROM pg_indexes WHERE schemaname = 'public' "
    "UNION SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
}


def test_indexes_and_checks_are_those_of_the_schema(database_url: str) -> None:
    """What comparing misses, partial indexes and check constraints, is held against create_all."""

    def definitions(connection: sa.Connection) -> dict[str, str]:
        rows = connection.exec_driver_sql(DEFINITIONS[connection.dialect.name])
        return {row.name: " ".join(sorted(re.split(r"[,\s]+", row.sql))) for row in rows}

    engine = open_for_writing(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
        for view in sa.inspect(connection).get_view_names():  # they stand in the migrations alone
            connection.exec_driver_sql(f"DROP VIEW {view}")
        migrated = definitions(connection)
        metadata.drop_all(connection)
        metadata.create_all(connection)
        assert migrated == definitions(connection)
    engine.dispose()


def test_the_revision_in_the_code_is_the_newest_migration() -> None:
    """Readers compare with a constant, because importing Alembic takes half a second."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


def fail(*_args: object, **_options: object) -> None:
    raise OSError("power")


def test_a_failed_migration_leaves_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema comes whole or not at all, and the next try succeeds."""
    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", fail)
        with pytest.raises(OSError, match="power"):
            open_for_writing(database_url)
    assert not holds_something(database_url)
    open_for_writing(database_url).dispose()
    assert holds_something(database_url)


def test_two_processes_may_begin_at_once(database_url: str) -> None:
    """One creates the schema, the other waits for it, and the transactions of both are recorded, each once."""
    script = f"""
import os
writer = engine.open_for_writing(url)
for i in range(25):
    with writer.begin() as connection:
        connection.exec_driver_sql({INSERT!r}.format(f"{{os.getpid()}}-{{i}}"))
writer.dispose()
"""
    at_once(database_url, script)
    assert len(names(database_url)) == 50


# ------------------------------------------------------------------ older and newer schemas


@pytest.fixture
def next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A netsieve with one more migration, which adds a table; its folder needs escaping."""
    folder, revision = tmp_path / "100% newer" / "migrations", f"{int(REVISION) + 1:04}"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "newer.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\n\nrevision, down_revision = {revision!r}, {REVISION!r}\n\n"
        "def upgrade():\n    op.create_table('extra', sa.Column('id', sa.Integer))\n"
        "    op.create_index('ix_extra', 'extra', ['id'])\n"
    )
    monkeypatch.setattr(engine_module, "MIGRATIONS", folder)
    monkeypatch.setattr(engine_module, "REVISION", revision)
    return folder, revision


@pytest.fixture
def older_url(database_url: str) -> str:
    """A database of this netsieve, with a search; requested before ``next_revision``, it is an older one."""
    engine = open_for_writing(database_url)
    insert(engine, "kept")
    engine.dispose()
    return database_url


def test_an_older_database_is_migrated(older_url: str, next_revision: tuple[Path, str]) -> None:
    """Refused until it is upgraded, with the command; its rows stay, and a second upgrade does nothing."""
    _, newer = next_revision
    for opening in (open_for_writing, open_for_reading):
        with pytest.raises(
            DatabaseError, match=rf"schema {REVISION}, this netsieve works with {newer}; migrate"
        ) as error:
            opening(older_url)
        assert f"netsieve db upgrade --db {shown(older_url)}" in str(error.value)
    assert upgrade(older_url) == (REVISION, newer)
    assert "extra" in tables(older_url)
    assert names(older_url) == ["kept"]
    assert upgrade(older_url) == (newer, newer)


def test_runs_of_before_schema_0004_told_nothing_of_their_workers(older_url: str) -> None:
    """The columns come with the upgrade, empty; what those runs did is unknown, which is not an error."""
    execute(
        older_url,
        "ALTER TABLE coordinator DROP COLUMN worker_s",
        "ALTER TABLE coordinator DROP COLUMN training_s",
        "UPDATE alembic_version SET version_num = '0003'",
        "INSERT INTO coordinator (search_id, host, boot_id, pid, pid_started, started_at, seen_at) "
        "VALUES (1, 'here', 'now', 1, 1, '2026-11-25 12:00:00', '2026-11-25 12:00:00')",
    )
    assert upgrade(older_url) == ("0003", REVISION)
    engine = open_for_reading(older_url)
    with engine.connect() as connection:
        assert queries.worked(connection, 1) == WorkerTime()
        assert queries.worked(connection, 1).training_share is None
    engine.dispose()


def test_a_failed_upgrade_changes_nothing(
    older_url: str, next_revision: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table that the migration had made is gone, and the next try succeeds."""
    _, newer = next_revision
    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", fail)
        with pytest.raises(OSError, match="power"):
            upgrade(older_url)
    assert "extra" not in tables(older_url)
    assert upgrade(older_url) == (REVISION, newer)


def test_two_processes_may_upgrade_at_once(older_url: str, next_revision: tuple[Path, str]) -> None:
    """One migrates, the other finds it done."""
    script = "from pathlib import Path\nengine.MIGRATIONS, engine.REVISION = Path(words[0]), words[1]\n"
    answers = at_once(older_url, script + "print(*engine.upgrade(url))", *next_revision)
    _, newer = next_revision
    assert sorted(answers) == [f"{REVISION} {newer}", f"{newer} {newer}"]


@pytest.mark.parametrize("opening", [open_for_writing, open_for_reading, upgrade])
def test_a_newer_database_is_refused(older_url: str, opening: Callable[[str], Any]) -> None:
    """With both revisions, and the advice to install a newer netsieve."""
    execute(older_url, f"UPDATE alembic_version SET version_num = '{NEWER}'")
    with pytest.raises(DatabaseError, match=f"schema {NEWER}, this netsieve works with {REVISION}; install a newer"):
        opening(older_url)


@pytest.mark.parametrize("opening", [open_for_writing, open_for_reading, upgrade])
@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE trial (id INTEGER)",),
        (
            "CREATE TABLE alembic_version (version_num VARCHAR(32))",
            f"INSERT INTO alembic_version VALUES ('{REVISION}')",
        ),
    ],
    ids=["tables", "Alembic's"],
)
def test_the_database_of_another_program_is_refused(
    database_url: str, statements: tuple[str, ...], opening: Callable[[str], Any]
) -> None:
    """Also one that is kept by Alembic and happens to have our revision; nothing is made in it."""
    execute(database_url, *statements)
    before = tables(database_url)
    with pytest.raises(DatabaseError, match="is another program's database, not netsieve's"):
        opening(database_url)
    assert tables(database_url) == before


def test_tables_beside_ours_are_left_alone(older_url: str) -> None:
    """A database that bears our mark may hold other tables."""
    execute(older_url, "CREATE TABLE trial (id INTEGER)")
    open_for_writing(older_url).dispose()
    assert names(older_url) == ["kept"]


@pytest.mark.parametrize("opening", [open_for_reading, upgrade])
def test_an_empty_database_is_not_read(database_url: str, opening: Callable[[str], Any]) -> None:
    """A question does not create a schema."""
    execute(database_url, "SELECT 1")
    with pytest.raises(DatabaseError, match=r"(is empty|no such file); start a search with netsieve run, or"):
        opening(database_url)
    assert not holds_something(database_url)


def test_a_reader_cannot_write(older_url: str) -> None:
    """The database refuses it, not we."""
    with (
        open_for_reading(older_url).connect() as connection,
        pytest.raises(sa.exc.DBAPIError, match=r"readonly|read-only"),
    ):
        connection.exec_driver_sql("DELETE FROM search")
    assert names(older_url) == ["kept"]


def test_an_answer_reads_one_snapshot(older_url: str) -> None:
    """What is written while a reader reads is not in its answer."""
    engine = open_for_writing(older_url)
    with open_for_reading(older_url).connect() as connection:
        count = sa.text("SELECT count(*) FROM search")
        assert connection.scalar(count) == 1
        insert(engine, "later")
        assert connection.scalar(count) == 1
    engine.dispose()
    assert names(older_url) == ["kept", "later"]


# ------------------------------------------------------------------ URLs


@pytest.mark.parametrize(
    ("url", "fit"),
    [
        ("sqlite:///über 100%.db", r"sqlite:///\xfcber 100%.db"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://u:secret@h:1/d", "postgresql://u:***@h:1/d"),
        ("postgresql://u:se?cret@h/d?sslmode=require", "postgresql://u:***@h/d?***"),
        ("postgresql://u:se?host=cret@h/d", "postgresql://u:***@h/d?***"),
        ("postgresql:///d?password=secret", "postgresql:///d?***"),
        ("postgresql://u/x:secret@h/d", "postgresql://***"),
        ("postgresql://h/d#password=secret", "postgresql://***"),
        ("postgresql://h/d?host=h;password=secret", "postgresql://h/d?***"),
        ("postgresql://h/d?host=h password=secret", "postgresql://h/d?***"),
        ("postgresql:///d?password=secret&host=/run", "postgresql:///d?host=/run&***"),
        ("postgresql://u@h/d?sslmode=require&host=x", "postgresql://u@h/d?sslmode=require&host=x"),
        ("postgresql://u:x@secret@h/d", "postgresql://***"),
        ("postgresql://u:x@h:secret/d", "***"),
        ("host=h password=secret", "***"),
        ("results.db", "'results.db'"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, fit: str) -> None:
    """No password, no options, and nothing of what cannot be told apart from a password."""
    assert shown(url) == fit


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "is no database URL"),
        ("results.db", "is no database URL"),
        ("postgres://u:secret@h/d", "write postgresql://, not postgres://"),
        ("postgresql+asyncpg://u:secret@h/d", "the driver is psycopg 3"),
        (
            "postgresql://u:secret@h.invalid/d",
            "'h.invalid': [Errno -2] Name or service not known; check the host; write @",
        ),
        ("postgresql://u:secret@h/d?port=x", "options after '?' are malformed"),
        ("postgresql://u:pass@secret/d@h/d", "more than one @; write @ / : % in a user or password as %40"),
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
    for opening in (open_for_writing, open_for_reading, holds_something, require_writable, upgrade):
        with pytest.raises(DatabaseError, match="--db") as error:
            opening(url)
        assert complaint in str(error.value)
        assert "secret" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql://u:secret@127.0.0.1:1/d", "Connection refused; is the server started"),
        ("postgresql://u@127.0.0.1:1/d?password=secret", "Connection refused; is the server started"),
        ("postgresql://u:secret@/d?host=/none", "No such file or directory; is the server started"),
    ],
)
def test_a_server_that_does_not_answer_may_be_back(url: str, complaint: str) -> None:
    """A wrong port looks like a server that is restarted: it can be tried again, and the message names both."""
    for opening in (open_for_writing, open_for_reading, holds_something, require_writable, upgrade):
        with pytest.raises(DatabaseAway, match="--db") as error:
            opening(url)
        assert complaint in str(error.value)
        assert "secret" not in str(error.value)


def test_files_that_are_none_of_ours_are_refused_unchanged(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("kind", "is_refused"), [("nfs4", True), ("fuse.sshfs", True), ("fuse.fuseblk", False)])
def test_a_network_file_system_is_refused(
    kind: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite would corrupt there; the message names the file system. A link into it is looked through."""
    remote = tmp_path / "remote"
    remote.mkdir()
    (tmp_path / "link.db").symlink_to(remote / "x.db")
    mounts = f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {remote.resolve()} rw shared:1 - {kind} server:/x rw\n"
    read_text = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *a, **k: mounts if str(self) == "/proc/self/mountinfo" else read_text(self, *a, **k),
    )
    for path in (remote / "x.db", tmp_path / "link.db"):
        if is_refused:
            with pytest.raises(DatabaseError, match=re.escape(f"network file system ({kind})")):
                open_for_writing(url_of(path))
        else:
            open_for_writing(url_of(path)).dispose()


# ------------------------------------------------------------------ SQLite, while it is used


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "used.db"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short."""
    monkeypatch.setattr(sqlite, "PATIENCE_S", 0.1)


def test_writers_are_safe_against_power_loss(path: Path) -> None:
    """Write-ahead log, full synchronisation, foreign keys."""
    engine = open_for_writing(url_of(path))
    with engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]
    engine.dispose()


def test_a_full_disk_leaves_no_partial_transaction(path: Path) -> None:
    """SQLite's page limit stands for the disk's."""
    engine = open_for_writing(url_of(path))

    def fill() -> None:
        with translated(path), engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
            connection.exec_driver_sql("CREATE TABLE big (x)")
            connection.exec_driver_sql("INSERT INTO big VALUES (zeroblob(10000000))")

    with pytest.raises(DatabaseAway, match="full; make room on its disk"):
        fill()
    with engine.connect() as connection:
        assert "big" not in sa.inspect(connection).get_table_names()
    engine.dispose()


def test_threads_share_one_connection(path: Path) -> None:
    """SQLite sees one writer, whatever the number of threads; all that they write is there."""
    engine = open_for_writing(url_of(path))
    opened = []
    sa.event.listen(engine, "connect", lambda connection, record: opened.append(connection))
    threads = [threading.Thread(target=insert, args=(engine, f"thread {i}")) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(url_of(path))) == 8
    assert len(opened) <= 1
    engine.dispose()


@pytest.mark.usefixtures("impatient")
def test_a_thread_waits_for_the_connection_but_not_for_ever(path: Path) -> None:
    """A transaction that another one of the process blocks can be tried again."""
    engine = open_for_writing(url_of(path))
    with engine.begin(), pytest.raises(DatabaseAway, match="busy for too long"):
        insert(engine, "second")
    insert(engine, "second")
    engine.dispose()


@pytest.fixture(params=["before 3.51.3", "since 3.51.3"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """SQLite with the bug for which processes take turns, and without it."""
    monkeypatch.setattr(sqlite, "WAL_RESET_FIXED", (99,) if request.param.startswith("before") else (3,))
    return request.param


def test_the_lock_file_is_there_only_where_it_is_needed(path: Path, library: str) -> None:
    """A file beside the database, which the first transaction makes."""
    open_for_writing(url_of(path)).dispose()
    assert Path(f"{path}-writer").exists() == library.startswith("before")


@pytest.mark.usefixtures("impatient", "library")
def test_a_lock_of_another_program_can_be_waited_for(path: Path) -> None:
    """Its transaction holds ours up; when it has ended, ours succeeds."""
    engine = open_for_writing(url_of(path))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseAway, match="database is locked"):
        insert(engine, "waited")
    other.execute("ROLLBACK")
    other.close()
    insert(engine, "waited")
    engine.dispose()


@pytest.fixture
def is_our_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether we hold the lock file, as another process sees it."""
    monkeypatch.setattr(sqlite, "WAL_RESET_FIXED", (99,))

    def look() -> bool:
        with Path(f"{path}-writer").open("a") as lock_file:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    return look


@pytest.mark.usefixtures("impatient")
def test_a_turn_is_waited_for(path: Path, is_our_turn: Callable[[], bool]) -> None:
    """While another process writes, ours waits, and gives up in a way that can be tried again."""
    engine = open_for_writing(url_of(path))
    with Path(f"{path}-writer").open("a") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        with pytest.raises(DatabaseAway, match=r"locked by another process for 0\.1 s; let it end"):
            insert(engine, "waited")
    insert(engine, "waited")
    engine.dispose()


def test_a_turn_lasts_as_long_as_a_transaction(path: Path, is_our_turn: Callable[[], bool]) -> None:
    """From its begin until it is committed or rolled back, also when committing or beginning fails."""
    engine = open_for_writing(url_of(path))
    assert not is_our_turn()
    with engine.begin() as connection:
        assert is_our_turn()
        connection.rollback()
        assert not is_our_turn()

    def violate() -> None:
        with translated(path), engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            connection.exec_driver_sql("INSERT INTO tally VALUES (77, 'open', '', -1, 1, NULL)")

    with pytest.raises(Stopped, match="FOREIGN KEY"):
        violate()
    assert not is_our_turn()
    connection = engine.connect()
    connection.begin()
    assert is_our_turn()
    connection.invalidate()
    assert not is_our_turn()
    connection.close()
    engine.dispose()


def replaced(path: Path) -> None:
    shutil.copy(path, f"{path}.copy")
    Path(f"{path}.copy").replace(path)


@pytest.mark.parametrize("harm", [Path.unlink, replaced, lambda path: os.truncate(path, 0)])
def test_a_file_that_is_gone_is_noticed(path: Path, harm: Callable[[Path], None]) -> None:
    """Deleted, replaced or emptied: the next transaction says so, and no file is made in its place."""
    engine = open_for_writing(url_of(path))
    insert(engine, "recorded")
    harm(path)
    there = path.exists()
    for _ in range(2):
        with pytest.raises(DatabaseLost, match=f"{path}: the file was deleted, replaced or emptied"):
            insert(engine, "lost")
    assert path.exists() == there
    engine.dispose()


def test_a_folder_that_is_gone_is_noticed(path: Path) -> None:
    """The database's file is named, not the one by which processes take turns."""
    folder = path.parent / "folder"
    folder.mkdir()
    engine = open_for_writing(url_of(folder / "search.db"))
    insert(engine, "recorded")
    shutil.rmtree(folder)
    with pytest.raises(DatabaseLost, match=r"search\.db: the file was deleted, replaced or emptied"):
        insert(engine, "lost")
    engine.dispose()


def test_a_link_and_its_file_are_one_database(path: Path, tmp_path: Path) -> None:
    """The log and the lock lie beside the file, whatever name it is opened by."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    open_for_writing(url_of(path)).dispose()
    (folder / "link.db").symlink_to(path)
    engine = open_for_writing(url_of(folder / "link.db"))
    insert(engine, "by the link")
    engine.dispose()
    assert names(url_of(path)) == ["by the link"]
    assert [entry.name for entry in folder.iterdir()] == ["link.db"]


# ------------------------------------------------------------------ Postgres, while it is used


def as_user(url: str, user: str) -> str:
    return re.sub("//[^@]*@", f"//{user}@", url)


def test_what_the_user_of_postgres_must_change_is_refused(postgres_url: str, postgres_server: Any) -> None:
    """Password, user, database, rights, pg_hba: one line with the cause and the next step, never the password."""
    hba = Path(postgres_server.package.pgdata, "pg_hba.conf")
    rules = hba.read_text()
    hba.write_text(f"local all locked scram-sha-256\nlocal all barred reject\n{rules}")
    execute(
        postgres_url,
        "CREATE ROLE locked LOGIN PASSWORD 'right'",
        "CREATE ROLE barred LOGIN",
        "CREATE ROLE weak LOGIN",
        "SELECT pg_reload_conf()",
    )
    complaints = {
        as_user(postgres_url, "locked:secret"): "password authentication failed for user .*%40",
        as_user(postgres_url, "locked"): "password.*check user and password",
        as_user(postgres_url, "barred:secret"): r"pg_hba.conf rejects .*pg_hba\.conf; it may demand",
        as_user(postgres_url, "nobody:secret"): 'role "nobody" does not exist.*createuser',
        as_user(postgres_url, "weak:secret"): "permission denied for schema public; grant the user",
        postgres_server.get_uri("none"): 'database "none" does not exist; create the database with createdb',
        postgres_url + "&sslmode=secret2": "invalid sslmode value|sslmode",
    }
    try:
        for url, complaint in complaints.items():
            with pytest.raises(DatabaseError, match=complaint) as error:
                open_for_writing(url)
            assert "\n" not in str(error.value)
            assert ":secret" not in str(error.value)
    finally:
        hba.write_text(rules)
        execute(postgres_url, "DROP ROLE locked", "DROP ROLE barred", "DROP ROLE weak", "SELECT pg_reload_conf()")


def test_a_database_without_an_encoding_will_do(postgres_url: str, postgres_server: Any) -> None:
    """SQL_ASCII, which initdb takes under LANG=C, keeps bytes as they come: netsieve gives it UTF-8, and reads that."""
    admin(postgres_url, "CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        engine = open_for_writing(postgres_server.get_uri("bytes"))
        insert(engine, "größer")
        engine.dispose()
        assert names(postgres_server.get_uri("bytes")) == ["größer"]
    finally:
        admin(postgres_url, "DROP DATABASE bytes WITH (FORCE)")


def test_a_server_that_only_reads_is_refused_to_writers(postgres_url: str) -> None:
    """As a standby does; a reader is served."""
    open_for_writing(postgres_url).dispose()
    execute(
        postgres_url,
        f"ALTER DATABASE {postgres_url.partition('?')[0].rpartition('/')[2]} SET default_transaction_read_only = on",
    )
    for opening in (open_for_writing, require_writable, upgrade):
        with pytest.raises(DatabaseError, match=r"only reads .* give the primary's address"):
            opening(postgres_url)
    assert names(postgres_url) == []


def test_too_many_connections_can_be_waited_for(postgres_url: str) -> None:
    """The server is there, only full."""
    execute(postgres_url, "CREATE ROLE crowded LOGIN CONNECTION LIMIT 0")
    try:
        with pytest.raises(DatabaseAway, match="too many connections"):
            open_for_writing(as_user(postgres_url, "crowded"))
    finally:
        execute(postgres_url, "DROP ROLE crowded")


def test_writers_wait_for_a_lock_but_not_for_ever(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of another session, and a statement without end, are cut off; both can be tried again."""
    limits = {"lock_timeout": "100ms", "statement_timeout": "300ms"}
    monkeypatch.setattr(postgres, "WRITER_LIMITS", postgres.WRITER_LIMITS | limits)
    engine = open_for_writing(postgres_url)

    def sleep() -> None:
        with translated(), engine.begin() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(10)")

    with engine.begin() as other:
        other.exec_driver_sql("LOCK TABLE search")
        with pytest.raises(DatabaseAway, match="lock timeout; let the program that holds it end"):
            insert(engine, "waits")
    with pytest.raises(DatabaseAway, match="statement timeout"):
        sleep()
    insert(engine, "waits")
    engine.dispose()


def test_a_lost_connection_is_replaced(postgres_url: str) -> None:
    """What was asked can be tried again, and then succeeds."""
    engine = open_for_writing(postgres_url)

    def be_cut_off() -> None:
        with translated(), engine.begin() as connection:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(DatabaseAway, match="terminating connection"):
        be_cut_off()
    insert(engine, "again")
    assert names(postgres_url) == ["again"]
    engine.dispose()


def test_the_options_of_a_url_win(postgres_url: str) -> None:
    """Over netsieve's own of the same name."""
    open_for_writing(postgres_url).dispose()
    for url, name in ((postgres_url, "netsieve"), (postgres_url + "&application_name=mine", "mine")):
        with open_for_reading(url).connect() as connection:
            assert connection.exec_driver_sql("SHOW application_name").scalar() == name


# ------------------------------------------------------------------ what errors mean


def of_sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("the cause")
    error.sqlite_errorcode = code
    return error


def of_postgres(state: str) -> psycopg.Error:
    return psycopg.errors.lookup(state)("the cause\nDETAIL: secret")


MEANINGS: list[tuple[Exception, type[Exception]]] = [
    *((of_sqlite(code), DatabaseAway) for code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)),
    (of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), DatabaseAway),
    *((of_sqlite(code), DatabaseError) for code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)),
    *((of_sqlite(code), Stopped) for code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)),
    (sqlite3.ProgrammingError("the cause"), Stopped),
    *((of_postgres(state), DatabaseAway) for state in ("08006", "57P01", "57P02", "57P03", "40001", "40P01", "55P03")),
    *((of_postgres(state), DatabaseAway) for state in ("53100", "53200", "53300", "57014", "25006", "25P03")),
    *((of_postgres(state), Stopped) for state in ("42P01", "42501", "22003", "23505")),
    (psycopg.OperationalError("the cause"), DatabaseAway),
    (psycopg.ProgrammingError("the cause"), Stopped),
]


@pytest.mark.parametrize(("cause", "meaning"), MEANINGS, ids=lambda value: getattr(value, "__name__", repr(value)))
def test_an_error_of_a_database_becomes_one_of_ours(cause: Exception, meaning: type[Exception]) -> None:
    """By its code; in one line that names the place and the cause, without the database's details."""
    with pytest.raises(Stopped if meaning is DatabaseAway else meaning) as error, translated("the place"):
        raise sa.exc.DBAPIError.instance("INSERT", {}, cause, Exception)
    assert type(error.value) is meaning
    assert "the place: the cause; " in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (sa.exc.TimeoutError("QueuePool limit"), "busy for too long"),
        (sa.exc.PendingRollbackError("Can't reconnect"), "connection was lost"),
        (sa.exc.DBAPIError("INSERT", {}, Exception("server closed"), connection_invalidated=True), "server closed"),
    ],
)
def test_what_ails_a_pool_can_be_tried_again(cause: Exception, told: str) -> None:
    """Errors that SQLAlchemy itself raises are translated too."""
    with pytest.raises(DatabaseAway, match=told), translated():
        raise cause


def test_an_error_of_ours_stays_as_it_is() -> None:
    """A fault in netsieve is not taken for one of the database."""
    with pytest.raises(sa.exc.ArgumentError), translated():
        raise sa.exc.ArgumentError("a fault in netsieve")
