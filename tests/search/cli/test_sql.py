"""netsieve sql: any question, on both databases, and no way to write."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result

from storage.engine import open_for_reading, open_for_writing
from storage.questions import asked
from tests.databases import admin
from tests.filled import fill

Cli = Callable[..., Result]
Ask = Callable[..., Any]
NETSIEVE = Path(sys.executable).with_name("netsieve")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with a search that has rows of every kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('filled') / 'search.db'}"
    else:
        url = str(request.getfixturevalue("postgres_server").new_database())
    writer = open_for_writing(url)
    fill(writer)
    writer.dispose()
    return url


@pytest.fixture
def ask(cli: Cli, filled: str) -> Ask:
    """The rows of an answer, from JSON."""

    def answer(query: str, *words: object) -> Any:
        result = cli("sql", query, *words, "--format", "json", "--db", filled)
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    return answer


def only(filled: str, kind: str) -> None:
    if not filled.startswith(kind):
        pytest.skip(f"of {kind}")


# ------------------------------------------------------------------ answers


def test_a_question_is_answered(ask: Ask, cli: Cli, filled: str) -> None:
    """As the command for it answers."""
    rows = ask("SELECT status, count(*) AS n FROM candidates WHERE search = 'filled' GROUP BY status")
    status = json.loads(cli("status", "filled", "--format", "json", "--db", filled).stdout)
    assert {row["status"]: row["n"] for row in rows} == {row["status"]: status[row["status"]] for row in rows}
    assert len(rows) == 4


@pytest.mark.parametrize(
    "query",
    [
        "WITH best AS (SELECT max(val_accuracy) AS a FROM candidates) SELECT a FROM best",
        "VALUES (1), (2)",
        "EXPLAIN SELECT * FROM candidates",
        "-- why?\n/* so */ explain SELECT 1",
        " SELECT 1 ; ",
        "SELECT 1 -- one",
        "(SELECT 1) UNION ALL (SELECT 2)",
    ],
)
def test_any_single_statement_that_reads_is_answered(ask: Ask, filled: str, query: str) -> None:
    """WITH, VALUES and EXPLAIN too, with comments around and a semicolon after it."""
    if filled.startswith("sqlite") and query.startswith("("):
        pytest.skip("SQLite has no such brackets")
    assert ask(query)


def test_formats_say_the_same(cli: Cli, ask: Ask, filled: str) -> None:
    """JSON lines and CSV what JSON says; the header of CSV also where there is no row; stdin as an argument."""
    query = "SELECT draw_index, reason, val_loss FROM candidates ORDER BY draw_index"
    rows = ask(query)
    assert len(rows) > 500
    command = ("sql", query, "--db", filled)
    assert [json.loads(line) for line in cli(*command, "--format", "jsonl").stdout.splitlines()] == rows
    found = list(csv.reader(io.StringIO(cli(*command, "--format", "csv").stdout)))
    assert found[0] == ["draw_index", "reason", "val_loss"]
    assert found[1:] == [["" if value is None else str(value) for value in row.values()] for row in rows]
    typed = cli("sql", "-", "--format", "json", "--db", filled, stdin=query)
    assert json.loads(typed.stdout) == rows
    none = "SELECT status, layers FROM candidates WHERE 1 = 0"
    assert cli("sql", none, "--format", "csv", "--db", filled).stdout == "status,layers\n"
    assert ask(none) == []
    assert ask(query, "--limit", 7) == rows[:7]


def test_a_table_stops_at_twenty_and_says_so(cli: Cli, filled: str) -> None:
    """For people; fewer come without a word, and as many as are asked for."""
    result = cli("sql", "SELECT status FROM candidates", "--db", filled)
    assert len(result.stdout.splitlines()) == 1 + 20
    assert result.stderr == "20 rows, and there are more; --limit N gives more, --format csv, json or jsonl all\n"
    for limit in (5, 30):
        result = cli("sql", "SELECT status FROM candidates", "--limit", limit, "--db", filled)
        assert (len(result.stdout.splitlines()), result.stderr) == (1 + limit, "")
    result = cli("sql", "SELECT 1 AS one, 'a\nb' AS lines, NULL AS none", "--db", filled)
    assert (result.stdout, result.stderr) == ("one  lines  none\n  1  a b       -\n", "")
    assert cli("sql", "SELECT status FROM candidates WHERE 1 = 0", "--db", filled).stdout == "status\n"


def test_names_that_stand_twice_are_kept_apart(ask: Ask) -> None:
    """By a number that no other name has."""
    assert ask("SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS a") == [{"a": 1, "a_3": 2, "a_2": 3, "a_4": 4}]


def test_signs_in_a_query_stand_for_themselves(ask: Ask) -> None:
    """A percent sign, a colon, a question mark and a brace are no place for a parameter."""
    (row,) = ask("SELECT '100% :a ? %s %(b)s {c} $1' AS text, 7 % 4 AS rest")
    assert row == {"text": "100% :a ? %s %(b)s {c} $1", "rest": 3}
    assert ask("SELECT count(*) AS n FROM layers WHERE layer LIKE 'conv%'")[0]["n"] > 0


def test_values_are_those_of_json(ask: Ask, filled: str) -> None:
    """Numbers are numbers, bytes hexadecimal, moments ISO 8601 in UTC, what is not finite null."""
    (row,) = ask("SELECT created_at FROM searches")
    assert row["created_at"].endswith("+00:00")
    assert "T" in row["created_at"]
    (row,) = ask("SELECT sum(parameters) AS s, avg(epochs) AS a FROM candidates")
    assert isinstance(row["s"], int)
    assert isinstance(row["a"], float)
    assert len(ask("SELECT digest FROM candidate LIMIT 1")[0]["digest"]) == 32
    if filled.startswith("sqlite"):
        assert ask("SELECT 9e999 AS large") == [{"large": None}]
        return
    query = (
        "SELECT 'NaN'::float8 AS a, 'Infinity'::numeric AS b, 1.50 AS c, true AS d, date '2020-01-02' AS e, "
        "ARRAY[1, 2] AS f, '{\"g\": 1}'::json AS g, interval '1 day' AS h, timestamptz '2020-01-01 01:00+01' AS i"
    )
    assert ask(query) == [
        {"a": None, "b": None, "c": 1.5, "d": True, "e": "2020-01-02", "f": [1, 2], "g": {"g": 1},
         "h": "1 day, 0:00:00", "i": "2020-01-01T00:00:00+00:00"}
    ]  # fmt: skip


def test_a_long_answer_is_streamed(filled: str) -> None:
    """A million rows take no more memory than the first of them."""
    query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i, i FROM n"
    with open_for_reading(filled).connect() as connection, asked(connection, query) as answer:
        tracemalloc.start()
        assert sum(1 for _ in answer.rows) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()
        if connection.dialect.name == "postgresql":
            assert connection.exec_driver_sql("SELECT count(*) FROM pg_cursors").scalar() == 1


@pytest.mark.parametrize("format_words", [(), ("--format", "csv")])
def test_ctrl_c_ends_a_query_without_end(filled: str, format_words: tuple[str, ...]) -> None:
    """Also while the database works at the first row."""
    query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        [NETSIEVE, "sql", query, *format_words, "--db", filled], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        time.sleep(2.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == "Error: interrupted"


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT foo FROM candidates", "foo"),
        ("SELECT * FROM candidats", "candidats"),
    ],
)
def test_an_unknown_name_is_answered_with_the_views(cli: Cli, filled: str, query: str, says: str) -> None:
    """In one line, with the database's words."""
    result = cli("sql", query, "--db", filled)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert "the views are searches, candidates, layers, measurements" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "query", ["SELEC 1", "", "-- nothing", "SELECT 1; SELECT 2", "SELECT", "COMMIT", "SELECT 'a", "\udcff", "a\0b"]
)
def test_what_is_no_question_is_one_line(cli: Cli, filled: str, query: str) -> None:
    """With the database's words and what may be written."""
    result = cli("sql", query, "--db", filled)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: QUERY: ")
    assert result.stderr.endswith("; write one SELECT, WITH, VALUES or EXPLAIN, which only reads\n")
    assert result.stderr.count("\n") == 1


