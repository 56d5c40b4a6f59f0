"""netsieve sample and netsieve space: draws, descriptions, and what a bad space file gets."""

import codecs
import csv
import io
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from search.layer_string import format_architecture
from search.samplers import RejectionSampler
from search.shapes import check
from search.space import CLASSIC, read_space

Cli = Callable[..., Result]

SAMPLE_KEYS = ["index", "layers", "valid", "reason", "layer"]
DROPOUT = '"dropout=p:0.2-"'
TINY = f"""name = "tiny"
input_shape = [1, 28, 28]
classes = 10
min_layers = 1
max_layers = 1
replacement = false
channels_within_side = true
layers = [{DROPOUT}]
"""


def drawn(result: Result) -> list[dict[str, object]]:
    """The records of an answer in jsonl."""
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


# ------------------------------------------------------------------ sample


@pytest.mark.parametrize(
    ("seed", "start", "count"), [(0, 0, 50), (7, 0, 3), (2**63 - 1, 12345, 5), (0, 2**63 - 11, 10)]
)
def test_sample_agrees_with_the_sampler(cli: Cli, seed: int, start: int, count: int) -> None:
    """Every draw is the sampler's at that index, with the checker's verdict."""
    records = drawn(cli("sample", "-n", count, "--seed", seed, "--start", start, "--format", "jsonl"))
    architectures = RejectionSampler(CLASSIC, seed).draw(start, start + count)
    verdicts = [check(architecture, CLASSIC.rules) for architecture in architectures]
    assert records == [
        dict(zip(SAMPLE_KEYS, (index, format_architecture(a), v.valid, v.reason, v.layer), strict=True))
        for index, (a, v) in enumerate(zip(architectures, verdicts, strict=True), start)
    ]
    assert all(list(record) == SAMPLE_KEYS for record in records)


def test_start_goes_on_where_another_sample_ended(cli: Cli) -> None:
    """--start INDEX gives the same rows as a sample from 0, also across the blocks it is drawn in."""
    whole = drawn(cli("sample", "-n", 1010, "--format", "jsonl"))
    assert drawn(cli("sample", "-n", 20, "--start", 990, "--format", "jsonl")) == whole[990:]
    assert [record["index"] for record in whole] == list(range(1010))


def test_sample_of_a_space_file(cli: Cli, place: Path) -> None:
    """--space draws from a file's space."""
    Path("tiny.toml").write_text(TINY, encoding="utf-8")
    records = drawn(cli("sample", "-n", 2, "--space", "tiny.toml", "--format", "jsonl"))
    assert [(record["layers"], record["valid"]) for record in records] == [("dropout=p:0.2-", True)] * 2


def test_sample_in_every_format(cli: Cli) -> None:
    """As JSON it is a list, csv has a header of the keys, the table one as well and a line a draw; ten by default."""
    as_list = json.loads(cli("sample", "--format", "json").stdout)
    assert as_list == drawn(cli("sample", "--format", "jsonl"))
    rows = list(csv.DictReader(io.StringIO(cli("sample", "--format", "csv").stdout)))
    assert [(row["index"], row["layers"]) for row in rows] == [(str(r["index"]), r["layers"]) for r in as_list]
    assert list(rows[0]) == SAMPLE_KEYS
    header, *table = cli("sample").stdout.splitlines()
    assert header.split() == ["index", "verdict", "layers"]
    assert len(table) == len(as_list) == 10
    for line, record in zip(table, as_list, strict=True):
        assert line.endswith(record["layers"])
        assert line.index(record["layers"]) == header.index("layers")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("-n", 0), "'-n'"),
        (("-n", "1e3"), "'-n'"),
        (("--start", -1), "'--start'"),
        (("--seed", -1), "'--seed'"),
        (("--seed", 2**63), "'--seed'"),
        (("--sampler", "best"), "'--sampler'"),
        (("--start", 2**63 - 1, "-n", 2), "--start 9223372036854775807 and -n 2"),
        (("--space", "classix"), "'--space'"),
    ],
)
def test_sample_refuses_what_is_out_of_range(cli: Cli, options: tuple[object, ...], named: str) -> None:
    """A count, index, seed, sampler or space that cannot be is refused by name."""
    result = cli("sample", *options)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert named in result.stderr


