"""The version of the training: a search keeps the one that it was created with, whatever is made of it."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from search.cli import options
from search.settings import TRAINING_VERSION
from workers import training
from workers.networks import build

Cli = Callable[..., Result]

RUN = ("--dataset", "digits", "--workers", 0, "--epochs", 1, "--train-images", 500)
LISTED = [
    "conv=channel_factor:2,kernel_size:3,stride:1,padding:0-",
    "conv=channel_factor:3,kernel_size:3,stride:1,padding:0-",
]


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """By which version each network is built from now on."""
    built = []

    def noted(*arguments: Any) -> Any:
        built.append(arguments[-1])
        return build(*arguments)

    monkeypatch.setattr(training, "build", noted)
    return built


@pytest.fixture
def earlier(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a search as a netsieve from before there were versions did."""

    def run(*words: object) -> None:
        with monkeypatch.context() as then:
            then.setattr(options, "TRAINING_VERSION", 1)
            done(cli, "run", *words, *RUN)
        with closing(sqlite3.connect(place / "netsieve.db")) as connection:
            assert "training_version" not in connection.execute("SELECT settings FROM search").fetchone()[0]

    return run


@pytest.fixture
def old(earlier: Callable[..., None]) -> None:
    """The search ``old`` of version 1, with one candidate completed."""
    earlier("old", "--max-completed", 1)


def done(cli: Cli, *words: object) -> str:
    """What a command printed that had no error."""
    result = cli(*words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def completed(cli: Cli, search: str) -> int:
    """The index of a search's first completed candidate."""
    rows = json.loads(done(cli, "candidates", search, "--where", "status=completed", "--format", "json"))
    return int(rows[0]["index"])


# ------------------------------------------------------------------ what is made of an older search


@pytest.mark.parametrize("command", [("resume", "old", "--workers", 0), ("run", "old", "--workers", 0, *RUN)])
def test_an_older_search_goes_on_as_it_was(
    cli: Cli, old: None, versions: list[int], command: tuple[object, ...]
) -> None:
    """A search from before there were versions is of the first, also where it is extended."""
    done(cli, *command, "--max-completed", 2, "--candidates", 2_000)
    assert versions == [1]


def test_a_candidate_of_it_is_trained_again_as_it_was(cli: Cli, old: None, versions: list[int]) -> None:
    """To the last bit."""
    answer = json.loads(done(cli, "retrain", "old", completed(cli, "old"), "--format", "json"))
    assert answer["agreement"] == "bit_equal"
    assert answer["settings"]["training_version"] == 1
    assert versions == [1]


def test_a_list_of_an_older_search_is_extended_as_it_was(
    cli: Cli, earlier: Callable[..., None], versions: list[int]
) -> None:
    """What is added to its strings is trained as those were."""
    Path("strings.txt").write_text(LISTED[0])
    earlier("listed", "--strings", "strings.txt")
    Path("strings.txt").write_text("\n".join(LISTED))
    done(cli, "run", "listed", "--strings", "strings.txt", *RUN)
    assert versions == [1, 1]


def test_a_copy_of_an_older_search_goes_on_as_it_was(cli: Cli, old: None, versions: list[int]) -> None:
    """A merge changes nothing."""
    done(cli, "merge", "old", "--into", "sqlite:///other.db", "--as", "copy")
    done(cli, "resume", "copy", "--db", "sqlite:///other.db", "--workers", 0, "--max-completed", 2)
    assert versions == [1]


def test_an_older_search_is_confirmed_as_it_was(cli: Cli, old: None, versions: list[int]) -> None:
    """Only the seed is another one; and the confirming search is retrained as itself."""
    done(cli, "confirm", "old", "--top", 1, "--seeds", 2, "--workers", 0)
    done(cli, "retrain", "old.confirm-2", completed(cli, "old.confirm-2"))
    assert versions == [1, 1, 1]


def test_the_costs_of_an_older_search_are_measured_as_it_is_trained(cli: Cli, old: None, versions: list[int]) -> None:
    """Of what a dry run times, too."""
    done(cli, "resume", "old", "--dry-run")
    assert set(versions) == {1}


# ------------------------------------------------------------------ new searches, and later versions


def test_a_new_search_is_trained_by_the_latest_version(cli: Cli, versions: list[int]) -> None:
    """So is what confirms it, and a list; the version is stored, and shown by retrain."""
    Path("strings.txt").write_text(LISTED[0])
    done(cli, "run", "new", "--strings", "strings.txt", *RUN)
    done(cli, "confirm", "new", "--top", 1, "--seeds", 1, "--workers", 0)
    answer = json.loads(done(cli, "retrain", "new", completed(cli, "new"), "--format", "json"))
    assert answer["settings"]["training_version"] == TRAINING_VERSION
    assert versions == [TRAINING_VERSION] * 3


@pytest.mark.parametrize("command", ["run", "resume", "retrain", "confirm"])
def test_a_later_version_is_refused(cli: Cli, copied: Path, command: str) -> None:
    """What this netsieve cannot compute it does not mix in."""
    with closing(sqlite3.connect(copied)) as connection, connection:
        connection.execute("UPDATE search SET settings = json_set(settings, '$.training_version', 99)")
    result = cli(command, "first", *([completed(cli, "first")] if command == "retrain" else []))
    assert result.exit_code == 2
    assert "search first is trained by version 99 of the training" in result.stderr
    assert "update netsieve" in result.stderr


def test_seeds_that_were_trained_by_another_version_confirm_nothing(cli: Cli, old: None, versions: list[int]) -> None:
    """Where an earlier netsieve began to confirm by its own version; nothing is trained, and a way out is named."""
    done(cli, "confirm", "old", "--top", 1, "--seeds", 2, "--workers", 0)
    with closing(sqlite3.connect("netsieve.db")) as connection, connection:
        connection.execute(
            "UPDATE search SET settings = json_set(settings, '$.training_version', 2) WHERE name = 'old.confirm-2'"
        )
    versions.clear()
    result = cli("confirm", "old", "--top", 1, "--seeds", 3, "--workers", 0)
    assert (result.exit_code, result.stdout, versions) == (2, "", [])
    assert result.stderr == (
        "Error: NAME old: search old.confirm-2 was trained by version 2 of the training, old is trained by version 1; "
        "delete it (netsieve delete old.confirm-2) and confirm again\n"
    )