def test_an_error_in_the_middle_is_one_line(cli: Cli, filled: str) -> None:
    """After the rows before it."""
    query = (
        "SELECT 1 / (100 - draw_index) FROM candidate ORDER BY draw_index"
        if filled.startswith("postgres")
        else "SELECT abs(-9223372036854775807 - (draw_index > 100)) FROM candidate ORDER BY draw_index"
    )
    result = cli("sql", query, "--format", "jsonl", "--db", filled)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: QUERY: ")
    assert result.stderr.count("\n") == 1


# ------------------------------------------------------------------ nothing is written

ON_BOTH = [
    "DELETE FROM candidate",
    "DELETE FROM candidate RETURNING draw_index",
    "UPDATE search SET target = 1",
    "INSERT INTO listed VALUES (1, 1, 'a')",
    "INSERT INTO listed VALUES (1, 1, 'a') RETURNING layers",
    "DROP TABLE candidate",
    "DROP VIEW candidates",
    "CREATE TABLE x (a int)",
    "CREATE TEMP TABLE x (a int)",
    "CREATE TABLE x AS SELECT 1",
    "ALTER TABLE candidate ADD COLUMN x int",
    "CREATE INDEX x ON candidate (layers)",
    "VACUUM",
    "ANALYZE",
    "REINDEX",
    "COMMIT",
    "ROLLBACK",
    "END",
    "COMMIT; DROP TABLE candidate",
    "ROLLBACK; BEGIN; DELETE FROM candidate; COMMIT",
    "SELECT 1; DELETE FROM candidate",
    "SELECT 1; COMMIT; DELETE FROM candidate; SELECT 1",
    "EXPLAIN SELECT 1; DELETE FROM candidate",
    "BEGIN IMMEDIATE",
    "SAVEPOINT x",
]
ON_SQLITE = [
    "ATTACH 'evil.db' AS evil",
    "ATTACH ':memory:' AS evil",
    "VACUUM INTO 'evil.db'",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA journal_mode = OFF",
    "PRAGMA user_version = 5",
    "PRAGMA application_id = 5",
    "PRAGMA query_only = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA incremental_vacuum",
    "PRAGMA optimize",
    "PRAGMA page_size = 512",
    "SELECT load_extension('evil')",
    "SELECT writefile('evil.db', 'x')",
    "REPLACE INTO listed VALUES (1, 1, 'a')",
    "WITH x AS (SELECT 1) DELETE FROM candidate",
]
ON_POSTGRES = [
    "SET TRANSACTION READ WRITE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET default_transaction_read_only = off; DELETE FROM candidate",
    "SET TRANSACTION READ WRITE; DELETE FROM candidate; COMMIT",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT set_config('transaction_read_only', 'off', true), nextval('search_id_seq')",
    "EXPLAIN ANALYZE SELECT set_config('transaction_read_only', 'off', true)",
    "EXPLAIN ANALYZE DELETE FROM candidate",
    "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
    "EXPLAIN ANALYZE INSERT INTO listed VALUES (1, 1, 'a')",
    "EXPLAIN ANALYZE WITH d AS (DELETE FROM candidate RETURNING 1) SELECT * FROM d",
    "EXPLAIN ANALYZE SELECT nextval('search_id_seq')",
    "/* EXPLAIN */ DELETE FROM candidate",
    "EXPLAIN SELECT 1; COMMIT; DELETE FROM candidate",
    "SHOW server_version; COMMIT; DELETE FROM candidate",
    "WITH d AS (DELETE FROM candidate RETURNING 1) SELECT * FROM d",
    "SELECT nextval('search_id_seq')",
    "SELECT setval('search_id_seq', 999)",
    "SELECT 1 INTO x",
    "SELECT * FROM candidate FOR UPDATE",
    "SELECT lo_create(4711)",
    "SELECT lo_from_bytea(4711, 'x')",
    "SELECT query_to_xml('DELETE FROM candidate', true, true, '')",
    "SELECT query_to_xml('COMMIT', true, true, '')",
    "SELECT set_config('session_replication_role', 'replica', false), writes()",
    "SELECT writes()",
    "SELECT * FROM writes_and_commits()",
    "DO $$ BEGIN DELETE FROM candidate; END $$",
    "DO $$ BEGIN COMMIT; DELETE FROM candidate; COMMIT; END $$",
    "CALL commits_and_writes()",
    "COPY candidate TO '{place}/evil'",
    "COPY (SELECT 1) TO '{place}/evil'",
    "COPY (SELECT 1) TO PROGRAM 'cat > {place}/evil'",
    "COPY candidate TO STDOUT",
    "COPY listed FROM STDIN",
    "COPY listed FROM PROGRAM 'touch {place}/evil'",
    "PREPARE x AS DELETE FROM candidate",
    "EXECUTE x",
    "DECLARE x CURSOR WITH HOLD FOR SELECT 1",
    "CLOSE netsieve",
    "LOCK TABLE candidate",
    "NOTIFY x",
    "LISTEN x",
    "DISCARD ALL",
    "REFRESH MATERIALIZED VIEW x",
    "TRUNCATE candidate",
    "MERGE INTO listed USING search ON false WHEN NOT MATCHED THEN INSERT VALUES (1, 1, 'a')",
    "ALTER SYSTEM SET fsync = off",
    "CREATE EXTENSION IF NOT EXISTS plpgsql",
    "CREATE ROLE evil",
    "SET ROLE postgres",
    "CHECKPOINT",
    "CLUSTER",
    "COMMENT ON TABLE candidate IS 'x'",
    "SELECT 1) TO '{place}/evil'",
    "SELECT 1 /* ' */; DELETE FROM candidate -- '",
]
WRITES = [(on, query) for on, queries in (("sqlite", ON_BOTH), ("postgresql", ON_BOTH), ("sqlite", ON_SQLITE),
          ("postgresql", ON_POSTGRES)) for query in queries]  # fmt: skip


