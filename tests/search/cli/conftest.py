"""What the tests of the command line share: a runner, an empty folder to run in, and one database to read."""

import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from search.cli import main

Cli = Callable[..., Result]

ENVIRONMENT = {"NETSIEVE_DB": None, "NETSIEVE_DATA_DIR": None, "RAY_ADDRESS": None}  # None: not set


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run netsieve in this process; an error that it does not expect is raised here."""

    def invoke(*words: object, stdin: str | bytes | None = None, **environment: str) -> Result:
        runner = CliRunner(env=ENVIRONMENT | environment)
        words = tuple(map(str, words))
        return runner.invoke(main, words, input=stdin, catch_exceptions=False, color=True)  # escapes stay, as on a tty

    return invoke


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in, where Ray cannot be imported."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    for module in ("ray", "workers.ray_cluster", "workers.ray_executor"):
        monkeypatch.setitem(sys.modules, module, None)
    return place


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    """A database to read only: ``first`` is finished (60 draws), ``second`` stopped after 400 draws."""
    path = tmp_path_factory.mktemp("searched") / "results.db"
    run = ("run", "--db", f"sqlite:///{path}", "--dataset", "digits", "--workers", 0, "--epochs", 1)
    for search in (("first", "--candidates", 60), ("second", "--candidates", 400, "--max-completed", 2)):
        result = cli(*run, *search)
        assert result.exit_code == 0, result.stderr
    with closing(sqlite3.connect(path)) as connection:  # so that the file alone can be copied
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture
def copied(searched: Path, place: Path) -> Path:
    """A copy of the database, ``netsieve.db`` in the folder to run in: the default of --db."""
    return shutil.copy(searched, place / "netsieve.db")
