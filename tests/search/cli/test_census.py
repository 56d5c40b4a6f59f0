"""run --sampler census, --lengths, --census-all: valid strings only, each once, to the end of the space."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from search.layer_string import format_architecture
from search.samplers import CensusSampler
from search.space import CLASSIC, read_space

Cli = Callable[..., Result]

# Of its 16 strings some are rejected: behind the first conv or the pool, little fits.
SPACE = """name = "tiny"
input_shape = [1, 8, 8]
classes = 10
min_layers = 1
max_layers = 2
replacement = false
channels_within_side = true
layers = [
    "conv=channel_factor:2,kernel_size:7,stride:1,padding:0-", "maxpool=kernel_size:4,stride:4,padding:0-",
    "dropout=p:0.5-", "conv=channel_factor:1,kernel_size:3,stride:1,padding:0-",
]
"""
RUN = ("--dataset", "tiny.npz", "--workers", 0, "--epochs", 1, "--batch-size", 2)


@pytest.fixture
def tiny(place: Path) -> None:
    """A small space and images of its shape, in the folder to run in."""
    import numpy as np

    Path("tiny.toml").write_text(SPACE, encoding="utf-8")
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    np.savez("tiny.npz", images=images, labels=np.arange(30) % 10)


def rows(cli: Cli, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cli("candidates", name, "--format", "json").stdout)
    return found


def status(cli: Cli, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("status", name, "--format", "json").stdout)
    return found


def valid_strings() -> list[str]:
    """Every valid string of the tiny space, by brute force."""
    import itertools

    from search.shapes import check

    space = read_space(SPACE)
    strings = (s for n in (1, 2) for s in itertools.permutations(space.layers, n))
    return sorted(format_architecture(string) for string in strings if check(string, space.rules).valid)


@pytest.mark.usefixtures("tiny")
def test_census_all_trains_every_valid_string_once_and_ends(cli: Cli) -> None:
    """A whole small space, against brute force: nothing rejected, nothing repeated, nothing left."""
    result = cli("run", "all", "--space", "tiny.toml", "--census-all", *RUN)
    assert result.exit_code == 0, result.stderr
    assert sorted(row["layers"] for row in rows(cli, "all")) == valid_strings()
    found = status(cli, "all")
    count = len(valid_strings())
    assert 4 < count < 16
    assert [found[key] for key in ("state", "target", "drawn", "distinct", "repeats", "rejected", "completed")] == [
        "finished", count, count, count, 0, 0, count,
    ]  # fmt: skip
    assert cli("db", "check").exit_code == 0
    again = cli("run", "all", "--census-all", "--workers", 0)
    assert (again.exit_code, len(rows(cli, "all"))) == (0, count)


@pytest.mark.usefixtures("tiny")
def test_a_part_of_the_census_is_extended_to_all_of_it(cli: Cli) -> None:
    """First three, then the rest by resume: the same strings in the same order as at once."""
    assert cli("run", "part", "--space", "tiny.toml", "--sampler", "census", "--candidates", 3, *RUN).exit_code == 0
    sampler = CensusSampler(read_space(SPACE), 0)
    strings = [format_architecture(a) for a in sampler.draw(0, sampler.size)]
    assert [row["layers"] for row in rows(cli, "part")] == strings[:3]
    assert cli("resume", "part", "--census-all", "--workers", 0).exit_code == 0
    assert [(row["index"], row["layers"]) for row in rows(cli, "part")] == list(enumerate(strings))


@pytest.mark.usefixtures("tiny")
def test_more_candidates_than_the_census_has(cli: Cli) -> None:
    """The census ends the search, and says so: also with the default of a thousand."""
    result = cli("run", "capped", "--space", "tiny.toml", "--sampler", "census", "--lengths", "1", *RUN)
    assert result.exit_code == 0
    assert "the census has 4 architectures, and ends the search" in result.stderr
    assert "--candidates" not in result.stderr
    assert status(cli, "capped")["state"] == "finished"
    assert len(rows(cli, "capped")) == 4
    assert cli("show", "capped", 4).exit_code == 2


@pytest.mark.usefixtures("tiny")
def test_lengths_are_a_setting_of_the_search(cli: Cli) -> None:
    """They come with it when it goes on; other ones are refused with both."""
    words = ("--space", "tiny.toml", "--sampler", "census", "--lengths", "2-2", "--candidates", 2, *RUN)
    assert cli("run", "two", *words).exit_code == 0
    assert all(row["layers"].count("=") == 2 for row in rows(cli, "two"))
    assert cli("run", "two", "--lengths", "2", "--workers", 0).exit_code == 0
    refused = cli("run", "two", "--lengths", "1-2", "--workers", 0)
    assert (refused.exit_code, "lengths: stored 2-2, given 1-2" in refused.stderr) == (2, True)
    cli("run", "draws", "--space", "tiny.toml", "--candidates", 1, *RUN)
    refused = cli("resume", "draws", "--census-all", "--workers", 0)
    assert (refused.exit_code, "sampler: stored rejection, given census" in refused.stderr) == (2, True)


@pytest.mark.usefixtures("tiny")
def test_all_lengths_are_those_of_the_space(cli: Cli) -> None:
    """Named or not, they are the same census; other ones are refused with those of the space."""
    words = ("--space", "tiny.toml", "--sampler", "census", "--candidates", 2, *RUN)
    assert cli("run", "whole", *words).exit_code == 0
    assert cli("resume", "whole", "--lengths", "1-2", "--candidates", 3, "--workers", 0).exit_code == 0
    assert status(cli, "whole")["drawn"] == 3
    refused = cli("resume", "whole", "--lengths", "2", "--workers", 0)
    assert (refused.exit_code, "lengths: stored 1-2, given 2-2" in refused.stderr) == (2, True)
    assert cli("run", "draws", "--space", "tiny.toml", "--candidates", 1, *RUN).exit_code == 0
    refused = cli("resume", "draws", "--lengths", "1-2", "--workers", 0)
    assert (refused.exit_code, "lengths: stored none, given 1-2" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--lengths", "2-3"), "--lengths belongs to --sampler census"),
        (("--lengths", "2-3", "--strings", "list.txt"), "--lengths belongs to --sampler census"),
        (("--lengths", "3-2", "--sampler", "census"), "'3-2' is no range of lengths"),
        (("--lengths", "a", "--sampler", "census"), "'a' is no range of lengths"),
        (("--lengths", "0-2", "--sampler", "census"), "'0-2' is no range of lengths"),
        (("--lengths", "1-2", "--sampler", "census"), "space classic has strings of 2 to 10 layers"),
        (("--lengths", "9-11", "--census-all"), "space classic has strings of 2 to 10 layers"),
        (("--census-all", "--sampler", "rejection"), "the census is a sampler of its own"),
        (("--census-all", "--candidates", 9), "all are searched; drop one"),
        (("--census-all", "--strings", "list.txt"), "--strings --census-all: a list is searched in its order"),
        (("--census-all", "--space", "budget.toml"), "the census counts shapes, not budgets"),
        (("--census-all", "--lengths", "2", "--space", "none.toml"), "has no valid string of 2 to 2 layers"),
    ],
)
def test_what_the_census_cannot_do(cli: Cli, words: tuple[object, ...], says: str) -> None:
    """One clear line, exit code 2, and nothing is written."""
    Path("list.txt").write_text("dropout=p:0.5-", encoding="utf-8")
    budget = SPACE.replace("layers = [", "max_parameters = 1000\nlayers = [").replace("8, 8", "28, 28")
    Path("budget.toml").write_text(budget, encoding="utf-8")
    other = SPACE.index('"dropout')  # of the conv and the pool, neither fits behind the other
    none = SPACE[:other].replace("kernel_size:4,stride:4", "kernel_size:5,stride:5") + "]\n"
    Path("none.toml").write_text(none, encoding="utf-8")
    result = cli("run", "wrong", "--dataset", "digits", "--workers", 0, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert not Path("netsieve.db").exists()


def test_sample_draws_from_the_census(cli: Cli) -> None:
    """As a search would; beyond its end is bad usage."""
    result = cli("sample", "-n", 5, "--start", 100, "--sampler", "census", "--seed", 3, "--format", "jsonl")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    drawn = CensusSampler(CLASSIC, 3).draw(100, 105)
    assert [record["layers"] for record in records] == [format_architecture(a) for a in drawn]
    assert all(record["valid"] for record in records)
    beyond = cli("sample", "-n", 3, "--start", 116, "--sampler", "census", "--lengths", 2)
    assert (beyond.exit_code, "the census has 118 architectures; lower -n or --start" in beyond.stderr) == (2, True)
    assert "--lengths belongs to --sampler census" in cli("sample", "--lengths", 2).stderr


# ------------------------------------------------------------------ space count


def test_space_count_is_a_contract(cli: Cli) -> None:
    """The keys of the design, and its numbers."""
    found = json.loads(cli("space", "count", "--format", "json").stdout)
    assert list(found) == ["drawable", "valid", "rejected", "by_length"]
    assert (found["drawable"], found["valid"]) == (4_499_721_590, 140_708_079)
    assert found["drawable"] == found["valid"] + sum(found["rejected"].values())
    assert [list(length) for length in found["by_length"]] == [["layers", "drawable", "valid", "rejected"]] * 9
    for key in ("drawable", "valid"):
        assert sum(length[key] for length in found["by_length"]) == found[key]


def test_space_count_for_people_and_as_csv(cli: Cli) -> None:
    """A row a length, and their sum; csv leaves the sum to its reader."""
    table = cli("space", "count").stdout.splitlines()
    assert table[0].split()[:4] == ["layers", "drawable", "valid", "channels_exceed_side"]
    assert table[-1].split()[:3] == ["all", "4,499,721,590", "140,708,079"]
    lines = cli("space", "count", "classic", "--format", "csv").stdout.splitlines()
    assert (len(lines), lines[1]) == (10, "2,182,118,0,64,0")


def test_space_count_of_a_file(cli: Cli) -> None:
    """And of one that cannot be counted: why, exit code 2."""
    Path("tiny.toml").write_text(SPACE, encoding="utf-8")
    assert json.loads(cli("space", "count", "tiny.toml", "--format", "json").stdout)["valid"] == len(valid_strings())
    Path("budget.toml").write_text(SPACE.replace("layers = [", "max_macs = 5\nlayers = ["), encoding="utf-8")
    refused = cli("space", "count", "budget.toml")
    assert (refused.exit_code, "has max_macs: the census counts shapes, not budgets" in refused.stderr) == (2, True)


@pytest.mark.parametrize("style", ["json", "csv", "table"])
def test_space_count_says_what_it_can(cli: Cli, style: str) -> None:
    """Of a space whose longest strings cannot be counted: the others exactly, and of these how many can be drawn."""
    layers = '"conv=channel_factor:10,kernel_size:1,stride:1,padding:0", "dropout=p:0.5"'
    wide = SPACE[: SPACE.index("layers = [")] + f"layers = [{layers}]\n"
    for old, new in (("replacement = false", "replacement = true"), ("side = true", "side = false"), ("= 2", "= 60")):
        wide = wide.replace(old, new)
    Path("wide.toml").write_text(wide, encoding="utf-8")
    result = cli("space", "count", "wide.toml", "--format", style)
    assert result.exit_code == 0
    assert "--" not in result.stderr  # what can be done is done
    assert "strings of more than 4 layers are not counted: space tiny may hold strings" in result.stderr
    if style == "json":
        found = json.loads(result.stdout)
        assert (found["drawable"], found["valid"], found["rejected"]) == (2**61 - 2, None, None)
        assert found["by_length"][3] == {"layers": 4, "drawable": 16, "valid": 16, "rejected": {}}
        assert found["by_length"][4] == {"layers": 5, "drawable": 32, "valid": None, "rejected": None}
        assert len(found["by_length"]) == 60
    elif style == "csv":
        assert result.stdout.splitlines()[3:6] == ["3,8,8", "4,16,16", "5,32,"]
    else:
        assert [line.split() for line in result.stdout.splitlines()[4:6]] == [["4", "16", "16"], ["5", "32", "-"]]
        assert result.stdout.splitlines()[-1].split() == ["all", f"{2**61 - 2:,}", "-"]


def test_space_count_of_some_lengths(cli: Cli) -> None:
    """As of all; of those that cannot be counted, what can be done instead, if anything."""
    all_lengths, some = (
        json.loads(cli("space", "count", "--format", "json", *words).stdout) for words in ((), ("--lengths", "3-4"))
    )
    assert some["by_length"] == all_lengths["by_length"][1:3]
    assert some["valid"] == 1_202 + 10_917
    refused = cli("space", "count", "--lengths", "1-4")
    assert (refused.exit_code, "space classic has strings of 2 to 10 layers" in refused.stderr) == (2, True)
    layers = '"conv=channel_factor:1000,kernel_size:1,stride:1,padding:0"'
    wide = SPACE[: SPACE.index("layers = [")] + f"layers = [{layers}]\n"
    for old, new in (("replacement = false", "replacement = true"), ("side = true", "side = false"), ("= 2", "= 9")):
        wide = wide.replace(old, new)
    Path("wide.toml").write_text(wide, encoding="utf-8")
    refused = cli("space", "count", "wide.toml", "--lengths", "8-9")
    assert (refused.exit_code, "not budgets; take shorter --lengths\n" in refused.stderr) == (2, True)
    Path("one.toml").write_text(wide.replace("min_layers = 1", "min_layers = 9"), encoding="utf-8")
    for words in ((), ("--lengths", 9)):
        refused = cli("space", "count", "one.toml", *words)
        assert (refused.exit_code, "not budgets; netsieve sample draws some of it" in refused.stderr) == (2, True)


def test_short_lengths_of_a_space_too_large_to_be_numbered(cli: Cli) -> None:
    """They are drawn, as `run` draws them; all lengths are refused, with what to do instead."""
    free = SPACE.replace("replacement = false", "replacement = true").replace("max_layers = 2", "max_layers = 1000")
    Path("free.toml").write_text(free, encoding="utf-8")
    result = cli(
        "sample", "-n", 5, "--sampler", "census", "--space", "free.toml", "--lengths", "2", "--format", "jsonl"
    )
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 5)
    assert cli("space", "count", "free.toml").exit_code == 0
    many = free.replace("layers = [", 'layers = ["batchnorm=eps:0.1-", "dropout=p:0.25-",')
    Path("many.toml").write_text(many, encoding="utf-8")
    refused = cli("run", "no", "--census-all", "--space", "many.toml", "--workers", 0)
    assert (
        refused.exit_code,
        "too many to be numbered; take shorter --lengths (up to " in refused.stderr,
    ) == (2, True)