@pytest.fixture(scope="module")
def traps(filled: str) -> str:
    """Functions and a procedure that write, where the database can have them."""
    if filled.startswith("postgresql"):
        engine = sa.create_engine(filled.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM set_config('transaction_read_only', 'off', true); "
                "DELETE FROM candidate; RETURN 1; END $$"
            )
            connection.exec_driver_sql(
                "CREATE FUNCTION writes_and_commits() RETURNS int LANGUAGE plpgsql AS "
                "$$ BEGIN COMMIT; DELETE FROM candidate; RETURN 1; END $$"
            )
            connection.exec_driver_sql(
                "CREATE PROCEDURE commits_and_writes() LANGUAGE plpgsql AS "
                "$$ BEGIN COMMIT; DELETE FROM candidate; COMMIT; END $$"
            )
        engine.dispose()
    return filled


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that anybody can write to, the server's user too."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_the_traps_work(traps: str, folder: Path) -> None:
    """A writer's connection writes the file, and its functions delete: the test below can fail."""
    only(traps, "postgresql")
    admin(traps, f"COPY (SELECT 1) TO PROGRAM 'cat > {folder}/evil'")
    assert [path.name for path in folder.iterdir()] == ["evil"]
    engine = open_for_writing(traps)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT writes()")
        assert connection.exec_driver_sql("SELECT count(*) FROM candidate").scalar() == 0
    engine.dispose()


