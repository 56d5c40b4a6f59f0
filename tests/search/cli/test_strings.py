"""run --strings: a given list is searched with the same sieve, ledger and resume as draws are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Cli = Callable[..., Result]

CONV = "conv=channel_factor:{},kernel_size:3,stride:1,padding:0-"
GOOD, DROP, NORM, BAD = CONV.format(3), "dropout=p:0.2-", "batchnorm=eps:0.1-", CONV.format("0.4")
RUN = ("--dataset", "digits", "--workers", 0, "--epochs", 1)


@pytest.fixture
def search(cli: Cli, place: Path) -> Callable[..., Result]:
    """Run a search of the lines of a file, in the folder's database."""

    def run(name: str, lines: list[str], *words: object) -> Result:
        Path("strings.txt").write_text("\n".join(lines), encoding="utf-8")
        return cli("run", name, "--strings", "strings.txt", *RUN, *words)

    return run


def rows(cli: Cli, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cli("candidates", name, "--format", "json").stdout)
    return found


def test_a_list_is_sieved_trained_and_recorded(cli: Cli, search: Callable[..., Result]) -> None:
    """In its order: rejections with a reason, repeats once, canonical strings, comments and empty lines skipped."""
    assert search("listed", ["# mine", GOOD, "", BAD, "dropout=p:0.20", DROP]).exit_code == 0
    found = rows(cli, "listed")
    assert [(row["index"], row["layers"], row["status"]) for row in found] == [
        (0, GOOD, "completed"), (1, BAD, "rejected"), (2, DROP, "completed"),
    ]  # fmt: skip
    status = json.loads(cli("status", "listed", "--format", "json").stdout)
    assert (status["state"], status["target"], status["drawn"], status["repeats"]) == ("finished", 4, 4, 1)
    assert cli("db", "check").exit_code == 0
    assert cli("show", "listed", 3).stdout.startswith("index 3 drew the architecture of index 2 again")


def test_a_listed_string_is_trained_as_a_drawn_one(cli: Cli, search: Callable[..., Result]) -> None:
    """The result depends on the seed, the string and the recipe, not on where the string came from."""
    cli("run", "drawn", *RUN, "--candidates", 40)
    best = json.loads(cli("top", "drawn", "-n", 3, "--format", "json").stdout)
    search("listed", [row["layers"] for row in best])
    again = {row["layers"]: row for row in rows(cli, "listed")}
    for row in best:
        assert again[row["layers"]]["val_loss"] == row["val_loss"]


@pytest.mark.parametrize("style", ["jsonl", "csv"])
def test_what_netsieve_prints_can_be_searched(cli: Cli, search: Callable[..., Result], style: str) -> None:
    """The top of one search is the list of another."""
    search("first", [GOOD, DROP])
    printed = cli("top", "first", "--format", style).stdout
    assert search("second", printed.splitlines()).exit_code == 0
    assert {row["layers"] for row in rows(cli, "second")} == {GOOD, DROP}


def test_an_interrupted_list_goes_on_without_its_file(cli: Cli, search: Callable[..., Result]) -> None:
    """The strings are in the database."""
    assert search("listed", [GOOD, DROP, NORM], "--max-completed", 1).exit_code == 0
    Path("strings.txt").unlink()
    assert cli("resume", "listed", "--workers", 0).exit_code == 0
    assert [row["status"] for row in rows(cli, "listed")] == ["completed"] * 3


def test_a_list_can_be_extended_and_not_changed(cli: Cli, search: Callable[..., Result]) -> None:
    """At its end; a part of it goes on with all of it; another string is refused, with both."""
    search("listed", [GOOD])
    assert search("listed", [GOOD, DROP]).exit_code == 0
    assert search("listed", [GOOD]).exit_code == 0
    assert len(rows(cli, "listed")) == 2
    refused = search("listed", [GOOD, NORM, DROP])
    assert refused.exit_code == 2
    assert f"string 2 is '{NORM}', the search listed has '{DROP}'" in refused.stderr
    assert len(rows(cli, "listed")) == 2


def test_candidates_caps_a_list(cli: Cli, search: Callable[..., Result]) -> None:
    """Fewer are drawn first; more than there are is said, and is all of them."""
    assert search("listed", [GOOD, DROP, NORM], "--candidates", 1).exit_code == 0
    assert [row["layers"] for row in rows(cli, "listed")] == [GOOD]
    result = cli("run", "listed", "--workers", 0, "--candidates", 9)
    assert "the list has 3 strings" in result.stderr
    assert len(rows(cli, "listed")) == 3


def test_a_search_that_draws_takes_no_list(cli: Cli, search: Callable[..., Result]) -> None:
    """And a list no other sampler."""
    cli("run", "drawn", *RUN, "--candidates", 1)
    assert "sampler: stored rejection, given listed" in search("drawn", [GOOD]).stderr
    assert "a list is searched in its order" in search("listed", [GOOD], "--sampler", "rejection").stderr


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([GOOD, "", "conv=3-"], "strings.txt, line 3: malformed layer string: at position 5"),
        ([], "holds no layer string"),
        (["# nothing"], "holds no layer string"),
        (['{"layers": 3}'], "line 1: has no key 'layers'"),
        (["{broken"], "line 1: '{broken' is neither a layer string nor JSON"),
        (["index,layers", "0,"], "line 2: malformed layer string"),
        (["index,layers", "0"], "line 2: malformed layer string"),
        (["a" * 200_000], "line 1: malformed layer string"),
        (["index,layers", "a" * 2_000_000], "line 2: is longer than 1,048,576 characters"),
        (['{"a":' + "[" * 100_000], "is neither a layer string nor JSON"),
    ],
)
def test_a_bad_list_names_its_line(cli: Cli, search: Callable[..., Result], lines: list[str], says: str) -> None:
    """Nothing is written."""
    result = search("listed", lines)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert not Path("netsieve.db").exists()


def test_a_file_that_cannot_be_read_is_named(cli: Cli, place: Path) -> None:
    """Missing, a folder, not text, or without an end."""
    (place / "bytes").write_bytes(b"\xff\xfe\x00")
    for path, says in (
        ("none.txt", "No such file"),
        (str(place), "directory"),
        ("bytes", "not UTF-8 text"),
        ("/dev/zero", "line 1: is longer"),
    ):
        result = cli("run", "listed", "--strings", path)
        assert result.exit_code == 2
        assert says in result.stderr


def test_what_another_run_has_added_is_drawn_too(cli: Cli, search: Callable[..., Result], place: Path) -> None:
    """Who works on a list reads it again when it is drawn from beyond its end."""
    from search.cli.launch import _judge
    from search.settings import Recipe, SearchSettings
    from search.space import CLASSIC

    search("listed", [GOOD, DROP, NORM])
    settings = SearchSettings(CLASSIC, "listed", 1, 0, "digits", "", Recipe(), "cpu")
    judge = _judge("sqlite:///netsieve.db", 1, settings, (GOOD,))
    assert [drawn.layers for drawn in judge(0, 1)] == [GOOD]
    assert [drawn.layers for drawn in judge(1, 3)] == [DROP, NORM]


def test_a_title_over_plain_strings_is_no_string(cli: Cli, search: Callable[..., Result]) -> None:
    """With the strings in quotes or not: their commas part no columns."""
    assert search("listed", ["layers", GOOD, f'"{DROP}"']).exit_code == 0
    assert [row["layers"] for row in rows(cli, "listed")] == [GOOD, DROP]