# ------------------------------------------------------------------ space show


def test_space_show_toml_is_a_space_file(cli: Cli, place: Path) -> None:
    """What --format toml prints reads back as the same space, and serves as --space."""
    toml = cli("space", "show", "--format", "toml").stdout
    assert read_space(toml) == CLASSIC
    Path("mine.toml").write_text(toml, encoding="utf-8")
    assert cli("space", "show", "mine.toml", "--format", "toml").stdout == toml
    assert cli("sample", "--space", "mine.toml").stdout == cli("sample").stdout


def test_space_show_json_holds_what_the_file_holds(cli: Cli) -> None:
    """--format json gives the same keys and values as the TOML, as one object."""
    answer = json.loads(cli("space", "show", "classic", "--format", "json").stdout)
    assert answer == tomllib.loads(cli("space", "show", "classic", "--format", "toml").stdout) == CLASSIC.as_dict()


def test_space_show_table(cli: Cli) -> None:
    """The table lists every key but the layers, and then the layers, counted from 0."""
    lines = cli("space", "show").stdout.splitlines()
    assert dict(line.split() for line in lines[: lines.index("")]) == {
        "key": "value",
        "name": "classic",
        "input_shape": "1x28x28",
        "classes": "10",
        "min_layers": "2",
        "max_layers": "10",
        "replacement": "no",
        "channels_within_side": "yes",
    }
    layers = [line.split() for line in lines[lines.index("") + 2 :]]
    assert layers == [[str(i), format_architecture((layer,))] for i, layer in enumerate(CLASSIC.layers)]


# ------------------------------------------------------------------ space files


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TINY.encode(), id="plain"),
        pytest.param(codecs.BOM_UTF8 + TINY.encode(), id="byte order mark"),
        pytest.param(TINY.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(b"# caf\xc3\xa9\n" + TINY.encode(), id="a comment that is not ASCII"),
    ],
)
def test_a_space_file_of_any_editor_is_read(cli: Cli, place: Path, content: bytes) -> None:
    """A byte order mark, Windows line ends and comments change nothing."""
    Path("tiny.toml").write_bytes(content)
    assert cli("space", "show", "tiny.toml", "--format", "toml").stdout == TINY.replace(
        f"[{DROPOUT}]", f"[\n    {DROPOUT},\n]"
    )


def changed(old: str, new: str) -> bytes:
    """The tiny space with one thing changed."""
    assert old in TINY
    return TINY.replace(old, new).encode()