def state_of(url: str) -> Any:
    """All that a statement could change."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        log = path.with_name(path.name + "-wal")
        return (
            path.read_bytes(),
            log.read_bytes() if log.exists() else b"",
            [found for found in path.parent.iterdir() if not found.name.endswith(("-shm", "-wal"))],
        )
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return [
            connection.exec_driver_sql(query).all()
            for query in (
                "SELECT * FROM candidate ORDER BY draw_index",
                "SELECT * FROM search",
                "SELECT * FROM listed",
                "SELECT last_value, is_called FROM search_id_seq",
                "SELECT oid, relname FROM pg_class ORDER BY 1",
                "SELECT oid FROM pg_largeobject_metadata",
                "SELECT oid, rolname FROM pg_roles ORDER BY 1",
                "SELECT description FROM pg_description WHERE objoid = 'candidate'::regclass",
                "SELECT count(*) FROM pg_file_settings WHERE name = 'fsync' AND setting = 'off'",
            )
        ]


@pytest.mark.parametrize(("on", "query"), WRITES)
def test_nothing_is_written(cli: Cli, traps: str, place: Path, folder: Path, on: str, query: str) -> None:
    """Whatever is asked: the database is as it was, and no file appears anywhere."""
    only(traps, on)
    before = state_of(traps)
    result = cli("sql", query.replace("{place}", str(folder)), "--db", traps)
    assert result.exit_code in {0, 2, 75}, result.stderr
    assert result.stderr.count("\n") <= 1
    assert state_of(traps) == before
    assert [*place.iterdir(), *folder.iterdir()] == []
    # Some pragmas answer, and change nothing; Postgres lets EXPLAIN ANALYZE make a table, which is rolled back.
    if not query.startswith(("PRAGMA", "EXPLAIN ANALYZE CREATE TABLE")):
        assert result.exit_code == 2, result.stdout


def test_a_log_of_others_is_left_to_them(cli: Cli, filled: str) -> None:
    """A checkpoint writes to the file: none while there is a log."""
    only(filled, "sqlite")
    writer = open_for_writing(filled)
    with writer.begin() as connection:
        connection.exec_driver_sql("UPDATE search SET target = target")
    before = state_of(filled)
    for query in ("PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode = DELETE", "SELECT * FROM searches"):
        cli("sql", query, "--db", filled)
        assert state_of(filled) == before
    writer.dispose()


@pytest.mark.parametrize("query", ["SELECT foo", "SELECT a b c", "SELECT layers kind acc FROM candidates"])
def test_a_typo_is_the_query_s_fault(cli: Cli, searched: Path, query: str) -> None:
    """Also where SQLite has not looked at the schema before, and answers with another code."""
    result = cli("sql", query, "--db", f"sqlite:///{searched}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: QUERY: ")


def test_a_small_number_is_no_zero(cli: Cli, searched: Path) -> None:
    """And a table holds no control characters."""
    result = cli("sql", "SELECT 0.00001 AS eps, char(27) || '[1mx' AS text", "--db", f"sqlite:///{searched}")
    assert result.stdout.splitlines()[1].split() == ["1e-05", "[1mx"]
