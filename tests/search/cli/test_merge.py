"""netsieve merge: what it says and refuses, and a copy that goes on as its original does; between all databases."""

import os
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from search.cli import main, transfer
from search.errors import DatabaseAway
from storage.engine import open_for_writing
from storage.store import SqlStore
from tests.filled import SETTINGS, fill
from tests.terminal import Terminal

NETSIEVE = Path(sys.executable).with_name("netsieve")
SHORT = ["--dataset", "digits", "--candidates", "40", "--epochs", "1", "--workers", "0"]


def netsieve(*words: str, **environment: str) -> Result:
    return CliRunner(env={"NETSIEVE_DB": None, "NETSIEVE_INTO": None, **environment}).invoke(main, words)


@pytest.fixture(params=["sqlite to sqlite", "sqlite to postgres", "postgres to sqlite"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The URLs of two databases without anything in them."""
    source, target = request.param.split(" to ")
    urls = {
        "sqlite": lambda name: f"sqlite:///{tmp_path / name}.db",
        "postgres": lambda _name: request.getfixturevalue("postgres_server").new_database(),
    }
    return urls[source]("source"), urls[target]("target")


@pytest.fixture
def filled(tmp_path: Path) -> str:
    """A database with a search that was stopped."""
    url = f"sqlite:///{tmp_path / 'filled.db'}"
    engine = open_for_writing(url)
    fill(engine, draws=60)
    engine.dispose()
    return url


def without_times(url: str) -> list[str]:
    """The candidates without seconds and attempts, the last two columns."""
    result = netsieve("candidates", "first", "--format", "csv", "--db", url)
    assert result.exit_code == 0, result.output
    return [line.rsplit(",", 2)[0] for line in result.stdout.splitlines()]


def test_a_copy_goes_on_as_its_original_does(ends: tuple[str, str]) -> None:
    """A search that was interrupted, copied, and resumed on both sides gives the same rows; both are sound."""
    source, target = ends
    assert netsieve("run", "first", *SHORT, "--max-completed", "3", "--db", source).exit_code == 0
    result = netsieve("merge", "first", "--db", source, "--into", target)
    assert result.exit_code == 0, result.output
    assert re.search(r"^candidate +(\d+) +\1$", result.stdout, flags=re.MULTILINE)
    assert result.stderr.startswith("search first is copied into ")
    assert netsieve("status", "first", "--db", target).stdout == netsieve("status", "first", "--db", source).stdout
    for url in ends:
        assert netsieve("resume", "first", "--workers", "0", "--db", url).exit_code == 0
        assert netsieve("db", "check", "--db", url).stdout == "first: sound; 40 drawn = 40 distinct + 0 repeats\n"
    assert without_times(source) == without_times(target)
    assert any(",completed," in line for line in without_times(target))


def test_the_target_can_be_named_by_the_environment(filled: str, tmp_path: Path) -> None:
    """So that a password need not be typed; --as gives the copy its name."""
    target = f"sqlite:///{tmp_path / 'target.db'}"
    result = netsieve("merge", "filled", "--as", "copy", NETSIEVE_DB=filled, NETSIEVE_INTO=target)
    assert (result.exit_code, result.stderr) == (0, f"search filled is copied into {target} as copy\n")
    assert netsieve("status", "copy", NETSIEVE_DB=target).exit_code == 0
    assert netsieve("status", "filled", NETSIEVE_DB=target).exit_code == 2


def test_within_one_database_a_copy_needs_a_name(filled: str, tmp_path: Path) -> None:
    """The same database is seen through a link too; with --as the copy stands beside the original."""
    (tmp_path / "link.db").symlink_to(tmp_path / "filled.db")
    link = f"sqlite:///{tmp_path / 'link.db'}"
    for more in ([], ["--as", "filled"]):
        refused = netsieve("merge", "filled", "--db", filled, "--into", link, *more)
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"Error: --into {link}: is the database that --db names; give another one, or")
    assert netsieve("merge", "filled", "--db", filled, "--into", link, "--as", "twin").exit_code == 0
    assert len(netsieve("list", "--db", filled, "--format", "csv").stdout.splitlines()) == 3


def test_a_search_that_is_there_is_not_copied_again(filled: str, tmp_path: Path) -> None:
    """It says how it stands there and what can be done."""
    target = f"sqlite:///{tmp_path / 'target.db'}"
    assert netsieve("merge", "filled", "--db", filled, "--into", target).exit_code == 0
    again = netsieve("merge", "filled", "--db", filled, "--into", target)
    assert again.exit_code == 2
    assert "the target has a search filled already, with the same settings: 60 of 60 drawn" in again.stderr
    assert "--as" in again.stderr
    assert again.stderr.count("\n") == 1


def test_a_search_that_is_being_run_is_not_copied(filled: str, tmp_path: Path) -> None:
    """It names who runs it, and makes no target."""
    engine = open_for_writing(filled)
    SqlStore.open(engine, "filled", SETTINGS, 60).join()
    engine.dispose()
    target = tmp_path / "target.db"
    refused = netsieve("merge", "filled", "--db", filled, "--into", f"sqlite:///{target}")
    assert refused.exit_code == 2
    assert f"is being run by process {os.getpid()} on " in refused.stderr
    assert not target.exists()


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there"])
def test_what_fails_takes_away_what_it_made(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """And nothing else: a target that was there stays, with what it held."""
    target = tmp_path / "target.db"
    if is_there:
        assert (
            netsieve("merge", "filled", "--as", "other", "--db", filled, "--into", f"sqlite:///{target}").exit_code == 0
        )

    def lost(*_: object) -> None:
        raise DatabaseAway(
            "the target: is away; nothing recorded is lost; try again, or go on later with netsieve resume"
        )

    monkeypatch.setattr("storage.transfer.copy_search", lost)
    failed = netsieve("merge", "filled", "--db", filled, "--into", f"sqlite:///{target}")
    assert (failed.exit_code, failed.stdout) == (75, "")
    assert failed.stderr == "Error: the target: is away; all or nothing was copied; try again\n"
    assert bool(list(tmp_path.glob("target*"))) == is_there
    if is_there:
        assert netsieve("status", "other", "--db", f"sqlite:///{target}").exit_code == 0


def older(url: str) -> None:
    with closing(sqlite3.connect(str(sa.make_url(url).database))) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
        connection.commit()


def test_an_older_schema_is_refused_on_either_side(filled: str, tmp_path: Path) -> None:
    """It says which side, and the command that migrates it."""
    target = f"sqlite:///{tmp_path / 'target.db'}"
    assert netsieve("merge", "filled", "--db", filled, "--into", target).exit_code == 0
    older(target)
    refused = netsieve("merge", "filled", "--as", "x", "--db", filled, "--into", target)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"Error: --into {tmp_path / 'target.db'}: has schema 0001, ")
    assert refused.stderr.endswith(f"migrate it with netsieve db upgrade --db {target}\n")
    older(filled)
    refused = netsieve("merge", "filled", "--db", filled, "--into", f"sqlite:///{tmp_path / 'new.db'}")
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"Error: --db {tmp_path / 'filled.db'}: has schema 0001, ")
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nobody", "--into", "sqlite:///x.db"], "NAME 'nobody': no such search in this database; there is filled"),
        (["filled"], "Missing option '--into'"),
        (["filled", "--into", "sqlite:///no/x.db"], "--into no/x.db: folder no does not exist; create it, or give"),
        (["filled", "--into", "mysql://x/y"], "--into mysql://x/y: 'mysql' is not supported; give --into sqlite:///"),
        (["filled", "--into", "sqlite:///x.db", "--as", "a b"], "'a b'"),
    ],
)  # fmt: skip
def test_bad_input_is_named(
    words: list[str], said: str, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names the option; exit code 2; nothing is made."""
    monkeypatch.chdir(tmp_path)
    result = netsieve("merge", *words, NETSIEVE_DB=filled)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "x.db").exists()


def test_a_log_is_told_how_far_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ten seconds a line, where there is no terminal for a bar."""
    now = [0.0]
    monkeypatch.setattr(transfer.time, "monotonic", lambda: now[0])
    with transfer._progress(30_000) as copied:
        for _ in range(25):
            now[0] += 1
            copied(1_000)
    assert capsys.readouterr().err == "copied 10,000 of 30,000 rows\ncopied 20,000 of 30,000 rows\n"


def test_a_terminal_shows_a_bar(filled: str, tmp_path: Path) -> None:
    """It reaches its end, and the counts of both sides follow."""
    terminal = Terminal()
    target = f"sqlite:///{tmp_path / 'target.db'}"
    assert terminal.run([NETSIEVE, "merge", "filled", "--db", filled, "--into", target]) == 0
    assert re.search(r"copying  \[#+\]  (\d+)/\1\n", terminal.text)
    assert re.search(r"candidate +(\d+) +\1\n", terminal.text)