BAD_FILES = {
    "empty": (b"", "key name is missing"),
    "binary": (b"\x00\x01\x02\xff\xfe" * 100, "not UTF-8"),
    "control characters": (b"\x00\x01\x02", "not TOML"),
    "UTF-16": (TINY.encode("utf-16"), "not UTF-8"),
    "too large": (b"#" * 1_000_001, "larger than 1,000,000 bytes"),
    "not TOML": (b"name: tiny\n", "not TOML"),
    "nested too deep": (b"name = " + b"[" * 100_000, "nested too deep"),
    "a key twice": (TINY.encode() + b"classes = 10\n", "not TOML: Cannot overwrite a value"),
    "unknown key": (changed("max_layers", "max_layer"), "unknown key 'max_layer' (did you mean max_layers?)"),
    "missing key": (changed("classes = 10\n", ""), "key classes is missing"),
    "a string for a number": (changed("classes = 10", 'classes = "10"'), "classes = '10': must be a whole number"),
    "a float for a number": (changed("classes = 10", "classes = 10.0"), "classes = '10.0': must be a whole number"),
    "true for a number": (changed("classes = 10", "classes = true"), "classes = 'True': must be a whole number"),
    "a word for true": (changed("= false", '= "no"'), "replacement = 'no': must be true or false"),
    "a number for a name": (changed('"tiny"', "7"), "name = '7': must be a string"),
    "a bad name": (changed('"tiny"', '"a/b"'), "name = 'a/b': a space's name has 1 to 64"),
    "two sides": (changed("[1, 28, 28]", "[28, 28]"), "three whole numbers [channels, height, width]"),
    "a side of 0": (changed("[1, 28, 28]", "[1, 0, 28]"), "input_shape = 0: must be from 1"),
    "no classes": (changed("classes = 10", "classes = 0"), "classes = 0: must be from 1"),
    "min above max": (changed("min_layers = 1", "min_layers = 2"), "max_layers = 1: must be from 2"),
    "more than there are": (changed("max_layers = 1", "max_layers = 2"), "only 1 layers to draw from"),
    "no layers": (changed(DROPOUT, ""), "number of layers = 0: must be from 1"),
    "a layer twice": (changed(DROPOUT, f"{DROPOUT}, {DROPOUT}"), "dropout=p:0.2- stands twice"),
    "a malformed layer": (changed(DROPOUT, '"dropout=q:1-"'), "layers, entry 0 (counted from 0): malformed"),
    "two layers in one": (changed(DROPOUT, '"dropout=p:0.2-dropout=p:0.4-"'), "2 layers in one entry"),
    "a layer that is no string": (changed(DROPOUT, "3"), "'3' must be a string in quotes"),
    "a negative budget": (TINY.encode() + b"max_macs = -1\n", "max_macs = -1: must be from 1"),
    "infinity": (changed("classes = 10", "classes = inf"), "classes = 'inf': must be a whole number"),
    "a huge number": (changed("classes = 10", f"classes = {'9' * 5000}"), "not TOML"),
    "an escape sequence": (TINY.encode() + b'"\\u001b[31m" = 1\n', r"unknown key '\x1b[31m'"),
}


@pytest.mark.parametrize(("content", "told"), BAD_FILES.values(), ids=BAD_FILES)
@pytest.mark.parametrize("command", [("space", "show"), ("sample", "--space")], ids=" ".join)
def test_a_bad_space_file_is_refused(
    cli: Cli, place: Path, command: tuple[str, ...], content: bytes, told: str
) -> None:
    """One line names the option, the file and what is wrong with it; exit code 2."""
    Path("bad.toml").write_bytes(content)
    result = cli(*command, "bad.toml")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert f"'{'--space' if command[0] == 'sample' else '[SPACE]'}'" in result.stderr
    assert f"bad.toml: {told}" in result.stderr or told in result.stderr.partition("bad.toml: ")[2]
    assert len(result.stderr) < 600


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing.toml", "missing.toml: cannot be read: No such file or directory"),
        ("folder.toml", "folder.toml: cannot be read: Is a directory"),
        (".", ".: cannot be read: Is a directory"),
        ("clasic", "'clasic' is neither a preset (classic) nor a file"),
        ("", "'' is neither a preset"),
        ("x" * 5000, "is neither a preset"),
        ("x" * 5000 + ".toml", "cannot be read: File name too long"),
    ],
)
def test_a_space_that_is_no_file_is_refused(cli: Cli, place: Path, name: str, told: str) -> None:
    """A file that is missing, a folder, or a name that is neither preset nor file is named; exit code 2."""
    Path("folder.toml").mkdir()
    result = cli("sample", "--space", name)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "'--space'" in result.stderr
    assert told in result.stderr


def test_run_refuses_a_space_in_which_nothing_is_valid(cli: Cli, place: Path) -> None:
    """A run proves that no string can be built, says for which reasons, and writes nothing."""
    Path("none.toml").write_bytes(changed(DROPOUT, '"maxpool=kernel_size:64,stride:2,padding:0-"'))
    result = cli("run", "first", "--dataset", "digits", "--workers", 0, "--space", "none.toml")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "kernel_exceeds_input 1 times" in result.stderr
    assert "--space" in result.stderr
    assert "tiny" in result.stderr
    assert [path.name for path in place.iterdir()] == ["none.toml"]
